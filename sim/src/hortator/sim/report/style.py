"""Colours and type of figures, for light and dark, told apart by the colour-blind.

Policies have hues after Okabe and Ito, and beyond four of them a dash pattern as well. What a figure means
never hangs on red against green: work is blue, a bubble is striped orange, idle is grey.
"""

from __future__ import annotations

from collections.abc import Mapping

NUM_SHADES = 6
"""Of a rank's tokens in a pass."""

_SERIES = (
    ("#0072b2", "#56a9e8"),
    ("#d55e00", "#ff8c4a"),
    ("#009e73", "#2ec79b"),
    ("#a8488a", "#e79ccb"),
    ("#b07900", "#f0b83c"),
    ("#2a9fd6", "#8fd3f7"),
    ("#6b7280", "#a5adb8"),
    ("#882255", "#d9709f"),
)
"""Light and dark."""
_DASHES = ("none", "7 3")
_SHADES = (
    ("#c6dcef", "#1d4468"),
    ("#9cc4e4", "#235a8c"),
    ("#6ba6d6", "#2a72b2"),
    ("#3f86c4", "#388bd3"),
    ("#1f64a6", "#5ca9ea"),
    ("#0b4480", "#8fcbff"),
)
NAMED: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#1b2129", "#e8ecf1"),
    "soft": ("#5a6472", "#9aa5b3"),
    "grid": ("#e3e7ec", "#2b323b"),
    "panel": ("#f2f4f6", "#1e242b"),
    "idle": ("#e6e9ee", "#323b46"),
    "bubble": ("#fbdcca", "#452413"),
    "stripe": ("#d55e00", "#ff8c4a"),
    "decode": ("#b7a6d6", "#5c4c86"),
    "hold": ("#e8b23a", "#e8b23a"),
    "queue": ("#8c510a", "#c98a45"),
    "running": ("#5ab4ac", "#3f9c94"),
}

FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def series(index: int) -> str:
    """The class of a policy's lines and areas."""
    return f"s{index % len(_SERIES)}"


def figure_css() -> str:
    """What an SVG figure needs, alone or in the page."""
    rules = [
        f".fig text{{font-family:{FONT};font-size:12px}}",
        ".fig .head{font-weight:600}",
        ".fig .end{text-anchor:end}",
        ".fig .mid{text-anchor:middle}",
        ".fig .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}",
        ".fig .area{stroke:none;fill-opacity:.13}",
        ".fig .thin{stroke-width:1}",
        ".fig .hit{fill-opacity:0;stroke-opacity:.35;stroke-width:.75}",
        ".fig .hit:hover{stroke-opacity:1;stroke-width:1.5}",
        ".fig .bound{stroke-dasharray:3 4}",
        ".fig .cursor{stroke-width:1;visibility:hidden}",
    ]
    for index in range(len(_SERIES)):
        dash = _DASHES[index // 4 % len(_DASHES)]
        rules.append(f".fig .line.s{index}{{stroke-dasharray:{dash}}}")
    dark = "".join(_colours(1))
    return "\n".join([*rules, *_colours(0), f"@media (prefers-color-scheme:dark){{{dark}}}"])


def _colours(which: int) -> list[str]:
    named = {name: pair[which] for name, pair in NAMED.items()}
    rules = [
        f".fig text{{fill:{named['ink']}}}",
        f".fig .soft{{fill:{named['soft']}}}",
        f".fig .grid{{stroke:{named['grid']}}}",
        f".fig .axis,.fig .cursor,.fig .hit,.fig .bound{{stroke:{named['soft']}}}",
        f".fig .paper{{fill:{named['paper']}}}",
        f".fig .stripe{{stroke:{named['stripe']}}}",
        f".fig .dot{{stroke:{named['paper']};stroke-width:1.5}}",
    ]
    rules += [
        f".fig .{name}{{fill:{named[name]}}}"
        for name in ("idle", "bubble", "decode", "hold", "queue", "running")
    ]
    rules += [f".fig .w{index}{{fill:{pair[which]}}}" for index, pair in enumerate(_SHADES)]
    for index, pair in enumerate(_SERIES):
        rules.append(f".fig .line.s{index}{{stroke:{pair[which]}}}")
        rules.append(f".fig .dot.s{index},.fig .area.s{index},.fig .key.s{index}{{fill:{pair[which]}}}")
        rules.append(f".chip.s{index}{{background:{pair[which]}}}")
    return rules
