"""How every entry point ends: one line per problem on standard error, and an exit code."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer

from hortator.cli.errors import EXIT_FAILED, EXIT_USAGE, CommandError

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""click's UsageError, wherever this version of typer keeps click."""


def run_app(app: typer.Typer, *, name: str) -> NoReturn:
    """Run a command line and exit."""
    try:
        code = app(prog_name=name, standalone_mode=False)
    except CommandError as error:
        for line in error.lines:
            print(line if line.startswith("  ") else f"{name}: {line}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except _USAGE_ERROR as error:
        _show(error, name)
        raise SystemExit(EXIT_USAGE) from None
    except typer.Abort:
        raise SystemExit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # `hortator ... | head`
        sys.stderr.close()
        raise SystemExit(141) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _show(error: Any, name: str) -> None:
    """What is wrong with the words of the command line: `NAME: COMMAND: OPTION: problem (where to look)`."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return  # it has shown the help
    path = error.ctx.command_path if error.ctx is not None else name
    option = getattr(error, "param", None)
    if isinstance(error, typer.BadParameter) and option is not None and error.message:
        problem = f"{option.opts[0]}: {error.message[0].lower()}{error.message[1:]}"
    else:
        problem = error.format_message()
    where = f"{path.removeprefix(name).strip()}: ".removeprefix(": ")
    text = f"{where}{problem}".replace("\n", " ").rstrip(".")
    print(f"{name}: {text} (see `{path} --help`)", file=sys.stderr)
