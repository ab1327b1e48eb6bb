"""Where text goes: results to standard output, everything else to standard error."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_WIDTH = 140
"""Columns of a table that no terminal limits."""


def stdout() -> Console:
    """For results."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr() -> Console:
    """For everything else."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)
