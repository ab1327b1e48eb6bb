"""SVG as text: elements, and a plot with axes.

Numbers are written with two decimals, attributes in the order given: the same figures make the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
"""Okabe and Ito's, which colour-blind people tell apart; one per policy, in order."""
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:var(--ink,#222)}.axis{stroke:var(--line,#bbb);stroke-width:1}"
    ".grid{stroke:var(--line,#bbb);stroke-width:.5;opacity:.5}.line{fill:none;stroke-width:2}"
    ".name{font-weight:600}.small{font-size:11px}"
)

Scale = Callable[[float], float]


def tag(name: str, *children: str, **attributes: object) -> str:
    """An element; children are SVG already, attribute values are escaped; `stroke_width` is stroke-width."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"' for key, value in attributes.items()
    )
    inner = "".join(children)
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


def text(content: str, x: float, y: float, **attributes: object) -> str:
    """Escaped text."""
    return tag("text", escape(content), x=x, y=y, **attributes)


def title(content: str) -> str:
    """What a browser shows over an element, and a screen reader says."""
    return tag("title", escape(content))


def picture(width: float, height: float, *children: str, label: str) -> str:
    """A whole figure, which stands alone or within a page."""
    return tag(
        "svg",
        title(label),
        tag("style", STYLE),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        role="img",
        aria_label=label,
    )


def polyline(points: Sequence[tuple[float, float]], colour: str, label: str) -> str:
    """A line through points in pixels."""
    path = " ".join(f"{_value(x)},{_value(y)}" for x, y in points)
    return tag("polyline", title(label), points=path, class_="line", stroke=colour)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where a plot lies in its figure, in pixels."""

    left: float = 56.0
    top: float = 12.0
    width: float = 760.0
    height: float = 260.0

    @property
    def bottom(self) -> float:
        """The x axis."""
        return self.top + self.height

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.width

    def across(self, low: float, high: float) -> Scale:
        """Values to x."""
        return lambda value: self.left + self.width * (value - low) / (high - low)

    def across_log(self, low: float, high: float) -> Scale:
        """Values to x, each decade as wide as the next."""
        span = log10(high / low)
        return lambda value: self.left + self.width * log10(max(value, low) / low) / span

    def up(self, low: float, high: float) -> Scale:
        """Values to y."""
        return lambda value: self.bottom - self.height * (value - low) / (high - low)

    def axes(
        self,
        *,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        x_label: str,
        y_label: str,
    ) -> str:
        """Both axes; ticks are (pixel, text)."""
        parts = []
        for x, label in x_ticks:
            parts.append(tag("line", x1=x, x2=x, y1=self.top, y2=self.bottom, class_="grid"))
            parts.append(text(label, x, self.bottom + 16, text_anchor="middle", class_="small"))
        for y, label in y_ticks:
            parts.append(tag("line", x1=self.left, x2=self.right, y1=y, y2=y, class_="grid"))
            parts.append(text(label, self.left - 6, y + 4, text_anchor="end", class_="small"))
        parts.append(tag("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis"))
        parts.append(text(x_label, self.right, self.bottom + 32, text_anchor="end", class_="small"))
        middle = self.top + self.height / 2
        turn = f"rotate(-90 14 {_value(middle)})"
        parts.append(text(y_label, 14, middle, text_anchor="middle", transform=turn, class_="small"))
        return "".join(parts)


def round_ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """At most so many round numbers between two values, ends included where they are round."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10.0 ** floor(log10(span / most))
    for times in (1, 2, 5, 10):
        if span / (step * times) <= most:
            step *= times
            break
    first = ceil(low / step - 1e-9)
    return [step * number for number in range(first, floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between two values."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks = [times * 10.0**decade for decade in decades for times in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def seconds(value: float) -> str:
    """For people."""
    return f"{1000 * value:.0f} ms" if value < 1.0 else f"{value:.3g} s"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
