"""TTFT against load, where several loads were simulated."""

from __future__ import annotations

from collections.abc import Sequence

from hortator.sim.report import words
from hortator.sim.report.data import SweepPoint
from hortator.sim.report.figure import Figure
from hortator.sim.report.lines import Axis, Chart, Line, Mark, chart


def sweep(points: Sequence[SweepPoint]) -> tuple[Figure, Figure]:
    """Mean and p99 over load, on the same scale; points in any order."""
    points = sorted(points, key=lambda point: point.load)
    seen = [
        point.figures[policy]["ttft_s"][which]
        for point in points
        for policy in point.figures
        for which in ("mean", "p99")
    ]
    seen += [point.bound_s for point in points if point.bound_s]
    low = min((value for value in seen if value > 0), default=0.1)
    high = max(seen, default=1.0)
    y = Axis(
        label="TTFT (logarithmic)",
        low=0.65 * low,
        high=max(1.1 * high, 2 * low),
        text=words.round_duration,
        is_log=True,
    )
    loads = [point.load for point in points]
    margin = 0.04 * (loads[-1] - loads[0])
    x = Axis(
        label="load (share of the prefill capacity)",
        low=loads[0] - margin,
        high=loads[-1] + margin,
        text=lambda value: f"{value:.6g}",
        wanted=6,
    )
    bound = tuple((point.load, point.bound_s) for point in points if point.bound_s)

    def figure(which: str, title: str, caption: str, *, with_bound: bool) -> Figure:
        return chart(
            Chart(
                name=f"sweep-{which}",
                title=title,
                caption=caption,
                x=x,
                y=y,
                lines=[_line(policy, points, which) for policy in points[0].figures],
                width=566,
                height=330,
                bound=bound if with_bound else (),
                bound_label="no scheduler can be below",
            )
        )

    unstable = sorted(
        {
            f"{name} at {point.load:g}"
            for point in points
            for name, found in point.figures.items()
            if not found["stable"]
        }
    )
    note = f" The queue kept growing: {words.listed(unstable)}." if unstable else ""
    return (
        figure("mean", "Mean TTFT against load", f"Lower is better.{note}", with_bound=True),
        figure("p99", "p99 TTFT against load", "On the same scale.", with_bound=False),
    )


def _line(policy: str, points: Sequence[SweepPoint], which: str) -> Line:
    known = [
        (point.load, point.figures[policy]["ttft_s"][which])
        for point in points
        if point.figures[policy]["completed"]
    ]
    return Line(
        name=policy,
        text=policy,
        points=known,
        marks=[
            Mark(x=load, y=value, text=f"{policy} at load {load:g}\n{which} TTFT {words.duration(value)}")
            for load, value in known
        ],
    )
