"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

Text = Callable[[float], str]

NBSP = "\u00a0"
"""Between a number and its unit: no line ends there."""


def count(value: float) -> str:
    """`179,673`."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """`251k`, `1.2M`: three digits are enough to compare."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            scaled = value / limit
            return f"{scaled:.0f}{suffix}" if abs(scaled) >= 100 else f"{scaled:.3g}{suffix}"
    return f"{value:.3g}"


def milliseconds(seconds: float) -> str:
    """`1,093`; the unit stands in the header."""
    value = 1000.0 * seconds
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """A measured one: `514 ms`, `1.70 s`, `20.4 min`."""
    if not isfinite(seconds):
        return "–"
    if seconds < 0.9995:
        return f"{milliseconds(seconds)}{NBSP}ms"
    value, unit = _scaled(seconds)
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{NBSP}{unit}"


def round_duration(seconds: float) -> str:
    """One that somebody chose: `200 ms`, `4 s`, `20 min`."""
    if seconds < 1:
        return f"{1000 * seconds:.6g}{NBSP}ms"
    value, unit = _scaled(seconds)
    return f"{value:,.6g}{NBSP}{unit}"


def _scaled(seconds: float) -> tuple[float, str]:
    if seconds < 120:
        return seconds, "s"
    return (seconds / 60, "min") if seconds < 7200 else (seconds / 3600, "h")


def percent(share: float) -> str:
    """`63 %`."""
    if not isfinite(share):
        return "–"
    return f"{100 * share:.0f}{NBSP}%"


def plural(number: int, word: str) -> str:
    """`1 group`, `4 groups`."""
    return f"{count(number)} {word if number == 1 else word + 's'}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
