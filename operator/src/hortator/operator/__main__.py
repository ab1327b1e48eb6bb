"""`python -m hortator.operator`: one operator process."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hortator.operator.app.process import run
from hortator.operator.settings import OperatorSettings
from hortator.runtime.certificates import CertificateError
from hortator.runtime.lifecycle import run_process
from hortator.runtime.logs import configure_logging
from hortator.runtime.settings import SettingsError
from hortator.runtime.transport import transport_of

EXIT_BAD_SETTINGS = 2
_MARGIN_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hortator.operator", description="The Hortator operator.")
    parser.add_argument("--settings", type=Path, metavar="FILE.json", help="settings as a JSON object")
    parser.add_argument("--print-settings", action="store_true", help="print the effective settings and exit")
    parser.add_argument(
        "--die-with-parent",
        nargs="?",
        type=int,
        const=0,
        metavar="PID",
        help="drain when the parent process ends (PID: the parent's, which avoids a race at start)",
    )
    arguments = parser.parse_args(argv)
    try:
        settings = OperatorSettings.load_file(arguments.settings)
        configure_logging(component="operator", level=settings.log_level, log_format=settings.log_format)
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_SETTINGS
    if arguments.print_settings:
        sys.stdout.write(settings.render() + "\n")
        return 0
    try:
        transport = transport_of(settings.tls)
    except CertificateError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_SETTINGS
    parent_pid: int | None = arguments.die_with_parent
    return run_process(
        functools.partial(run, settings, transport=transport),
        drain_timeout_s=settings.drain_timeout_s + _MARGIN_S,
        parent_pid=os.getppid() if parent_pid == 0 else parent_pid,
    )


if __name__ == "__main__":
    raise SystemExit(main())
