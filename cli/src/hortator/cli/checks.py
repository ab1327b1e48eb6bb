"""What the doctors print: one line per check, with the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rich.table import Table
from rich.text import Text

Verdict = Literal["ok", "warning", "failed", "skipped"]
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


class AnyCheck(Protocol):
    """A finding of whichever doctor."""

    @property
    def name(self) -> str:
        """What was looked at."""

    @property
    def verdict(self) -> Verdict:
        """How it is."""

    @property
    def found(self) -> str:
        """What was found."""

    @property
    def fix(self) -> str:
        """What to do about it; empty: nothing."""


def render(checks: Sequence[AnyCheck]) -> Table:
    """For people."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("check", "verdict", "found", "fix"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, Text(check.verdict, style=_STYLES[check.verdict]), check.found, check.fix)
    return table
