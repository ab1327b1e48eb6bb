"""What the doctors print: one line per check, with the fix."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from hortator.runtime.checks import Check

_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def render(checks: Sequence[Check]) -> Table:
    """For people."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("check", "verdict", "found", "fix"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, Text(check.verdict, style=_STYLES[check.verdict]), check.found, check.fix)
    return table
