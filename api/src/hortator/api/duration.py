"""Durations as manifests write them: `5ms`, `2s`, `1m30s`, `1h`. In Python they are seconds.

At most six digits before and six after the point, so that no text overflows a duration of the API server.
"""

from __future__ import annotations

import re

from hortator.api.quoting import quoted

ALLOWED = "a duration like 5ms, 2s, 1m30s, 1h"

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"[0-9]{1,6}(?:\.[0-9]{1,6})?"
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h)")
PATTERN = "".join(f"({_NUMBER}{unit})?" for unit in ("h", "m", "s", "ms"))
"""What `parse_duration` reads and the empty text, as a regular expression that RE2 understands too."""


def parse_duration(text: object) -> float:
    """Seconds of a duration text. Units go from large to small and occur once each.

    Raises:
        ValueError: not a duration; a bare number is none, because its unit would be a guess.
    """
    if not isinstance(text, str):
        raise ValueError(f"got {quoted(text)} (allowed: {ALLOWED})")  # noqa: TRY004  # what pydantic reports
    position, total = 0, 0.0
    units: list[str] = []
    for match in _PART.finditer(text):
        if match.start() != position:
            break
        position = match.end()
        units.append(match[2])
        total += float(match[1]) * _SECONDS[match[2]]
    in_order = units == sorted(set(units), key=lambda unit: -_SECONDS[unit])
    if position != len(text) or not units or not in_order:
        raise ValueError(f"got {quoted(text)} (allowed: {ALLOWED})")
    return total


def format_duration(seconds: float) -> str:
    """The shortest usual text that `parse_duration` reads back, to a microsecond."""
    if 0 < seconds < 1:
        return f"{round(seconds * 1000, 3):.12g}ms"
    text = ""
    for unit in ("h", "m"):
        count = int(seconds // _SECONDS[unit])
        if count:
            text += f"{count}{unit}"
            seconds -= count * _SECONDS[unit]
    seconds = round(seconds, 6)
    return f"{text}{seconds:.12g}s" if seconds or not text else text
