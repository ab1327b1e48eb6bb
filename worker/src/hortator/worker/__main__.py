"""`python -m hortator.worker`: settings from HORTATOR_WORKER_* and, over them, from a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import structlog

from hortator.runtime.certificates import CertificateError
from hortator.runtime.grpc_server import BindError
from hortator.runtime.lifecycle import EXIT_FAILED, Drain, run_process
from hortator.runtime.logs import configure_logging
from hortator.runtime.parent_death import signal_at_parent_death
from hortator.runtime.settings import SettingsError
from hortator.runtime.transport import transport_of
from hortator.worker.app import CLOSE_MARGIN_S, hold_place, serve
from hortator.worker.engine import Engine
from hortator.worker.engine_factory import build_engine
from hortator.worker.errors import EngineConfigError
from hortator.worker.launch.keys import check_programs
from hortator.worker.settings import WorkerSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hortator.worker", description=__doc__)
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="JSON object of settings; wins over the environment"
    )
    parser.add_argument("--print-settings", action="store_true", help="print the effective settings and exit")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process dies")
    arguments = parser.parse_args(argv)
    parent_pid = _die_with_parent() if arguments.die_with_parent else None
    try:
        settings = WorkerSettings.load(**_read_file(arguments.settings))
        configure_logging(component="worker", level=settings.log_level, log_format=settings.log_format)
        place = settings.group_place()
        engine = _engine(settings, is_leader=place is None or place.is_leader)
    except (SettingsError, EngineConfigError, ValueError) as error:
        _exit_with(str(error))
    if arguments.print_settings:
        sys.stdout.write(settings.render() + "\n")
        return 0
    try:
        transport = transport_of(settings.tls)
    except CertificateError as error:
        _exit_with(str(error))
    structlog.get_logger("hortator.worker").info("starting", settings=settings.model_dump(mode="json"))

    async def run(drain: Drain) -> int:
        try:
            if engine is not None:
                return await serve(settings, engine, drain, transport=transport)
            assert place is not None  # noqa: S101  # without a place there is an engine
            return await hold_place(settings, place, drain, transport=transport)
        except BindError as error:
            sys.stderr.write(f"{error}\n")
            return EXIT_FAILED

    return run_process(run, drain_timeout_s=settings.drain_timeout_s + CLOSE_MARGIN_S, parent_pid=parent_pid)


def _engine(settings: WorkerSettings, *, is_leader: bool) -> Engine | None:
    """What this process hosts: nothing in a member other than ordinal 0.

    Where ranks run in all pods, each looks for itself at what they need, so that all of them say what is
    wrong before anything is started.
    """
    if not is_leader and not settings.is_launched:
        return None
    engine = build_engine(
        settings.engine, settings.engine_options, phase=settings.phase, num_pods=settings.group_size
    )
    if settings.is_launched:
        check_programs(is_leader=is_leader)
    settings.group_secret()
    return engine if is_leader else None


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        _exit_with(f"{path}: {error.strerror}")
    except ValueError as error:
        _exit_with(f"{path}: not valid JSON: {error}")
    if not isinstance(values, dict):
        _exit_with(f"{path}: must be a JSON object")
    unknown = sorted(set(values) - set(WorkerSettings.model_fields))
    if unknown:
        allowed = ", ".join(sorted(WorkerSettings.model_fields))
        _exit_with("\n".join(f"{path}: {name}: unknown setting (allowed: {allowed})" for name in unknown))
    return values


def _die_with_parent() -> int:
    """Have the kernel send SIGTERM when the parent dies, and name the parent for the slower watch.

    The watch (see `run_process`) is what shortens the drain then; the signal is what makes it prompt, and
    reaches a process whose loop is not running yet.
    """
    parent_pid = os.getppid()
    if not signal_at_parent_death(signal.SIGTERM):
        _exit_with("the parent process is gone")
    return parent_pid


def _exit_with(message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
