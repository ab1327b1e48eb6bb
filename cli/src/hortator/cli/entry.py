"""How every entry point ends: one line per problem on standard error, and an exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from hortator.cli.errors import CommandError


def run_app(app: typer.Typer, *, name: str) -> NoReturn:
    """Run a command line and exit."""
    try:
        app(prog_name=name)
    except CommandError as error:
        for line in error.lines:
            print(line if line.startswith("  ") else f"{name}: {line}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # `hortator ... | head`
        sys.stderr.close()
        raise SystemExit(141) from None
    raise SystemExit(0)
