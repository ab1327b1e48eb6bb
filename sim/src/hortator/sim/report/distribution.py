"""TTFT of all requests: the share that has its first token by then, and where most of them are."""

from __future__ import annotations

from collections.abc import Sequence

from hortator.sim.report import words
from hortator.sim.report.axes import linear_ticks
from hortator.sim.report.data import BINS_PER_DECADE, QUANTILES, TTFT_EDGES, PolicyRun
from hortator.sim.report.figure import Figure
from hortator.sim.report.lines import Axis, Chart, Line, Mark, chart

WIDTH = 566.0
_MARKED = (50.0, 90.0, 99.0)


def cdf(runs: Sequence[PolicyRun]) -> Figure:
    """Share of requests over TTFT."""
    return chart(
        Chart(
            name="ttft-cdf",
            title="TTFT: share of requests that have their first token",
            caption="Further left is better. Dots: p50, p90 and p99.",
            x=_ttft_axis(runs),
            y=Axis(label="requests (%)", low=0, high=100, text=words.compact),
            lines=[_cdf_line(run) for run in runs],
            width=WIDTH,
            height=330,
        )
    )


def histogram(runs: Sequence[PolicyRun]) -> Figure:
    """Share of requests per step of TTFT."""
    shares = [[100.0 * n / max(1, sum(run.ttft_counts)) for n in run.ttft_counts] for run in runs]
    high = max((max(share) for share in shares if share), default=1.0) or 1.0
    return chart(
        Chart(
            name="ttft-histogram",
            title="TTFT: where the requests are",
            caption=f"Requests per step of TTFT, {BINS_PER_DECADE} equal steps per factor of ten.",
            x=_ttft_axis(runs),
            y=Axis(
                label="requests per step (%)",
                low=0,
                high=linear_ticks(0, 1.19 * high, 5)[-1],
                text=words.compact,
            ),
            lines=[
                Line(name=run.policy, text=_says(run), points=_steps(share))
                for run, share in zip(runs, shares, strict=True)
            ],
            width=WIDTH,
            height=330,
            is_filled=True,
        )
    )


def _ttft_axis(runs: Sequence[PolicyRun]) -> Axis:
    """From the fastest to the slowest request of any policy, at least a factor of ten."""
    low = min((run.ttft_quantiles[0] for run in runs if run.ttft_quantiles), default=0.1)
    high = max((run.ttft_quantiles[-1] for run in runs if run.ttft_quantiles), default=1.0)
    low = max(low, TTFT_EDGES[0])
    return Axis(
        label="TTFT (logarithmic)", low=low, high=max(high, 10 * low), text=words.round_duration, is_log=True
    )


def _cdf_line(run: PolicyRun) -> Line:
    known = dict(zip(QUANTILES, run.ttft_quantiles, strict=False))
    points = [(ttft_s, share) for share, ttft_s in known.items()]
    marks = [
        Mark(x=known[share], y=share, text=f"{run.policy}\np{share:g} {words.duration(known[share])}")
        for share in _MARKED
        if share in known
    ]
    return Line(name=run.policy, text=_says(run), points=points, marks=marks)


def _steps(shares: Sequence[float]) -> list[tuple[float, float]]:
    """The outline of the bars from the first that is not empty to the last."""
    filled = [index for index, share in enumerate(shares) if share]
    if not filled:
        return []
    points = [(TTFT_EDGES[filled[0]], 0.0)]
    for index in range(filled[0], filled[-1] + 1):
        points += [(TTFT_EDGES[index], shares[index]), (TTFT_EDGES[index + 1], shares[index])]
    return [*points, (TTFT_EDGES[filled[-1] + 1], 0.0)]


def _says(run: PolicyRun) -> str:
    ttft = run.figures["ttft_s"]
    return (
        f"{run.policy}\nmean {words.duration(ttft['mean'])}, p50 {words.duration(ttft['p50'])}, "
        f"p99 {words.duration(ttft['p99'])}"
    )
