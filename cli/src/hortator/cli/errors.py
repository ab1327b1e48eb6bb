"""How a command fails: one line per problem, and an exit code that a script can tell apart."""

from __future__ import annotations

from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_USAGE = 2
"""The command, a file or a setting is wrong: repeating it will not help."""
EXIT_UNAVAILABLE = 3
"""Nothing answers, or what answers cannot serve now: repeating it may help."""


class CommandError(Exception):
    """A command cannot go on. `str()` is one line per problem: what, where, and what is allowed."""

    def __init__(self, lines: str | Sequence[str], *, exit_code: int = EXIT_USAGE) -> None:
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        self.exit_code = exit_code
        super().__init__("\n".join(self.lines))
