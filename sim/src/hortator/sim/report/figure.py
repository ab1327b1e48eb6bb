"""A figure: a drawing with a title, inside the page or as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hortator.sim.report.markup import SVG_NAMESPACE, Markup, element, join, number
from hortator.sim.report.style import figure_css

TITLE_HEIGHT = 30.0
_CHAR_WIDTH = 6.5
"""Of 12 px type, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing in units of pixels at full width."""

    name: str
    """As a file name, without its ending."""
    title: str
    caption: str
    """How to read it."""
    width: float
    height: float
    body: Markup


def inline(figure: Figure) -> Markup:
    """Inside an HTML page, whose style sheet has `figure_css`."""
    return element(
        "svg",
        figure.body,
        xmlns=SVG_NAMESPACE,
        viewBox=f"0 0 {number(figure.width)} {number(figure.height)}",
        class_="fig",
        role="img",
        aria_label=f"{figure.title}. {figure.caption}",
    )


def standalone(figure: Figure) -> Markup:
    """As a file: its title is drawn, its style and its paper are in it."""
    height = figure.height + TITLE_HEIGHT
    return element(
        "svg",
        element("title", figure.title),
        element("desc", figure.caption),
        element("style", figure_css()),
        element("rect", class_="paper", width=figure.width, height=height),
        element("text", figure.title, class_="head", x=8, y=20),
        element("g", figure.body, transform=f"translate(0 {number(TITLE_HEIGHT)})"),
        xmlns=SVG_NAMESPACE,
        viewBox=f"0 0 {number(figure.width)} {number(height)}",
        width=figure.width,
        height=height,
        class_="fig",
        role="img",
    )


def legend(keys: Sequence[tuple[str, str]], *, x: float, y: float, width: float) -> tuple[Markup, float]:
    """Colour keys in lines from the left: (class or `url(#pattern)`, label). Returns drawing and height."""
    parts = []
    left, top = x, y
    for class_, label in keys:
        needed = 18 + _CHAR_WIDTH * len(label) + 18
        if left > x and left + needed > x + width:
            left, top = x, top + 18
        parts.append(
            element(
                "g",
                element("rect", **_paint(class_), x=left, y=top, width=12, height=12, rx=3),
                element("text", label, x=left + 18, y=top + 10.5),
                class_=f"of-{class_}" if class_[0] == "s" and class_[1:].isdigit() else None,
            )
        )
        left += needed
    return join(*parts), top - y + 18 if keys else 0.0


def _paint(class_: str) -> dict[str, str]:
    return {"fill": class_} if class_.startswith("url(") else {"class_": f"key {class_}"}
