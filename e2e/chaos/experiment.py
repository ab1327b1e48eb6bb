"""Load and faults for a while; then everything is healed, everything must end, and nothing may be left."""

from __future__ import annotations

import asyncio
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from chaos.faults import Injector
from chaos.ledger import Ledger
from chaos.load import Load
from chaos.service import EMPTY, KV_LEASE_S, ORPHAN_KEEP_S, Service, left_behind, running_service

NUM_CLIENTS = 16
WARM_UP_S = 1.0
END_TIMEOUT_S = 90.0
EMPTY_TIMEOUT_S = max(ORPHAN_KEEP_S, KV_LEASE_S) + 20.0


@dataclass(kw_only=True)
class Result:
    """What a run has shown."""

    seed: int
    seconds: float
    ledger: Ledger
    num_requests: int
    num_ended: int
    num_cancelled: int
    num_moved: int
    num_replacements: int
    num_tokens: int
    num_restarts: int
    longest_wait_s: float
    """Of any client for its next token, or the first."""
    peak_memory_mib: dict[str, float]
    """Of the largest process of each component, at any time."""
    problems: list[str] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """For a file."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "python": platform.python_version(),
            "requests": self.num_requests,
            "ended": self.num_ended,
            "cancelled": self.num_cancelled,
            "moved_to_another_gateway": self.num_moved,
            "placed_again": self.num_replacements,
            "tokens_compared": self.num_tokens,
            "process_restarts": self.num_restarts,
            "longest_wait_s": round(self.longest_wait_s, 3),
            "peak_memory_mib": self.peak_memory_mib,
            "faults": self.ledger.rows(),
            "distinct_faults": self.ledger.num_distinct,
            "distinct_pairs": len(self.ledger.pairs),
            "problems": self.problems,
        }

    def text(self) -> str:
        """For a person."""
        return (
            f"seed {self.seed}, {self.seconds:g} s: {self.num_requests} requests, {self.num_ended} ended, "
            f"{self.num_cancelled} cancelled by their clients, {self.num_moved} went on at another gateway, "
            f"{self.num_replacements} placements again, {self.num_tokens} tokens compared, "
            f"{self.num_restarts} processes started again\n{self.ledger.table()}"
        )


async def run(folder: Path, *, seed: int, seconds: float) -> Result:
    """Start a service, do all that, end it."""
    ledger, problems = Ledger(), []
    async with running_service(folder) as service:
        load = Load(service.endpoints, seed=seed, num_clients=NUM_CLIENTS)
        load.on_cancel = lambda state: ledger.count("cancelled", "client", state)
        injector = Injector(service, load, ledger, seed=seed + 1)
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(load.run())
            await asyncio.sleep(WARM_UP_S)
            injecting = tasks.create_task(injector.run())
            await asyncio.sleep(seconds)
            injector.is_over = True
            await injecting
            service.heal()
            load.is_over = True
            try:
                async with asyncio.timeout(END_TIMEOUT_S):
                    await loading
            except TimeoutError:
                problems += [
                    f"{asked.request_ids} has not ended: {asked.state}, {len(asked.token_ids)} of "
                    f"{asked.max_tokens} tokens"
                    for asked in load.live
                ]
        problems += load.problems
        await service.all_ready()
        problems += await _left_over(service)
        num_restarts = sum(kept.num_starts - 1 for kept in service.kept.values())
        problems += await end(service)
    problems += [f"process {pid} is left" for pid in left_behind(folder)]
    problems += errors_in_logs(folder)
    return Result(
        seed=seed,
        seconds=seconds,
        ledger=ledger,
        num_requests=load.num_requests,
        num_ended=load.num_ended,
        num_cancelled=load.num_cancelled,
        num_moved=load.num_moved,
        num_replacements=load.num_replacements,
        num_tokens=load.num_tokens,
        num_restarts=num_restarts,
        longest_wait_s=load.longest_wait_s,
        peak_memory_mib=service.peak_memory_mib(),
        problems=problems,
    )


def errors_in_logs(folder: Path) -> list[str]:
    """What processes called an error; that a group ends when a member does is none."""
    return [
        f"{log.name}: {line[:400]}"
        for log in sorted(folder.glob("*.log"))
        for line in log.read_text(errors="replace").splitlines()
        if line.startswith("Traceback") or ('"level": "error"' in line or '"level":"error"' in line)
    ]


async def _left_over(service: Service) -> list[str]:
    """What is still held anywhere, once orphans and leases have had their time."""
    ends_at = time.monotonic() + EMPTY_TIMEOUT_S
    while True:
        found = await _held(service)
        if not found or time.monotonic() >= ends_at:
            return found
        await asyncio.sleep(0.2)


async def _held(service: Service) -> list[str]:
    found = []
    for kept in service.kept.values():
        metrics = await kept.metrics()
        if metrics is None:
            found.append(f"{kept.name} does not answer")
            continue
        for name in EMPTY[kept.component]:
            value = sum(sample.value for sample in metrics.samples if sample.name == name)
            if value:
                found.append(f"{kept.name}: {name} is {value:g}")
    if await service.leader() is None:
        found.append("no scheduler leads")
    return found


async def end(service: Service) -> list[str]:
    """Gateways, schedulers, workers; each says that it ended well."""
    problems = []
    for role in (service.gateways, service.schedulers, service.workers):
        codes = await asyncio.gather(*(kept.end() for kept in role))
        problems += [
            f"{kept.name} ended with {code}"
            for kept, found in zip(role, codes, strict=True)
            for code in found
            if code != 0
        ]
    return problems
