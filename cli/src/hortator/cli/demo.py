"""`hortator demo`, the tour that `make run` gives: first the idea in figures, then a real model in words.

1. Every policy in virtual time: ten minutes of the real scheduler core over simulated H800 groups, one table.
2. The first seconds of the same requests live: gateway, scheduler and one worker process per simulated
   group, in real time, beside the same seconds in virtual time. Requests end with their first token, so
   that two cores suffice.
3. The sample manifest with the real MoE engine on CPU: started, asked through the public gRPC API, stopped.

Nothing is left behind: folders are temporary, processes end with their `with` block. SIGTERM and Ctrl-C end
the tour early: what was sent is answered, then everything stops, and the exit code is 0.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from hortator.api.v1alpha1 import LLMService
from hortator.cli.console import stdout
from hortator.cli.demo_live import LOAD, VIRTUAL_S, live_run, stack_folder
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.generate import Asked, summary
from hortator.cli.inference.client import InferenceClient
from hortator.cli.inference.options import GenerateOptions
from hortator.cli.progress import Progress
from hortator.cli.simulate import compare_in_pool, load_manifest, table
from hortator.cli.stack import StartAbandonedError, running_stack
from hortator.cli.up import describe, load_service
from hortator.client import Completion, Delta
from hortator.runtime.lifecycle import Drain, run_process
from hortator.runtime.logs import LogFormat, configure_logging
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.sim.simulate import Study, generated_workload

CLUSTER = Path("benchmarks/sim/clusters/prefill-4xEP16.yaml")
SAMPLE = Path("manifests/samples/llmservice-local.yaml")
DRAIN_TIMEOUT_S = 60.0
"""For the answers that are under way and the end of every process."""
PROMPTS = (
    "ROMEO.\nBut soft, what light",
    "HAMLET.\nTo be, or not to be",
    "Shall I compare thee to a summer's day?\n",
    "[Enter MACBETH, and three WITCHES]\n\nMACBETH.\n",
)


class _EndedEarlyError(Exception):
    """A drain was requested; what is left of the tour is not given."""


def run(*, live_s: float, seed: int, skip_comparison: bool) -> int:
    """Give the tour; returns the exit code.

    Raises:
        CommandError: the sample files are not there, or a process did not start.
    """
    root = repository()
    console = stdout()
    sample = load_service(root / SAMPLE)
    cluster = None if skip_comparison else load_manifest(root / CLUSTER)
    failures: list[CommandError] = []

    async def tour(drain: Drain) -> int:
        started_at = time.monotonic()
        try:
            if cluster is not None:
                await _study(console, drain, cluster, seed=seed, live_s=live_s)
            _heading(console, "3. A real mixture-of-experts model on this machine's CPU")
            num_failed = await _serve(console, drain, sample)
        except (_EndedEarlyError, StartAbandonedError):
            console.print(f"\n[dim]ended early ({drain.reason}); nothing is left running[/dim]")
            return 0
        except CommandError as error:
            failures.append(error)
            return error.exit_code
        console.print(f"\n[dim]done in {time.monotonic() - started_at:.0f} s; nothing is left running[/dim]")
        return EXIT_FAILED if num_failed else 0

    configure_logging(component="demo", level="ERROR", log_format=LogFormat.CONSOLE)
    code = run_process(tour, drain_timeout_s=DRAIN_TIMEOUT_S)
    if failures:
        raise failures[0]
    return code


def repository() -> Path:
    """The folder that holds manifests and benchmarks. Raises CommandError outside a checkout."""
    for folder in (Path.cwd(), *Path(__file__).resolve().parents):
        if (folder / SAMPLE).is_file() and (folder / CLUSTER).is_file():
            return folder
    raise CommandError(f"{SAMPLE}: not found (run this in a checkout of the repository)")


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold cyan]{text}[/bold cyan]\n")


def _unless_drained(drain: Drain) -> None:
    if drain.is_requested:
        raise _EndedEarlyError


async def _study(console: Console, drain: Drain, service: LLMService, *, seed: int, live_s: float) -> None:
    _heading(console, "1. Ten minutes of every policy, in virtual time")
    await _compare(console, drain, service, seed=seed)
    _heading(
        console, f"2. {live_s:.0f} seconds of it live: gateway, scheduler, six workers with simulated engines"
    )
    await live_run(console, drain, service, seed=seed, live_s=live_s)
    _unless_drained(drain)


async def _compare(console: Console, drain: Drain, service: LLMService, *, seed: int) -> None:
    workload = generated_workload(service, load=LOAD, seed=seed, min_run_s=VIRTUAL_S)
    study = Study(service=service, workload=workload, seed=seed, prefill_only=True)
    role = service.role("Prefill")
    console.print(
        f"{study.num_entry_groups} simulated prefill groups of EP{role.parallelism.expert} "
        f"(DeepSeek-V3 on H800, from a cost model), {len(workload.requests):,} made-up conversations "
        f"at {100 * workload.load:.0f} % load, seed {seed}.\n"
        "The scheduler core is the one that serves; only its clock is virtual. It takes half a minute."
    )
    async with asyncio.TaskGroup() as tasks:
        comparing = tasks.create_task(compare_in_pool(study, tuple(POLICY_NAMES), console=console))
        draining = tasks.create_task(drain.wait())
        await asyncio.wait({comparing, draining}, return_when=asyncio.FIRST_COMPLETED)
        comparing.cancel()
        draining.cancel()
    _unless_drained(drain)
    console.print()
    console.print(table(comparing.result().figures))


async def _serve(console: Console, drain: Drain, service: LLMService) -> int:
    """Start the sample, stream the prompts' answers, stop; the number of prompts that failed."""
    describe(console, service)
    num_failed = 0
    with tempfile.TemporaryDirectory(prefix="hortator-") as name, Progress(console) as progress:
        folder = stack_folder(Path(name))
        async with running_stack(service, folder=folder, on_event=progress.on_event, drain=drain) as stack:
            progress.done()
            progress.line(f"serving {service.model_name} at {stack.endpoint}")
            async with InferenceClient(stack.endpoint) as client:
                for prompt in PROMPTS:
                    if drain.is_requested:
                        break
                    asked = Asked(
                        prompt=prompt,
                        options=GenerateOptions(max_tokens=48, temperature=0.7, top_p=0.9, seed=7),
                    )
                    num_failed += not await _print_answer(console, client, asked)
            progress.line("stopping")
    _unless_drained(drain)
    return num_failed


async def _print_answer(console: Console, client: InferenceClient, asked: Asked) -> bool:
    """Print the text as it comes, the prompt in bold before it; whether it came to its end."""
    console.print()
    console.print(asked.prompt, style="bold", end="", markup=False)
    try:
        async for event in client.generate(asked.prompt, asked.options):
            match event:
                case Delta():
                    sys.stdout.write(event.text)
                    sys.stdout.flush()
                case Completion():
                    console.print(f"\n[dim]{summary(event)}[/dim]")
                    return True
    except CommandError as error:
        console.print(f"\n[red]{error}[/red]")
    return False
