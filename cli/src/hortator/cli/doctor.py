"""`hortator doctor`: are this machine and its engine what Hortator takes them for?

For a worker pod on a GPU node, before a service goes there or when one behaves oddly. On a machine without
GPUs it says what it cannot look at.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import structlog

from hortator.cli.checks import render
from hortator.cli.console import stderr, stdout
from hortator.cli.doctor_group import group_checks
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.runtime.checks import Check
from hortator.worker.engines.trtllm import library
from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.doctor import machine
from hortator.worker.engines.trtllm.doctor.examine import engine_checks, library_checks
from hortator.worker.errors import EngineConfigError

ENGINES = ("trtllm",)
PHASES = ("prefill", "aggregated")


def run(
    *,
    engine: str,
    settings: Path | None,
    phase: str | None,
    group: bool,
    patience_s: float,
    verbose: bool,
    as_json: bool,
) -> int:
    """Print all checks; the exit code is 1 when one has failed.

    Raises:
        CommandError: an option or the settings are wrong.
    """
    if engine not in ENGINES:
        raise CommandError(f"--engine: got {engine!r} (allowed: {', '.join(ENGINES)})")
    if phase is not None and phase not in PHASES:
        raise CommandError(f"--phase: got {phase!r} (allowed: {', '.join(PHASES)})")
    if phase is not None and settings is None:
        raise CommandError("--phase: no engine is started without --settings FILE")
    if group and settings is not None:
        raise CommandError("--group: got --settings too (allowed: one of them; --group starts no engine)")
    config = None if settings is None else _config(settings, phase)
    level = logging.INFO if verbose else logging.ERROR
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    with _said_to_standard_error():
        found = group_checks(patience_s=patience_s) if group else _checks(config, patience_s)
        checks = asyncio.run(_all(found))
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        stdout().print(render(checks))
    return EXIT_FAILED if any(check.verdict == "failed" for check in checks) else 0


@contextmanager
def _said_to_standard_error() -> Iterator[None]:
    """Standard output is for the checks alone: what a library prints as it is imported goes elsewhere."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


async def _all(found: AsyncIterator[Check]) -> list[Check]:
    checks = []
    async for check in found:
        checks.append(check)
        if check.verdict == "failed":
            stderr().print(f"failed: {check.name}: {check.found}", markup=False)
    return checks


async def _checks(config: TensorRTLLMConfig | None, patience_s: float) -> AsyncIterator[Check]:
    for check in machine.examine(num_gpus=None if config is None else config.tensor_parallel_size):
        yield check
    is_usable = True
    for check in library_checks():
        yield check
        is_usable = is_usable and check.verdict == "ok"
    if config is None:
        yield Check(
            name="engine",
            verdict="skipped",
            found="not started",
            fix="--settings FILE: the worker's settings, with engine_options",
        )
    elif not library.is_installed():
        yield Check(name="engine", verdict="skipped", found="not started: tensorrt_llm is not installed here")
    elif is_usable:
        async for check in engine_checks(config, patience_s=patience_s, exit_process=os._exit):
            yield check


def _config(settings: Path, phase: str | None) -> TensorRTLLMConfig:
    try:
        values = json.loads(settings.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--settings {settings}: {error}") from None
    except json.JSONDecodeError as error:
        raise CommandError(f"--settings {settings}: not JSON: {error}") from None
    options = values.get("engine_options") if isinstance(values, Mapping) else None
    if not isinstance(options, Mapping):
        raise CommandError(
            f"--settings {settings}: has no object engine_options (allowed: a worker's settings)"
        )
    known = {field.name for field in fields(TensorRTLLMConfig)}
    for name in options:
        if name not in known:
            raise CommandError(f"{settings}: engine_options.{name}: is no option of the engine")
    given: dict[str, Any] = dict(options)
    given["phase"] = phase or values.get("phase") or given.get("phase", "aggregated")
    try:
        return TensorRTLLMConfig(**given)
    except (TypeError, ValueError, EngineConfigError) as error:
        raise CommandError(f"{settings}: engine_options: {error}") from None
