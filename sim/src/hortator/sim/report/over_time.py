"""Balance and waiting requests over the run, one line per policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hortator.sim.report import words
from hortator.sim.report.axes import top_of
from hortator.sim.report.data import PolicyRun
from hortator.sim.report.figure import Figure
from hortator.sim.report.lines import Axis, Chart, Line, chart

Series = Callable[[PolicyRun], Sequence[float]]


def balance(runs: Sequence[PolicyRun], run_s: float) -> Figure:
    """Mean over fullest rank, of the passes that start in each bin."""
    bin_s = run_s / len(runs[0].balance)
    return chart(
        Chart(
            name="balance",
            title="Balance of the ranks over time",
            caption=(
                "Prefill tokens of the mean rank over those of the fullest, mean of the passes in each "
                f"{words.duration(bin_s)}. 100 % is no bubble."
            ),
            x=_time_axis(run_s),
            y=Axis(label="balance, mean / fullest rank (%)", low=0, high=100, text=words.compact),
            lines=_lines(runs, run_s, lambda run: [100 * value for value in run.balance], "balance", "%"),
            height=270,
        )
    )


def waiting(runs: Sequence[PolicyRun], run_s: float) -> tuple[Figure, Figure]:
    """Requests that wait in the scheduler and in the engines, on the same scale."""
    bin_s = run_s / len(runs[0].waiting)
    high = top_of([value for run in runs for value in (*run.waiting, *run.queued)])

    def figure(name: str, title: str, values: Series) -> Figure:
        return chart(
            Chart(
                name=name,
                title=title,
                caption=f"Mean number in each {words.duration(bin_s)}.",
                x=_time_axis(run_s, wanted=5),
                y=Axis(label="requests", low=0, high=high, text=words.compact),
                lines=_lines(runs, run_s, values, "waiting", "requests"),
                width=566,
                height=270,
            )
        )

    return (
        figure("waiting-scheduler", "Requests held by the scheduler", lambda run: run.waiting),
        figure("waiting-engines", "Requests queued in the engines", lambda run: run.queued),
    )


def _time_axis(run_s: float, *, wanted: int = 10) -> Axis:
    unit_s, unit = _unit(run_s)
    return Axis(
        label=f"virtual time ({unit})",
        low=0.0,
        high=run_s / unit_s,
        text=lambda value: f"{value:,.6g}",
        wanted=wanted,
    )


def _unit(run_s: float) -> tuple[float, str]:
    for unit_s, unit in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if run_s >= 3 * unit_s:
            return unit_s, unit
    return 1.0, "s"


def _lines(runs: Sequence[PolicyRun], run_s: float, values: Series, what: str, unit: str) -> list[Line]:
    unit_s, _ = _unit(run_s)
    lines = []
    for run in runs:
        series = values(run)
        step = run_s / len(series) / unit_s
        seen = [value for value in series if value == value]  # noqa: PLR0124  # NaN is not itself
        mean = f"{sum(seen) / len(seen):.3g} {unit}" if seen else "–"
        lines.append(
            Line(
                name=run.policy,
                text=f"{run.policy}\nmean {what} {mean}",
                points=[((index + 0.5) * step, value) for index, value in enumerate(series)],
            )
        )
    return lines
