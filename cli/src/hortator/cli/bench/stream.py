"""`hortator bench stream`: how many tokens per second one gateway process streams to 500 clients at a time.

A simulated EP group decodes 500 requests in lock-step; its pass time (and with it the token rate) is
shortened step by step until gateway, worker and client together cannot follow; the figure is the best rate
that was delivered whole: every token once and in order. The gap between tokens is compared with the same
requests read straight from the worker: what is added is the gateway's coalescing and its queueing.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from hortator.api.files import parse_llmservice
from hortator.cli.bench import result
from hortator.cli.bench.client.load import (
    GatewayLoad,
    Shape,
    Timeline,
    WorkerLoad,
    generate_message,
    read_tokens,
)
from hortator.cli.bench.service import cpu_seconds
from hortator.cli.console import stderr
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.stack import Stack, StackOptions, running_stack

TARGETS = {"tokens_per_s": ">= 40000"}
NUM_CLIENTS = 500
NUM_CONNECTIONS = 20
DP_SIZE = 16
SHAPE = Shape(num_prompt_tokens=16, max_tokens=1500)
TIME_SCALES = (0.2, 0.15, 0.1, 0.07)
"""Wall seconds per simulated second: a decode pass of this group takes about 35 ms on H800."""
MANIFEST = """
apiVersion: serving.hortator.dev/v1alpha1
kind: LLMService
metadata: {{name: bench-stream}}
spec:
  model: {{uri: hf://deepseek-ai/DeepSeek-V3, name: deepseek-v3}}
  engine: {{backend: Simulated, simulated: {{timeScale: {time_scale}}}}}
  topology: Aggregated
  roles:
  - name: Aggregated
    replicas: 1
    nodes: 2
    gpusPerNode: 8
    parallelism: {{attentionDP: 16, expert: 16}}
    maxBatchSize: 64
    kvBlocks: 8192
  scheduler: {{policy: staggered}}
"""


def run(*, seed: int, quick: bool, json_file: Path | None) -> None:
    """Measure, print, write."""
    console = stderr()
    num_repeats, seconds = (1, 4.0) if quick else (3, 10.0)
    scales = TIME_SCALES[1:3] if quick else TIME_SCALES
    repeats = []
    for _ in range(num_repeats):
        for scale in scales:
            figures = asyncio.run(_measure(scale, seed=seed, seconds=seconds))
            repeats.append(figures)
            console.print(
                f"  time scale {scale}: {figures['tokens_per_s']:,.0f} tokens/s in "
                f"{figures['messages_per_s']:,.0f} messages/s, "
                f"gateway {100 * figures['gateway_cpu_share']:.0f} % of a core, "
                f"ITL p99 {figures['gateway_itl_p99_ms']:.1f} ms "
                f"(straight {figures['worker_itl_p99_ms']:.1f} ms)"
            )
    by_scale = [result.medians([one for one in repeats if one["time_scale"] == scale]) for scale in scales]
    best = max(by_scale, key=lambda figures: figures["tokens_per_s"])
    for name, value in best.items():
        _line(console, name, value)
    document = result.document(
        "stream",
        seed=seed,
        settings={
            "num_clients": NUM_CLIENTS,
            "num_connections": NUM_CONNECTIONS,
            "max_tokens": SHAPE.max_tokens,
            "seconds_per_repeat": seconds,
            "time_scales": scales,
            "manifest": MANIFEST,
        },
        targets=TARGETS,
        figures=best,
        repeats=repeats,
    )
    result.write(document, json_file)


def _line(console: Console, name: str, value: float) -> None:
    target = f"   (target {TARGETS[name]})" if name in TARGETS else ""
    console.print(f"{name:24} {value:12.2f}{target}")


async def _measure(time_scale: float, *, seed: int, seconds: float) -> dict[str, float]:
    service = parse_llmservice(MANIFEST.format(time_scale=time_scale), source="bench stream")
    with tempfile.TemporaryDirectory(prefix="hortator-") as name:
        folder = Path(name)
        (folder / "settings").mkdir()
        (folder / "logs").mkdir()
        async with running_stack(service, folder=folder, options=StackOptions(log_level="ERROR")) as stack:
            through = await _through_gateway(stack, seed=seed, seconds=seconds)
            straight = await _straight(stack, seed=seed, seconds=seconds / 2)
    figures = {"time_scale": time_scale, **through, **straight}
    figures["added_itl_p99_ms"] = figures["gateway_itl_p99_ms"] - figures["worker_itl_p99_ms"]
    return figures


async def _through_gateway(stack: Stack, *, seed: int, seconds: float) -> dict[str, float]:
    rng = random.Random(seed)
    load = await GatewayLoad.open(stack.endpoint, num_connections=NUM_CONNECTIONS)
    timelines: list[Timeline] = []
    stop = asyncio.Event()

    async def client(index: int) -> None:
        """One request after the other; its first is shorter, so that not all end together."""
        shape = Shape(
            num_prompt_tokens=SHAPE.num_prompt_tokens, max_tokens=rng.randint(200, SHAPE.max_tokens)
        )
        while not stop.is_set():
            timeline = load.send(generate_message(shape, shape.prompt(rng)), index)
            timelines.append(timeline)
            shape = SHAPE
            while timeline.is_live and not stop.is_set():  # noqa: ASYNC110  # 500 events would cost more
                await asyncio.sleep(0.05)

    try:
        async with asyncio.TaskGroup() as tasks:
            for index in range(NUM_CLIENTS):
                tasks.create_task(client(index))
            await asyncio.sleep(3.0)
            pids = [stack.gateway.running().pid, stack.workers[0].running().pid]
            before = [cpu_seconds(pid) for pid in pids] + [time.process_time()]
            started_at = time.perf_counter()
            await asyncio.sleep(seconds)
            ended_at = time.perf_counter()
            after = [cpu_seconds(pid) for pid in pids] + [time.process_time()]
            stop.set()
    finally:
        load.close()
    shares = [(new - old) / (ended_at - started_at) for old, new in zip(before, after, strict=True)]
    deltas, gaps = _window(timelines, started_at, ended_at)
    elapsed_s = ended_at - started_at
    return {
        "tokens_per_s": sum(count for _, count in deltas) / elapsed_s,
        "messages_per_s": len(deltas) / elapsed_s,
        "gateway_cpu_share": shares[0],
        "worker_cpu_share": shares[1],
        "client_cpu_share": shares[2],
        **_gap_figures("gateway", gaps),
    }


def _window(
    timelines: Sequence[Timeline], started_at: float, ended_at: float
) -> tuple[list[tuple[float, int]], list[float]]:
    """(time, tokens) of the messages in the window, and the gap before each token."""
    deltas: list[tuple[float, int]] = []
    gaps: list[float] = []
    for timeline in timelines:
        received, found = read_tokens(timeline)
        if not received.is_in_order:
            raise CommandError("a stream had a gap or came out of order", exit_code=EXIT_FAILED)
        previous_at = None
        for at, count in found:
            if started_at <= at < ended_at:
                deltas.append((at, count))
                if previous_at is not None and count:
                    gaps.append(at - previous_at)
                    gaps += [0.0] * (count - 1)
            previous_at = at
    if not deltas:
        raise CommandError("no tokens came", exit_code=EXIT_FAILED)
    return deltas, gaps


async def _straight(stack: Stack, *, seed: int, seconds: float) -> dict[str, float]:
    """The gaps between tokens of as many requests, read from the worker."""
    rng = random.Random(seed)
    load = WorkerLoad(stack.workers[0].address, dp_size=DP_SIZE)
    await load.open()
    try:
        timelines = []
        for index in range(NUM_CLIENTS):
            request_id = f"straight-{index}"
            timelines.append(load.send(request_id, load.message(request_id, index, SHAPE, SHAPE.prompt(rng))))
        await asyncio.sleep(2.0)
        started_at = time.perf_counter()
        await asyncio.sleep(seconds)
        ended_at = time.perf_counter()
        load.settle()
    finally:
        load.close()
    gaps = [
        at - previous_at
        for timeline in timelines
        for (previous_at, _), (at, _) in zip(timeline.messages, timeline.messages[1:], strict=False)
        if started_at <= at < ended_at
    ]
    return _gap_figures("worker", gaps)


def _gap_figures(way: str, gaps: Sequence[float]) -> dict[str, float]:
    """Mean and 99th percentile of the gap before each token; tokens of one message follow without a gap."""
    array = np.asarray(gaps) * 1000
    return {f"{way}_itl_mean_ms": float(array.mean()), f"{way}_itl_p99_ms": float(np.percentile(array, 99))}
