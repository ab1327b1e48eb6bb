"""A chart of one line per policy: the common ground of most figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hortator.sim.report import words
from hortator.sim.report.axes import Scale, x_axis, y_axis
from hortator.sim.report.figure import Figure, legend
from hortator.sim.report.markup import Markup, element, join, number
from hortator.sim.report.style import series

LEFT, RIGHT, BOTTOM = 62.0, 16.0, 44.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A dot on a line, and what it says."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A policy's line; a NaN interrupts it."""

    name: str
    text: str
    """What it says when pointed at."""
    points: Sequence[Point]
    marks: Sequence[Mark] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One side of a chart."""

    label: str
    """With its unit."""
    low: float
    high: float
    text: words.Text
    is_log: bool = False
    wanted: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines over two axes."""

    name: str
    title: str
    caption: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    width: float = 1160.0
    height: float = 300.0
    """Of the plot with its axes, without the legend."""
    is_filled: bool = False
    """Down to the bottom."""
    bound: Sequence[Point] = field(default=())
    """A dashed line that belongs to no policy."""
    bound_label: str = ""


def chart(of: Chart) -> Figure:
    """Draw it."""
    keys, keys_height = legend(
        [(series(index), line.name) for index, line in enumerate(of.lines)],
        x=LEFT,
        y=4,
        width=of.width - LEFT - RIGHT,
    )
    top = 4 + keys_height + 24
    bottom = keys_height + of.height - BOTTOM
    x = Scale(low=of.x.low, high=of.x.high, start=LEFT, end=of.width - RIGHT, is_log=of.x.is_log)
    y = Scale(low=of.y.low, high=of.y.high, start=bottom, end=top, is_log=of.y.is_log)
    parts = [
        keys,
        y_axis(y, left=LEFT, right=x.end, label=of.y.label, text=of.y.text, wanted=of.y.wanted),
        x_axis(x, top=top, bottom=bottom, label=of.x.label, text=of.x.text, wanted=of.x.wanted),
    ]
    if of.bound:
        parts.append(
            element(
                "path",
                element("title", of.bound_label),
                class_="line bound",
                d=path(of.bound, x, y),
            )
        )
        at, value = of.bound[0]
        parts.append(
            element("text", of.bound_label, class_="soft", x=x(at), y=min(bottom - 5, y(value) + 17))
        )
    parts += [
        _line(line, series(index), x, y, floor=bottom if of.is_filled else None)
        for index, line in enumerate(of.lines)
    ]
    return Figure(
        name=of.name,
        title=of.title,
        caption=of.caption,
        width=of.width,
        height=keys_height + of.height,
        body=join(*parts),
    )


def path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    """The `d` of a line through the points; a NaN interrupts it."""
    parts = []
    command = "M"
    for at, value in points:
        if not math.isfinite(value):
            command = "M"
            continue
        parts.append(f"{command}{number(x(at))} {number(y(value))}")
        command = "L"
    return "".join(parts)


def _line(line: Line, class_: str, x: Scale, y: Scale, *, floor: float | None) -> Markup:
    parts = []
    if floor is not None and line.points:
        first, last = line.points[0][0], line.points[-1][0]
        down = f"L{number(x(last))} {number(floor)}L{number(x(first))} {number(floor)}Z"
        parts.append(element("path", class_=f"area {class_}", d=path(line.points, x, y) + down))
    if drawn := path(line.points, x, y):
        parts.append(element("path", element("title", line.text), class_=f"line {class_}", d=drawn))
    parts += [
        element(
            "circle",
            element("title", mark.text),
            class_=f"dot {class_}",
            cx=x(mark.x),
            cy=y(mark.y),
            r=4.5,
        )
        for mark in line.marks
    ]
    return element("g", *parts, class_=f"of-{class_}") if parts else Markup()
