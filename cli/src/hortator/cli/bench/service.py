"""`hortator bench service`: what gateway and scheduler cost.

- *Added latency*: the time to the first token through gateway and scheduler, minus straight to the worker,
  with the same client and the same requests at the same rate, over simulated engines whose passes take next
  to no time. Both ways alternate, so that a noisy moment of the machine hits both; the difference is taken
  per repeat.
- *Placements per second*: one scheduler process, closed loop, one request per message, 64 block hashes each.
- *Memory*: resident size of gateway, scheduler and workers over 200 000 requests, against their size after
  warm-up. `memory_growth` is that of gateway or scheduler, whichever is larger, `worker_memory_growth` the
  largest of the workers.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from hortator.api.files import parse_llmservice
from hortator.cli.bench import result
from hortator.cli.bench.client.load import (
    GatewayLoad,
    Shape,
    Timeline,
    WorkerLoad,
    generate_message,
    open_loop,
)
from hortator.cli.bench.client.placements import PlacementLoad, placements_per_s
from hortator.cli.console import stderr
from hortator.cli.processes import Child, ProcessSpec
from hortator.cli.stack import Stack, running_stack

TARGETS = {
    "added_p50_ms": "<= 3",
    "added_p99_ms": "<= 8",
    "placements_per_s": ">= 3000",
    "memory_growth": "< 0.05",
    "worker_memory_growth": "< 0.05",
}
DP_SIZE = 8
MANIFEST = f"""
apiVersion: serving.hortator.dev/v1alpha1
kind: LLMService
metadata: {{name: bench-service}}
spec:
  model: {{uri: hf://deepseek-ai/DeepSeek-V3, name: deepseek-v3}}
  engine: {{backend: Simulated, simulated: {{timeScale: 0.001}}}}
  topology: Aggregated
  roles:
  - name: Aggregated
    replicas: 2
    nodes: 1
    gpusPerNode: {DP_SIZE}
    parallelism: {{attentionDP: {DP_SIZE}, expert: {DP_SIZE}}}
    kvBlocks: 8192
  scheduler: {{policy: staggered}}
"""
SHAPE = Shape(max_tokens=2)
RATE_PER_S = 200.0
NUM_CONNECTIONS = 4


def run(*, seed: int, quick: bool, json_file: Path | None) -> None:
    """Measure, print, write."""
    console = stderr()
    num_repeats, latency_s, placement_s, num_requests = (
        (2, 3.0, 3.0, 10_000) if quick else (5, 10.0, 10.0, 200_000)
    )
    latency, memory = asyncio.run(
        _with_stack(console, seed=seed, num_repeats=num_repeats, seconds=latency_s, num_requests=num_requests)
    )
    placements = [
        asyncio.run(_placements(console, seed=seed + repeat, seconds=placement_s))
        for repeat in range(num_repeats)
    ]
    figures = result.medians(latency) | result.medians(placements) | memory["figures"]
    document = result.document(
        "service",
        seed=seed,
        settings={
            "rate_per_s": RATE_PER_S,
            "num_prompt_tokens": SHAPE.num_prompt_tokens,
            "max_tokens": SHAPE.max_tokens,
            "seconds_per_repeat": latency_s,
            "placement_load": {name: getattr(PlacementLoad(), name) for name in PlacementLoad.__slots__},
            "placement_seconds": placement_s,
            "memory_requests": num_requests,
            "manifest": MANIFEST,
        },
        targets=TARGETS,
        figures=figures,
        repeats=[
            {"latency": one, "placements": other} for one, other in zip(latency, placements, strict=True)
        ],
    )
    document["memory"] = memory["samples"]
    for name, value in figures.items():
        target = f"   (target {TARGETS[name]})" if name in TARGETS else ""
        console.print(f"{name:28} {value:12.3f}{target}")
    result.write(document, json_file)


async def _with_stack(
    console: Console, *, seed: int, num_repeats: int, seconds: float, num_requests: int
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    service = parse_llmservice(MANIFEST, source="bench service")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "settings").mkdir()
        (folder / "logs").mkdir()
        async with running_stack(service, folder=folder) as stack:
            console.print("added latency: through the gateway, and straight to the worker")
            latency = await _latency(console, stack, seed=seed, num_repeats=num_repeats, seconds=seconds)
            console.print(f"memory over {num_requests} requests")
            memory = await _memory(console, stack, seed=seed, num_requests=num_requests)
    return latency, memory


async def _latency(
    console: Console, stack: Stack, *, seed: int, num_repeats: int, seconds: float
) -> list[dict[str, float]]:
    gateway = await GatewayLoad.open(stack.endpoint, num_connections=NUM_CONNECTIONS)
    worker = WorkerLoad(stack.workers[0].address, dp_size=DP_SIZE)
    await worker.open()
    repeats = []
    try:
        await _through_gateway(gateway, seed=seed, seconds=1.0)
        await _to_worker(worker, seed=seed, seconds=1.0, name="warmup")
        for repeat in range(num_repeats):
            repeat_seed = seed + 1 + repeat
            through = await _through_gateway(gateway, seed=repeat_seed, seconds=seconds)
            straight = await _to_worker(worker, seed=repeat_seed, seconds=seconds, name=f"r{repeat}")
            figures = {
                f"{way}_{key}": value
                for way, ttfts in (("gateway", through), ("worker", straight))
                for key, value in _percentiles(ttfts).items()
            }
            figures["added_p50_ms"] = figures["gateway_p50_ms"] - figures["worker_p50_ms"]
            figures["added_p99_ms"] = figures["gateway_p99_ms"] - figures["worker_p99_ms"]
            repeats.append(figures)
            console.print(
                f"  repeat {repeat}: added p50 {figures['added_p50_ms']:.2f} ms, "
                f"p99 {figures['added_p99_ms']:.2f} ms"
            )
    finally:
        gateway.close()
        worker.close()
    return repeats


async def _through_gateway(load: GatewayLoad, *, seed: int, seconds: float) -> list[float]:
    rng = random.Random(seed)
    messages = [generate_message(SHAPE, SHAPE.prompt(rng)) for _ in range(int(RATE_PER_S * seconds))]
    timelines: list[Timeline] = []
    await open_loop(
        len(messages), RATE_PER_S, rng, lambda index: timelines.append(load.send(messages[index], index))
    )
    async with asyncio.timeout(30):
        await load.wait_below(1)
    return [timeline.ttft_s for timeline in timelines]


async def _to_worker(load: WorkerLoad, *, seed: int, seconds: float, name: str) -> list[float]:
    rng = random.Random(seed)
    count = int(RATE_PER_S * seconds)
    messages = [load.message(f"{name}-{index}", index, SHAPE, SHAPE.prompt(rng)) for index in range(count)]
    timelines: list[Timeline] = []
    await open_loop(
        count, RATE_PER_S, rng, lambda index: timelines.append(load.send(f"{name}-{index}", messages[index]))
    )
    async with asyncio.timeout(30):
        while load.settle():  # noqa: ASYNC110  # what was received is parsed outside the measurement
            await asyncio.sleep(0.05)
    return [timeline.ttft_s for timeline in timelines]


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    if any(math.isnan(value) for value in seconds):
        raise RuntimeError("a request got no token")
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "mean_ms": 1000 * statistics.fmean(seconds),
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "max_ms": 1000 * max(seconds),
    }


async def _memory(console: Console, stack: Stack, *, seed: int, num_requests: int) -> dict[str, Any]:
    """Resident sizes over many requests; growth is against the size after the first tenth."""
    rng = random.Random(seed)
    load = await GatewayLoad.open(stack.endpoint, num_connections=NUM_CONNECTIONS)
    pids = {"gateway": stack.gateway.running().pid, "scheduler": stack.scheduler.running().pid}
    workers = {f"worker_{index}": worker.running().pid for index, worker in enumerate(stack.workers)}
    pids |= workers
    samples: list[dict[str, float]] = []
    messages = [generate_message(SHAPE, SHAPE.prompt(rng)) for _ in range(2000)]
    every = num_requests // 40
    started_at = time.perf_counter()
    try:
        for index in range(num_requests):
            await load.wait_below(64)
            load.send(messages[rng.randrange(len(messages))], index)
            if (index + 1) % every == 0:
                sizes = {f"{name}_rss_mib": rss_mib(pid) for name, pid in pids.items()}
                samples.append({"num_requests": index + 1, **sizes})
                console.print(
                    f"  {index + 1:>7} requests: "
                    + ", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items()),
                )
        async with asyncio.timeout(30):
            await load.wait_below(1)
    finally:
        load.close()
    elapsed_s = time.perf_counter() - started_at
    figures: dict[str, float] = {"requests_per_s": num_requests / elapsed_s}
    for name in pids:
        key = f"{name}_rss_mib"
        after_warmup = samples[len(samples) // 10][key]
        figures[f"{name}_memory_growth"] = samples[-1][key] / after_warmup - 1
        figures[key] = samples[-1][key]
    figures["memory_growth"] = max(figures[f"{name}_memory_growth"] for name in pids if name not in workers)
    figures["worker_memory_growth"] = max(figures[f"{name}_memory_growth"] for name in workers)
    return {"figures": figures, "samples": samples}


async def _placements(console: Console, *, seed: int, seconds: float) -> dict[str, float]:
    async with _scheduler() as (address, pid):
        before = cpu_seconds(pid)
        figures = await placements_per_s(
            address, PlacementLoad(), warmup_s=2.0, measured_s=seconds, max_rate_per_s=10_000, seed=seed
        )
        figures["scheduler_cpu_s"] = cpu_seconds(pid) - before
    console.print(f"  {figures['placements_per_s']:.0f} placements/s")
    return figures


@asynccontextmanager
async def _scheduler() -> AsyncIterator[tuple[str, int]]:
    """A scheduler alone: its address and pid."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "settings").mkdir()
        (folder / "logs").mkdir()
        spec = ProcessSpec(
            name="scheduler",
            module="hortator.scheduler",
            settings=lambda: {
                "port": 0,
                "log_level": "ERROR",
                "drain_timeout_s": 1.0,
                "core": {"policy": "staggered"},
            },
        )
        child = Child(spec=spec, folder=folder, on_change=lambda _change: None)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child.keep_running())
            await child.wait_ready()
            try:
                yield child.address, child.running().pid
            finally:
                await child.stop()


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
