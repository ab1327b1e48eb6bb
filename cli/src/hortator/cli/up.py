"""`hortator up`: an LLMService on this machine, in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from rich.console import Console

from hortator.api.arithmetic import num_groups
from hortator.api.files import ManifestError, load_llmservice
from hortator.api.v1alpha1 import LLMService, PolicyName
from hortator.cli import process_settings
from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.progress import Progress
from hortator.cli.running import claim_folder, remove_folder
from hortator.cli.stack import StackOptions, StartAbandonedError, running_stack, with_policy
from hortator.runtime.lifecycle import Drain, run_process
from hortator.runtime.logs import LogFormat, configure_logging

DRAIN_TIMEOUT_S = 120.0
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def run(
    *,
    file: Path,
    port: int,
    gateways: int,
    num_schedulers: int,
    policy: str | None,
    record: Path | None,
    log_level: str,
    keep_logs: bool,
) -> int:
    """Serve until told to stop; returns the exit code.

    Raises:
        CommandError: the manifest or an option is wrong, or a process does not start.
    """
    if log_level.upper() not in LOG_LEVELS:
        raise CommandError(f"--log-level: got {log_level!r} (allowed: {', '.join(LOG_LEVELS)})")
    service = load_service(file, policy=policy)
    options = StackOptions(
        port=port,
        num_gateways=gateways,
        log_level=log_level.upper(),
        record_to=record.resolve() if record else None,
        num_schedulers=num_schedulers,
    )
    configure_logging(component="up", level="ERROR", log_format=LogFormat.CONSOLE)
    console = stderr()
    folder = claim_folder(service.metadata.name)
    describe(console, service)
    failures: list[CommandError] = []
    is_clean = False

    async def serve(drain: Drain) -> int:
        with Progress(console) as progress:
            try:
                async with running_stack(
                    service, folder=folder, options=options, on_event=progress.on_event, drain=drain
                ) as stack:
                    progress.done()
                    where = ", ".join(f"[b]{endpoint}[/b]" for endpoint in stack.endpoints)
                    progress.line(f"serving {service.model_name} at {where} (gRPC)")
                    console.print(
                        '          try: hortator generate "..."   hortator state --watch   stop: Ctrl-C'
                    )
                    print(*stack.endpoints, sep="\n", flush=True)
                    await drain.wait()
                    progress.line(f"draining ({drain.reason}); once more to stop at once")
            except StartAbandonedError:
                progress.line("stopped before it served")
            except CommandError as error:
                failures.append(error)
                return error.exit_code
        return 0

    try:
        code = run_process(serve, drain_timeout_s=DRAIN_TIMEOUT_S)
        is_clean = code == 0
    finally:
        remove_folder(folder, keep_logs=keep_logs or not is_clean)
    if failures:
        raise failures[0]
    if not is_clean:
        console.print(f"ended with exit code {code}; logs: {folder / 'logs'}")
    return code


def load_service(file: Path, *, policy: str | None = None) -> LLMService:
    """The LLMService of a file that runs on one machine, with another policy if one is named.

    Raises:
        CommandError: one line per problem.
    """
    try:
        service = load_llmservice(file)
    except ManifestError as error:
        raise CommandError(error.lines) from None
    if policy is not None and policy not in get_args(PolicyName):
        raise CommandError(f"--policy: got {policy!r} (allowed: {', '.join(get_args(PolicyName))})")
    if service.spec.engine.backend == "TensorRTLLM":
        raise CommandError(
            f"{file}: spec.engine.backend: TensorRTLLM needs GPU nodes "
            "(allowed on one machine: TorchMoE, Simulated)"
        )
    process_settings.check(service, source=str(file))
    return with_policy(service, policy)


def describe(console: Console, service: LLMService) -> None:
    """One line: what will run."""
    groups = ", ".join(
        f"{num_groups(service, role)} {role.name} x {role.parallelism.attention_dp} DP ranks"
        for role in service.spec.roles
    )
    spec = service.spec
    console.print(
        f"[b]{service.metadata.name}[/b]: {service.model_name} on {spec.engine.backend}, {spec.topology}: "
        f"{groups}; policy {spec.scheduler.policy}"
    )
