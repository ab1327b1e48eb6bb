"""What a file holds, quoted in an error of one line: never all of a megabyte."""

from __future__ import annotations

MAX_QUOTED_CHARS = 200


def quoted(given: object) -> str:
    """A value in an error of one line."""
    return shortened(repr(given))


def shortened(text: str) -> str:
    """The beginning of a text that is too long for an error of one line."""
    return text if len(text) <= MAX_QUOTED_CHARS else f"{text[:MAX_QUOTED_CHARS]}..."
