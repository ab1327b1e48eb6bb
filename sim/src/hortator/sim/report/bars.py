"""Stacked bars: where requests wait, and where the time of the ranks goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hortator.sim.report import words
from hortator.sim.report.axes import Scale, top_of, x_axis
from hortator.sim.report.data import PolicyRun, Waits
from hortator.sim.report.figure import Figure, legend
from hortator.sim.report.hatch import fill_of, hatch
from hortator.sim.report.markup import Markup, element, join
from hortator.sim.report.style import series

WIDTH = 566.0
LEFT, RIGHT, BOTTOM = 178.0, 60.0, 44.0
BAR, ROW, HEADING = 18.0, 27.0, 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row: parts after each other."""

    name: str
    parts: Sequence[tuple[str, str, float]]
    """Class, what it says when pointed at, and size."""
    total: str
    """At its end."""
    key: str
    """Class of the policy."""


def waits(runs: Sequence[PolicyRun]) -> Figure:
    """Mean time on the way to the first token, by place."""
    rows: list[Bar | str] = ["mean of all requests"]
    rows += [_wait_bar(run, run.waits, index) for index, run in enumerate(runs)]
    rows.append("mean of the slowest 1 %")
    rows += [_wait_bar(run, run.slowest_waits, index) for index, run in enumerate(runs)]
    high = top_of([waited.total_s for run in runs for waited in (run.waits, run.slowest_waits)])
    return _bars(
        "waits",
        "Where requests wait for their first token",
        "The three parts add up to the mean TTFT. "
        "Only what the scheduler holds can still be ordered and placed.",
        rows,
        keys=[("hold", "held by the scheduler"), ("queue", "queued in the engine"), ("running", "running")],
        high=high,
        label="mean time per request",
        text=words.round_duration,
    )


def rank_time(runs: Sequence[PolicyRun]) -> Figure:
    """Shares of rank-time over the whole run."""
    keys = [("w4", "filled"), (fill_of("rank-time-hatch"), "bubble"), ("idle", "idle")]
    if any(run.rank_time.decode_only_s for run in runs):
        keys.insert(2, ("decode", "decode only"))
    return _bars(
        "rank-time",
        "Where the time of the ranks goes, whole run",
        "Bubble: inside a pass, waiting for the fullest rank. Idle: in no pass.",
        [_rank_time_bar(run, index) for index, run in enumerate(runs)],
        keys=keys,
        high=1.0,
        label="share of rank-time (%)",
        text=lambda share: f"{100 * share:.0f}",
    )


def _wait_bar(run: PolicyRun, waited: Waits, index: int) -> Bar:
    parts = (
        ("hold", "held by the scheduler", waited.hold_s),
        ("queue", "queued in the engine", waited.queue_s),
        ("running", "running", waited.running_s),
    )
    return Bar(
        name=run.policy,
        parts=[
            (class_, f"{run.policy}\n{place}: {words.duration(size)}", size) for class_, place, size in parts
        ],
        total=words.duration(waited.total_s),
        key=series(index),
    )


def _rank_time_bar(run: PolicyRun, index: int) -> Bar:
    time = run.rank_time
    parts = (
        ("w4", "filled", time.filled_s),
        ("bubble", "bubble", time.bubble_s),
        ("decode", "in passes with decode only", time.decode_only_s),
        ("idle", "idle", time.idle_s),
    )
    total = sum(size for _, _, size in parts) or 1.0
    return Bar(
        name=run.policy,
        parts=[
            (class_, f"{run.policy}\n{what}: {100 * size / total:.1f} %", size / total)
            for class_, what, size in parts
        ],
        total=words.percent(time.filled_s / total),
        key=series(index),
    )


def _bars(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[Bar | str],
    *,
    keys: Sequence[tuple[str, str]],
    high: float,
    label: str,
    text: words.Text,
) -> Figure:
    """Rows from the top; a string is a heading over those that follow."""
    drawn_keys, keys_height = legend(keys, x=4, y=4, width=WIDTH)
    top = keys_height + 10
    height = sum(HEADING if isinstance(row, str) else ROW for row in rows)
    x = Scale(low=0.0, high=high, start=LEFT, end=WIDTH - RIGHT)
    bottom = top + height + 2
    parts = [
        hatch(f"{name}-hatch"),
        drawn_keys,
        x_axis(x, top=top, bottom=bottom, label=label, text=text, wanted=5),
    ]
    y = top
    for row in rows:
        if isinstance(row, str):
            parts.append(element("text", row, class_="head", x=4, y=y + 16))
            y += HEADING
        else:
            parts.append(_row(row, x, y + 0.5 * (ROW - BAR), hatched=fill_of(f"{name}-hatch")))
            y += ROW
    return Figure(
        name=name, title=title, caption=caption, width=WIDTH, height=bottom + BOTTOM, body=join(*parts)
    )


def _row(bar: Bar, x: Scale, y: float, *, hatched: str) -> Markup:
    parts = [
        element("rect", class_=f"key {bar.key}", x=4, y=y + 5, width=9, height=9, rx=2),
        element("text", bar.name, x=18, y=y + 13.5),
    ]
    at = 0.0
    for class_, says, size in bar.parts:
        if size > 0:
            place = {"x": x(at), "y": y, "width": x(at + size) - x(at), "height": BAR}
            paint = {"fill": hatched} if class_ == "bubble" else {"class_": class_}
            parts.append(element("rect", element("title", says), **paint, **place))
        at += size
    parts.append(element("text", bar.total, class_="head", x=x(at) + 6, y=y + 13.5))
    return element("g", *parts, class_=f"of-{bar.key}")
