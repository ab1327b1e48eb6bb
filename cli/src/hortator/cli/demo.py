"""`hortator demo`, the tour that `make run` gives: first the idea in figures, then a real model in words.

1. Every policy in virtual time: ten minutes of the real scheduler core over simulated H800 groups, one table.
2. The first seconds of the same requests live: gateway, scheduler and one worker process per simulated
   group, in real time, beside the same seconds in virtual time. Requests end with their first token, so
   that two cores suffice.
3. The sample manifest with the real MoE engine on CPU: started, asked through the public gRPC API, stopped.

Nothing is left behind: folders are temporary, processes end with their `with` block.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hortator.api.v1alpha1 import LLMService
from hortator.cli.admin.client import AdminClient
from hortator.cli.bench.client.load import GatewayLoad, Shape, Timeline, generate_message
from hortator.cli.client import Completion, Delta
from hortator.cli.console import stdout
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.generate import Asked, summary
from hortator.cli.inference.client import InferenceClient
from hortator.cli.inference.options import GenerateOptions
from hortator.cli.progress import Progress
from hortator.cli.simulate import compare, load_manifest, table
from hortator.cli.stack import StackOptions, running_stack
from hortator.cli.up import describe, load_service
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.sim.load import LoadedTrace
from hortator.sim.simulate import Study, generated_workload, simulate
from hortator.sim.workload import TraceRequest

CLUSTER = Path("benchmarks/sim/clusters/prefill-4xEP16.yaml")
SAMPLE = Path("manifests/samples/llmservice-local.yaml")
LOAD = 0.7
VIRTUAL_S = 600.0
LIVE_POLICIES = ("immediate-least-tokens", "staggered")
SETTLE_S = 2.0
"""Pause between two live policies, so that the second starts on idle engines."""
PROMPTS = (
    "ROMEO.\nBut soft, what light",
    "HAMLET.\nTo be, or not to be",
    "Shall I compare thee to a summer's day?\n",
    "[Enter MACBETH, and three WITCHES]\n\nMACBETH.\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the live run of one policy measured at the client."""

    num_requests: int
    num_answered: int
    ttft_s: Sequence[float]
    seconds: float


def run(*, live_s: float, seed: int, skip_comparison: bool) -> int:
    """Give the tour; returns the exit code.

    Raises:
        CommandError: the sample files are not there, or a process did not start.
    """
    started_at = time.monotonic()
    console = stdout()
    root = repository()
    if not skip_comparison:
        service = load_manifest(root / CLUSTER)
        _heading(console, "1. Ten minutes of every policy, in virtual time")
        _compare(console, service, seed=seed)
        _heading(
            console,
            f"2. {live_s:.0f} seconds of it live: gateway, scheduler, six workers with simulated engines",
        )
        asyncio.run(_live(console, service, seed=seed, live_s=live_s))
    _heading(console, "3. A real mixture-of-experts model on this machine's CPU")
    num_failed = asyncio.run(_serve(console, load_service(root / SAMPLE)))
    console.print(f"\n[dim]done in {time.monotonic() - started_at:.0f} s; nothing is left running[/dim]")
    return EXIT_FAILED if num_failed else 0


def repository() -> Path:
    """The folder that holds manifests and benchmarks. Raises CommandError outside a checkout."""
    for folder in (Path.cwd(), *Path(__file__).resolve().parents):
        if (folder / SAMPLE).is_file() and (folder / CLUSTER).is_file():
            return folder
    raise CommandError(f"{SAMPLE}: not found (run this in a checkout of the repository)")


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold cyan]{text}[/bold cyan]\n")


def _compare(console: Console, service: LLMService, *, seed: int) -> None:
    workload = generated_workload(service, load=LOAD, seed=seed, min_run_s=VIRTUAL_S)
    study = Study(service=service, workload=workload, seed=seed, prefill_only=True)
    role = service.role("Prefill")
    console.print(
        f"{study.num_entry_groups} simulated prefill groups of EP{role.parallelism.expert} "
        f"(DeepSeek-V3 on H800, from a cost model), {len(workload.requests):,} made-up conversations "
        f"at {100 * workload.load:.0f} % load, seed {seed}.\n"
        "The scheduler core is the one that serves; only its clock is virtual. It takes half a minute."
    )
    comparison = compare(study, tuple(POLICY_NAMES), console=console)
    console.print()
    console.print(table(comparison.figures))


async def _live(console: Console, service: LLMService, *, seed: int, live_s: float) -> None:
    seconds = live_s / len(LIVE_POLICIES)
    workload = _first_seconds(generated_workload(service, load=LOAD, seed=seed, min_run_s=VIRTUAL_S), seconds)
    virtual = {policy: _virtual(service, workload, policy, seed=seed) for policy in LIVE_POLICIES}
    live: dict[str, Live] = {}
    with tempfile.TemporaryDirectory(prefix="hortator-") as name, Progress(console) as progress:
        folder = _folder(name)
        progress.waiting("scheduler, workers, gateway")
        async with running_stack(service, folder=folder, options=StackOptions(log_level="WARNING")) as stack:
            async with AdminClient(stack.scheduler.address) as admin:
                for policy in LIVE_POLICIES:
                    await admin.change_policy(policy)
                    progress.line(f"{policy}: {len(workload.requests)} requests in {seconds:.0f} s")
                    live[policy] = await _drive(stack.endpoint, workload, seed=seed)
                    await asyncio.sleep(SETTLE_S)
            progress.done()
    console.print()
    console.print(_live_table(live, virtual))
    console.print(
        "\n[dim]Live figures are this machine's wall clock, measured at the client; the engines only wait\n"
        "as long as the cost model says. Ranks that share a CPU core lose nothing by idling, ranks on GPUs\n"
        "do: what a policy gains is in the first table, that the processes really do it in this one.[/dim]"
    )


def _first_seconds(workload: LoadedTrace, seconds: float) -> LoadedTrace:
    requests = [request for request in workload.requests if request.arrived_at < seconds]
    return replace(workload, requests=tuple(requests), wall_s=seconds)


def _virtual(service: LLMService, workload: LoadedTrace, policy: str, *, seed: int) -> Mapping[str, Any]:
    records: list[Any] = []
    simulate(
        Study(service=service, workload=workload, seed=seed, prefill_only=True), policy, keep_records=records
    )
    return _ttft([record.first_token_at - record.arrived_at for record in records if not record.rejected])


async def _drive(endpoint: str, workload: LoadedTrace, *, seed: int) -> Live:
    """Send the requests at their times and wait for their first tokens."""
    rng = random.Random(seed)
    messages = [_message(request, rng) for request in workload.requests]
    load = await GatewayLoad.open(endpoint, num_connections=4)
    timelines: list[Timeline] = []
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    try:
        for index, request in enumerate(workload.requests):
            delay_s = started_at + request.arrived_at - loop.time()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            timelines.append(load.send(messages[index], index))
        async with asyncio.timeout(30):
            await load.wait_below(1)
    finally:
        load.close()
    ttfts = [timeline.ttft_s for timeline in timelines if timeline.messages]
    return Live(
        num_requests=len(timelines),
        num_answered=len(ttfts),
        ttft_s=ttfts,
        seconds=loop.time() - started_at,
    )


def _message(request: TraceRequest, rng: random.Random) -> bytes:
    shape = Shape(num_prompt_tokens=request.num_prompt_tokens, max_tokens=1)
    return generate_message(
        shape, rng.choices(range(shape.first_token_id, shape.end_token_id), k=request.num_prompt_tokens)
    )


def _ttft(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"mean": statistics.fmean(seconds), "p50": cuts[49], "p99": cuts[98]}


def _live_table(live: Mapping[str, Live], virtual: Mapping[str, Mapping[str, float]]) -> Table:
    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    out.add_column("policy", no_wrap=True)
    out.add_column("", no_wrap=True)
    for header in ("TTFT mean", "p50", "p99 (ms)", "answered"):
        out.add_column(header, justify="right", no_wrap=True)
    for policy, measured in live.items():
        rows = (("live, wall clock", _ttft(measured.ttft_s)), ("the same in virtual time", virtual[policy]))
        for index, (way, ttft) in enumerate(rows):
            out.add_row(
                policy if index == 0 else "",
                way,
                *(f"{1000 * ttft[key]:.0f}" for key in ("mean", "p50", "p99")),
                f"{measured.num_answered} of {measured.num_requests}" if index == 0 else "",
            )
    return out


async def _serve(console: Console, service: LLMService) -> int:
    """Start the sample, stream the prompts' answers, stop; the number of prompts that failed."""
    describe(console, service)
    num_failed = 0
    with tempfile.TemporaryDirectory(prefix="hortator-") as name, Progress(console) as progress:
        folder = _folder(name)
        async with running_stack(service, folder=folder, on_event=progress.on_event) as stack:
            progress.done()
            progress.line(f"serving {service.model_name} at {stack.endpoint}")
            async with InferenceClient(stack.endpoint) as client:
                for prompt in PROMPTS:
                    asked = Asked(
                        prompt=prompt,
                        options=GenerateOptions(max_tokens=48, temperature=0.7, top_p=0.9, seed=7),
                    )
                    num_failed += not await _print_answer(console, client, asked)
            progress.line("stopping")
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


def _folder(name: str) -> Path:
    folder = Path(name)
    (folder / "settings").mkdir()
    (folder / "logs").mkdir()
    return folder
