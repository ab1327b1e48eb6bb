"""`hortator bench failover`: how long nothing is placed when the scheduler that leads goes away.

Two schedulers, three simulated EP groups (two prefill, one decode), a gateway, and clients that send requests
at a steady rate all the time. Then the leader, whichever it is by then, is

- *killed* (SIGKILL; it is started again and stands by),
- *terminated* (SIGTERM; it hands over, ends, and is started again), or
- *stopped* (SIGSTOP, so that its connections just fall silent, and after a while SIGCONT: it comes back and
  still believes that it leads).

`*_s` is the time from the signal to the first token of any request that was sent after it. Every request must
end well, with each of its tokens once and in order.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from hortator.api.files import parse_llmservice
from hortator.cli.admin.client import AdminClient
from hortator.cli.admin.leader import leader_address
from hortator.cli.bench import result
from hortator.cli.console import stderr
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.processes import Child
from hortator.cli.stack import Stack, StackOptions, running_stack
from hortator.client import Delta, GatewayClient, GenerateError, Sampling

TARGETS = {
    "killed_s": "< 2",
    "terminated_s": "< 0.5",
    "stopped_s": "< 5",
    "failed_requests": "<= 0",
    "broken_streams": "<= 0",
}
MANIFEST = """
apiVersion: serving.hortator.dev/v1alpha1
kind: LLMService
metadata: {name: bench-failover}
spec:
  model: {uri: hf://deepseek-ai/DeepSeek-V3, name: deepseek-v3}
  engine: {backend: Simulated, simulated: {timeScale: 0.2}}
  topology: PrefillDecode
  roles:
  - name: Prefill
    replicas: 2
    nodes: 1
    gpusPerNode: 4
    parallelism: {attentionDP: 4, expert: 4}
    kvBlocks: 8192
  - name: Decode
    replicas: 1
    nodes: 1
    gpusPerNode: 4
    parallelism: {attentionDP: 4, expert: 4}
    kvBlocks: 8192
  scheduler: {policy: staggered}
"""
RATE_PER_S = 20.0
MAX_TOKENS = (4, 200)
"""Short and long requests: some run through several leaders."""
CALM_S = 3.0
STOPPED_S = 5.0
SETTLE_S = 1.5
"""A new scheduler may lead after that (settling_s, twice at most)."""
END_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Outcome:
    """What a client saw of one request."""

    sent_at: float
    first_token_at: float | None = None
    is_in_order: bool = True
    error: str = ""


@dataclass(slots=True)
class Load:
    """Requests at a steady rate until told to stop."""

    address: str
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)
    is_over: bool = False

    async def run(self) -> None:
        """Send, and wait for all to end."""
        rng = random.Random(self.seed)
        async with GatewayClient(self.address) as client, asyncio.TaskGroup() as tasks:
            while not self.is_over:
                tasks.create_task(self._request(client, f"prompt {rng.random()}", rng.randint(*MAX_TOKENS)))
                await asyncio.sleep(rng.expovariate(RATE_PER_S))

    async def first_token_after(self, at: float) -> float:
        """When the first request that was sent after `at` got its first token; waits for it."""
        while True:
            times = [one.first_token_at for one in self.outcomes if one.sent_at > at and one.first_token_at]
            if times:
                return min(times)
            await asyncio.sleep(0.01)

    async def _request(self, client: GatewayClient, prompt: str, max_tokens: int) -> None:
        outcome = Outcome(sent_at=time.monotonic())
        self.outcomes.append(outcome)
        num_tokens = 0
        sampling = Sampling(max_tokens=max_tokens, ignore_eos=True)
        try:
            async for event in client.generate(prompt, sampling=sampling):
                if not isinstance(event, Delta):
                    continue
                if outcome.first_token_at is None:
                    outcome.first_token_at = time.monotonic()
                outcome.is_in_order &= event.token_index == num_tokens
                num_tokens += len(event.token_ids)
        except GenerateError as error:
            outcome.error = str(error)
        outcome.is_in_order &= bool(outcome.error) or num_tokens == max_tokens


def run(*, seed: int, quick: bool, json_file: Path | None) -> None:
    """Measure, print, write."""
    console = stderr()
    num_repeats = 1 if quick else 5
    repeats = asyncio.run(_measure(console, seed=seed, num_repeats=num_repeats))
    figures = result.medians(repeats)
    for name in ("killed_s", "terminated_s", "stopped_s"):
        figures[f"worst_{name}"] = max(repeat[name] for repeat in repeats)
    for name in ("requests", "failed_requests", "broken_streams"):
        figures[name] = sum(repeat[name] for repeat in repeats)
    document = result.document(
        "failover",
        seed=seed,
        settings={
            "rate_per_s": RATE_PER_S,
            "max_tokens": MAX_TOKENS,
            "num_schedulers": 2,
            "stopped_seconds": STOPPED_S,
            "manifest": MANIFEST,
        },
        targets=TARGETS,
        figures=figures,
        repeats=repeats,
    )
    for name, value in figures.items():
        target = f"   (target {TARGETS[name]})" if name in TARGETS else ""
        console.print(f"{name:24} {value:10.3f}{target}")
    result.write(document, json_file)


async def _measure(console: Console, *, seed: int, num_repeats: int) -> list[dict[str, float]]:
    service = parse_llmservice(MANIFEST, source="bench failover")
    options = StackOptions(log_level="WARNING", num_schedulers=2)
    repeats = []
    with tempfile.TemporaryDirectory(prefix="hortator-") as name:
        folder = Path(name)
        (folder / "settings").mkdir()
        (folder / "logs").mkdir()
        async with running_stack(service, folder=folder, options=options) as stack:
            for repeat in range(num_repeats):
                figures = await _repeat(stack, seed=seed + repeat)
                repeats.append(figures)
                console.print(
                    f"  repeat {repeat}: killed {figures['killed_s']:.2f} s, "
                    f"terminated {figures['terminated_s']:.2f} s, stopped {figures['stopped_s']:.2f} s, "
                    f"{figures['failed_requests']:.0f} of {figures['requests']:.0f} requests failed"
                )
    return repeats


async def _repeat(stack: Stack, *, seed: int) -> dict[str, float]:
    load = Load(stack.endpoint, seed)
    figures: dict[str, float] = {}
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(load.run())
        await asyncio.sleep(CALM_S)
        for way, number in (
            ("killed", signal.SIGKILL),
            ("terminated", signal.SIGTERM),
            ("stopped", signal.SIGSTOP),
        ):
            await _until_one_stands_by(stack)
            figures[f"{way}_s"] = await _lose_leader(stack, load, number)
        await _until_one_stands_by(stack)
        load.is_over = True
        async with asyncio.timeout(END_TIMEOUT_S):
            await running
    figures["requests"] = len(load.outcomes)
    figures["failed_requests"] = sum(bool(outcome.error) for outcome in load.outcomes)
    figures["broken_streams"] = sum(not outcome.is_in_order for outcome in load.outcomes)
    figures["worst_ttft_s"] = max(
        outcome.first_token_at - outcome.sent_at for outcome in load.outcomes if outcome.first_token_at
    )
    return figures


async def _until_one_stands_by(stack: Stack) -> None:
    """Every scheduler knows the gateway and all loads, as after the start of a service."""
    async with asyncio.timeout(END_TIMEOUT_S):
        for scheduler in stack.schedulers:
            while not await _knows_all(stack, scheduler):  # noqa: ASYNC110  # another process, which is asked
                await asyncio.sleep(0.1)
    await asyncio.sleep(SETTLE_S)


async def _knows_all(stack: Stack, scheduler: Child) -> bool:
    if not scheduler.is_ready:
        return False
    try:
        async with AdminClient(scheduler.address) as admin:
            snapshot = await admin.snapshot()
    except CommandError:
        return False
    reported = {group.worker_id for group in snapshot.groups if group.state != "unreported"}
    return bool(snapshot.num_gateways) and reported >= {worker.name for worker in stack.workers}


async def _lose_leader(stack: Stack, load: Load, number: signal.Signals) -> float:
    """Signal the leader; seconds until something that was sent after that has its first token."""
    address = await leader_address(stack.scheduler_addresses)
    (pid,) = [child.running().pid for child in stack.schedulers if child.address == address]
    at = time.monotonic()
    os.kill(pid, number)
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            first_at = await load.first_token_after(at)
            if number is signal.SIGSTOP:
                await asyncio.sleep(max(at + STOPPED_S - time.monotonic(), 0.0))
    except TimeoutError:
        line = f"nothing was placed for {END_TIMEOUT_S:g} s after {number.name} to the leader"
        raise CommandError(line, exit_code=EXIT_FAILED) from None
    finally:
        if number is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    return first_at - at
