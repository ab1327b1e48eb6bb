"""Scales, their ticks, and the lines and labels that are drawn of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hortator.sim.report.markup import Markup, element, join


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Values to pixels. A logarithmic one needs `low` above 0."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, which is held within the scale."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.0
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 6) -> list[float]:
        """Round values within the scale, about as many as wanted."""
        return log_ticks(self.low, self.high) if self.is_log else linear_ticks(self.low, self.high, wanted)


def linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high]; only the powers over three decades."""
    factors = (1, 2, 5) if math.log10(high / low) <= 3.0 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def top_of(values: Sequence[float]) -> float:
    """The next round value above all of them, to end an axis at; 1 when there is nothing."""
    high = max((value for value in values if math.isfinite(value)), default=0.0)
    if high <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(high))
    return next(
        power * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if power * step >= high * 1.02 or step == 10
    )


def x_axis(
    scale: Scale, *, top: float, bottom: float, label: str, text: Callable[[float], str], wanted: int = 8
) -> Markup:
    """Grid lines from top to bottom, values below, and what they are."""
    parts = [element("line", class_="axis", x1=scale.start, x2=scale.end, y1=bottom, y2=bottom)]
    for value in scale.ticks(wanted):
        x = scale(value)
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=top, y2=bottom))
        parts.append(element("text", text(value), class_="soft mid", x=x, y=bottom + 16))
    middle = 0.5 * (scale.start + scale.end)
    parts.append(element("text", label, class_="soft mid", x=middle, y=bottom + 34))
    return join(*parts)


def y_axis(
    scale: Scale, *, left: float, right: float, label: str, text: Callable[[float], str], wanted: int = 5
) -> Markup:
    """Grid lines from left to right, values at the left, and above them what they are."""
    parts = []
    for value in scale.ticks(wanted):
        y = scale(value)
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=y, y2=y))
        parts.append(element("text", text(value), class_="soft end", x=left - 8, y=y + 4))
    parts.append(element("text", label, class_="soft", x=4, y=scale.end - 10))
    return join(*parts)
