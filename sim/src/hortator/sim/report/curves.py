"""The other figures: distribution, where waiting happens, balance and queue over time, loads compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hortator.sim.report.runs import NUM_QUANTILES, PolicyRun
from hortator.sim.report.svg import (
    Frame,
    Scale,
    log_ticks,
    picture,
    polyline,
    round_ticks,
    seconds,
    tag,
    text,
    title,
)

LEGEND_WIDTH = 200.0
WAITS = ("held by the scheduler", "queued in the engine", "in passes until the first token")
OPACITIES = (0.35, 0.65, 1.0)
BAR = 26.0

Colours = Mapping[str, str]
"""By policy."""


def ttft_distribution(runs: Sequence[PolicyRun], colours: Colours) -> str:
    """How many of the requests have their first token within so long; the time axis is logarithmic."""
    frame = Frame()
    low = min(run.ttft_quantiles_s[1] for run in runs)
    high = max(run.ttft_quantiles_s[-1] for run in runs)
    low, high = max(1e-4, 0.9 * low), max(1.1 * high, 2e-4)
    across, up = frame.across_log(low, high), frame.up(0.0, 1.0)
    lines = []
    for run in runs:
        points = [(across(at), up(i / NUM_QUANTILES)) for i, at in enumerate(run.ttft_quantiles_s)]
        said = f"{run.policy}: half within {seconds(run.ttft_quantiles_s[NUM_QUANTILES // 2])}"
        lines.append(polyline(points, colours[run.policy], said))
    axes = frame.axes(
        x_ticks=[(across(tick), seconds(tick)) for tick in log_ticks(low, high)],
        y_ticks=[(up(share), f"{100 * share:.0f} %") for share in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)],
        x_label="time to first token (logarithmic)",
        y_label="requests within it",
    )
    return _figure(frame, [axes, *lines], runs, colours, label="Distribution of the time to first token")


def mean_waits(runs: Sequence[PolicyRun], colours: Colours) -> str:
    """A bar per policy: the mean time to first token by where it is spent."""
    frame = Frame(left=180.0, width=636.0, height=(BAR + 8.0) * len(runs))
    across = frame.across(0.0, 1.05 * max(sum(run.mean_waits_s) for run in runs))
    parts = []
    for row, run in enumerate(runs):
        y = frame.top + row * (BAR + 8.0) + 4.0
        x = frame.left
        for name, wait_s, opacity in zip(WAITS, run.mean_waits_s, OPACITIES, strict=True):
            width = across(wait_s) - frame.left
            bar = tag(
                "rect",
                title(f"{run.policy}: {seconds(wait_s)} {name}"),
                x=x,
                y=y,
                width=width,
                height=BAR,
                fill=colours[run.policy],
                opacity=opacity,
            )
            parts.append(bar)
            x += width
        parts.append(text(run.policy, frame.left - 8, y + 18, text_anchor="end"))
        parts.append(text(seconds(sum(run.mean_waits_s)), x + 6, y + 18, class_="small"))
    key_x = frame.left
    for name, opacity in zip(WAITS, OPACITIES, strict=True):
        y = frame.bottom + 34
        square = tag("rect", x=key_x, y=y, width=12, height=12, fill="#777", opacity=opacity)
        parts += [square, text(name, key_x + 18, y + 10, class_="small")]
        key_x += 34.0 + 6.2 * len(name)
    longest_s = max(sum(run.mean_waits_s) for run in runs)
    ticks = [(across(tick), seconds(tick)) for tick in round_ticks(0.0, longest_s)]
    axes = frame.axes(x_ticks=ticks, y_ticks=[], x_label="", y_label="")
    return picture(
        frame.right + 40,
        frame.bottom + 54,
        axes,
        *parts,
        label="Mean time to first token by where it is spent",
    )


def balance_over_time(runs: Sequence[PolicyRun], colours: Colours) -> str:
    """Mean over maximum of the ranks' tokens per pass; 100 % is a pass without bubbles."""
    return _over_time(
        runs,
        colours,
        values=lambda run: [sample.balance for sample in run.samples],
        highest=1.0,
        tick=lambda value: f"{100 * value:.0f} %",
        label="Balance of the ranks over time",
        y_label="mean / fullest rank",
    )


def queue_over_time(runs: Sequence[PolicyRun], colours: Colours) -> str:
    """Requests that the scheduler holds; immediate policies hold none, their queue is in the engines."""
    highest = max((sample.num_waiting for run in runs for sample in run.samples), default=1)
    return _over_time(
        runs,
        colours,
        values=lambda run: [float(sample.num_waiting) for sample in run.samples],
        highest=1.1 * max(1, highest),
        tick=lambda value: f"{value:,.0f}",
        label="Requests held by the scheduler over time",
        y_label="requests held",
    )


def load_sweep(runs: Sequence[PolicyRun], colours: Colours, *, which: str) -> str:
    """`mean` or `p99` of the time to first token against load, on a logarithmic axis."""
    frame = Frame()
    loads = sorted({run.load for run in runs})
    values = [run.figures["ttft_s"][which] for run in runs]
    low, high = 0.8 * min(values), 1.2 * max(values)
    across = frame.across(loads[0] - 0.02, loads[-1] + 0.02)
    log_up = Frame(left=0.0, width=frame.height).across_log(low, high)

    def up(value: float) -> float:
        return frame.bottom - log_up(value)

    policies = list(dict.fromkeys(run.policy for run in runs))
    lines = []
    for policy in policies:
        own = sorted((run for run in runs if run.policy == policy), key=lambda run: run.load)
        points = [(across(run.load), up(run.figures["ttft_s"][which])) for run in own]
        lines.append(polyline(points, colours[policy], policy))
        for run, (x, y) in zip(own, points, strict=True):
            said = f"{policy} at load {run.load:g}: {seconds(run.figures['ttft_s'][which])}"
            lines.append(tag("circle", title(said), cx=x, cy=y, r=4, fill=colours[policy]))
    axes = frame.axes(
        x_ticks=[(across(load), f"{load:g}") for load in loads],
        y_ticks=[(up(tick), seconds(tick)) for tick in log_ticks(low, high)],
        x_label="load",
        y_label=f"{which} time to first token (logarithmic)",
    )
    first = [next(run for run in runs if run.policy == policy) for policy in policies]
    return _figure(frame, [axes, *lines], first, colours, label=f"{which} time to first token against load")


def _over_time(
    runs: Sequence[PolicyRun],
    colours: Colours,
    *,
    values: Callable[[PolicyRun], list[float]],
    highest: float,
    tick: Callable[[float], str],
    label: str,
    y_label: str,
) -> str:
    frame = Frame(height=180.0)
    end = max((run.samples[-1].at for run in runs if run.samples), default=1.0)
    across, up = frame.across(0.0, end), frame.up(0.0, highest)
    lines = [
        polyline(_points(run, values(run), across, up), colours[run.policy], run.policy)
        for run in runs
        if run.samples
    ]
    axes = frame.axes(
        x_ticks=[(across(at), f"{at / 60:g} min") for at in _minutes(end)],
        y_ticks=[(up(value), tick(value)) for value in round_ticks(0.0, highest, most=5)],
        x_label="virtual time",
        y_label=y_label,
    )
    return _figure(frame, [axes, *lines], runs, colours, label=label)


def _points(run: PolicyRun, values: list[float], across: Scale, up: Scale) -> list[tuple[float, float]]:
    return [(across(sample.at), up(value)) for sample, value in zip(run.samples, values, strict=True)]


def _minutes(end_s: float) -> list[float]:
    return [60.0 * tick for tick in round_ticks(0.0, end_s / 60.0, most=8)]


def _figure(
    frame: Frame, parts: Sequence[str], runs: Sequence[PolicyRun], colours: Colours, *, label: str
) -> str:
    legend = []
    for row, run in enumerate(runs):
        y = frame.top + 8 + 20 * row
        x = frame.right + 20
        legend.append(tag("rect", x=x, y=y, width=14, height=4, fill=colours[run.policy]))
        legend.append(text(run.policy, x + 20, y + 6))
    return picture(frame.right + LEGEND_WIDTH + 20, frame.bottom + 40, *parts, *legend, label=label)
