"""The live part of `hortator demo`: the first seconds of the study's requests in real time.

Gateway, scheduler and one worker process per simulated group, beside the same seconds in virtual time.
Requests end with their first token, so that two cores suffice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hortator.api.v1alpha1 import LLMService
from hortator.cli.admin.client import AdminClient
from hortator.cli.bench.client.load import GatewayLoad, Shape, Timeline, generate_message
from hortator.cli.progress import Progress
from hortator.cli.stack import StackOptions, running_stack
from hortator.runtime.lifecycle import Drain
from hortator.sim.load import LoadedTrace
from hortator.sim.simulate import Study, generated_workload, simulate
from hortator.sim.workload import TraceRequest

LOAD = 0.7
VIRTUAL_S = 600.0
LIVE_POLICIES = ("immediate-least-tokens", "staggered")
SETTLE_S = 2.0
"""Pause between two live policies, so that the second starts on idle engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the live run of one policy measured at the client."""

    num_requests: int
    num_answered: int
    ttft_s: Sequence[float]
    seconds: float


async def live_run(console: Console, drain: Drain, service: LLMService, *, seed: int, live_s: float) -> None:
    """Run the first `live_s` / 2 seconds of the study's requests under each of two policies; print a table.

    A drain ends it without the table.

    Raises:
        CommandError: a process did not start.
        StartAbandonedError: a drain was requested before it served.
    """
    seconds = live_s / len(LIVE_POLICIES)
    workload = _first_seconds(generated_workload(service, load=LOAD, seed=seed, min_run_s=VIRTUAL_S), seconds)
    virtual = {policy: _virtual(service, workload, policy, seed=seed) for policy in LIVE_POLICIES}
    live: dict[str, Live] = {}
    options = StackOptions(log_level="WARNING")
    with tempfile.TemporaryDirectory(prefix="hortator-") as name, Progress(console) as progress:
        progress.waiting("scheduler, workers, gateway")
        async with running_stack(
            service, folder=stack_folder(Path(name)), options=options, drain=drain
        ) as stack:
            async with AdminClient(stack.scheduler.address) as admin:
                for policy in LIVE_POLICIES:
                    if drain.is_requested:
                        break
                    await admin.change_policy(policy)
                    progress.line(f"{policy}: {len(workload.requests)} requests in {seconds:.0f} s")
                    live[policy] = await _drive(drain, stack.endpoint, workload, seed=seed)
                    await _pause(drain, SETTLE_S)
            progress.done()
    if drain.is_requested:
        return
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


async def _pause(drain: Drain, seconds: float) -> None:
    """Wait; a drain ends it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await drain.wait()


async def _drive(drain: Drain, endpoint: str, workload: LoadedTrace, *, seed: int) -> Live:
    """Send the requests at their times, no more after a drain, and wait for their first tokens."""
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
                await _pause(drain, delay_s)
            if drain.is_requested:
                break
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


def stack_folder(folder: Path) -> Path:
    """The folder with what a stack wants to find in it."""
    (folder / "settings").mkdir()
    (folder / "logs").mkdir()
    return folder
