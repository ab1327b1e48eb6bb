"""Ten times what a service can do, and one tenant's flood beside the others: `overload`, in real processes.

A scheduler, a gateway and a group of the simulated engine. First it is found out how many requests a second they
do (clients that ask again at once). Then requests arrive by the clock, whatever becomes of those before: calm, ten
times the capacity, calm again; and for the flood, ten tenants alike, then one of them at ten times its share. A
request is a prompt and its first token: what is scarce is prefill.

What must be so is a problem where it is not: nothing fails but by RESOURCE_EXHAUSTED with a time to come back, and
who is not refused gets its token. How long things take is reported, as the machine is what it is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from group_processes import Process, Starter, cleared

from hortator.client import Completion, GatewayClient, GenerateError, Sampling

ENGINE = {
    "dp_size": 8,
    "ep_size": 8,
    "chunk_budget_tokens": 512,
    "max_batch_size": 64,
    "kv_blocks_total": 4000,
    "tokens_per_block": 16,
    "time_scale": 10.0,
    "prefix_cache": False,
}
PROMPT_TOKENS = (200, 500)
POLICY = "staggered-plus"
MAX_WAIT_S = 2.0
"""Who would wait longer is refused on arrival."""
CALM_LOAD, OVERLOAD = 0.6, 10.0
FLOOD_LOAD, FLOOD, NUM_TENANTS = 0.5, 10.0, 10
FLOODING = "tenant-0"
NUM_CLOSED = 48
MEASURE_S = 6.0
WARMUP_S = 6.0
NUM_CONNECTIONS = 4
PATIENCE_S = 30.0
REFUSED = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a request; times in seconds since the run began, and from its arrival."""

    at: float
    tenant: str
    ttft_s: float = 0.0
    refused_after_s: float | None = None
    has_retry_after: bool = True
    error: str = ""

    @property
    def is_served(self) -> bool:
        return not self.error and self.refused_after_s is None


@dataclass
class Service:
    """The processes, and who asks them."""

    scheduler: Process
    gateway: Process
    clients: Sequence[GatewayClient]

    async def ask(self, rng: random.Random, tenant: str, began_at: float) -> Answer:
        """One request to its end."""
        clock = asyncio.get_running_loop().time
        arrived_at = clock()
        at = arrived_at - began_at
        prompt = [rng.randrange(3, 256) for _ in range(rng.randint(*PROMPT_TOKENS))]
        events = rng.choice(self.clients).generate(
            prompt, sampling=Sampling(max_tokens=1, ignore_eos=True), tenant=tenant, timeout_s=PATIENCE_S
        )
        try:
            async for event in events:
                if isinstance(event, Completion) and event.num_output_tokens == 1:
                    return Answer(at=at, tenant=tenant, ttft_s=clock() - arrived_at)
        except GenerateError as error:
            if error.status != REFUSED:
                return Answer(at=at, tenant=tenant, error=str(error))
            has_retry_after = (error.retry_after_s or 0.0) > 0
            refused_after_s = clock() - arrived_at
            return Answer(
                at=at, tenant=tenant, refused_after_s=refused_after_s, has_retry_after=has_retry_after
            )
        return Answer(at=at, tenant=tenant, error="no token, and no error")

    def peaks_mib(self) -> dict[str, float]:
        """Resident memory of each, at any time."""
        peaks = {}
        for name, process in (("scheduler", self.scheduler), ("gateway", self.gateway)):
            lines = Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
            peaks[name] = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
        return peaks


@asynccontextmanager
async def running_service(folder: Path, *, max_wait_s: float) -> AsyncIterator[Service]:
    """All of it until the block ends."""
    with cleared(Starter(folder)) as starter:
        quiet = {"host": "127.0.0.1", "log_level": "WARNING"}
        core = {"policy": POLICY, "decode_reservation": False, "max_wait_s": max_wait_s}
        scheduler = await asyncio.to_thread(lambda: starter.serving("scheduler", core=core, **quiet))
        to_scheduler = {"scheduler_addresses": [scheduler.address()]}
        await asyncio.to_thread(
            lambda: starter.serving(
                "worker",
                worker_id="aggregated-0",
                phase="aggregated",
                engine_options=ENGINE,
                **quiet,
                **to_scheduler,
            )
        )
        gateway = await asyncio.to_thread(
            lambda: starter.serving(
                "gateway",
                model="m",
                tokenizer="bytes",
                max_sequence_tokens=2048,
                tokens_per_block=ENGINE["tokens_per_block"],
                chunk_budget_tokens=ENGINE["chunk_budget_tokens"],
                **quiet,
                **to_scheduler,
            )
        )
        clients = [GatewayClient(gateway.address()) for _ in range(NUM_CONNECTIONS)]
        try:
            yield Service(scheduler, gateway, clients)
        finally:
            for client in clients:
                await client.aclose()


async def capacity_rps(service: Service, rng: random.Random, *, seconds: float) -> float:
    """Requests a second that are served when there are always enough."""
    clock = asyncio.get_running_loop().time
    began_at = clock()
    ends: list[float] = []

    async def ask_on() -> None:
        while clock() - began_at < seconds:
            answer = await service.ask(rng, "", began_at)
            if answer.is_served:
                ends.append(clock() - began_at)
            else:
                await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(NUM_CLOSED):
            tasks.create_task(ask_on())
    return sum(seconds / 3 < at <= seconds for at in ends) / (seconds * 2 / 3)


async def arrivals(
    service: Service, rng: random.Random, phases: Sequence[tuple[dict[str, float], float]]
) -> list[Answer]:
    """Requests by the clock: of each tenant so many a second, for so long; phase after phase."""
    clock = asyncio.get_running_loop().time
    began_at = clock()
    schedule: list[tuple[float, str]] = []
    begin = 0.0
    for rates, seconds in phases:
        for tenant, rate in rates.items():
            at = begin
            while rate and (at := at + rng.expovariate(rate)) < begin + seconds:
                schedule.append((at, tenant))
        begin += seconds
    asked: list[asyncio.Task[Answer]] = []
    async with asyncio.TaskGroup() as tasks:
        for at, tenant in sorted(schedule):
            await asyncio.sleep(max(began_at + at - clock(), 0.0))
            asked.append(tasks.create_task(service.ask(rng, tenant, began_at)))
    return [task.result() for task in asked]


async def overloaded(
    folder: Path, *, seed: int, seconds: float = 60.0, measure_s: float = MEASURE_S
) -> dict[str, Any]:
    """What `seconds` of ten times the capacity have shown."""
    rng = random.Random(seed)
    calm_s = seconds / 2
    async with running_service(folder, max_wait_s=MAX_WAIT_S) as service:
        capacity = await capacity_rps(service, rng, seconds=measure_s)
        await asyncio.sleep(MAX_WAIT_S)
        calm = await arrivals(service, rng, [({"": CALM_LOAD * capacity}, calm_s)])
        before = service.peaks_mib()
        answers = await arrivals(
            service, rng, [({"": OVERLOAD * capacity}, seconds), ({"": CALM_LOAD * capacity}, calm_s)]
        )
        after = service.peaks_mib()
    during = [answer for answer in answers if answer.at < seconds]
    refused_s = [one.refused_after_s for one in during if one.refused_after_s is not None]
    return {
        "policy": POLICY,
        "times_the_capacity": OVERLOAD,
        "seconds": seconds,
        "capacity_rps": round(capacity, 1),
        "max_wait_s": MAX_WAIT_S,
        "requests": len(calm) + len(answers),
        "refused_share": round(len(refused_s) / len(during), 3),
        "refused_after_p50_s": _percentile(refused_s, 50),
        "refused_after_p99_s": _percentile(refused_s, 99),
        "served_rps": round(sum(one.is_served for one in during) / seconds, 1),
        "calm_ttft_p99_s": _percentile([one.ttft_s for one in calm if one.is_served], 99),
        "accepted_ttft_p50_s": _percentile([one.ttft_s for one in during if one.is_served], 50),
        "accepted_ttft_p99_s": _percentile([one.ttft_s for one in during if one.is_served], 99),
        "recovery_s": _recovery_s(calm, answers, seconds, calm_s),
        "peak_memory_mib": {name: round(mib, 1) for name, mib in after.items()},
        "memory_grew_by_mib": {name: round(mib - before[name], 1) for name, mib in after.items()},
        "problems": _problems([*calm, *answers]),
    }


async def flooded(
    folder: Path, *, seed: int, seconds: float = 60.0, measure_s: float = MEASURE_S
) -> dict[str, Any]:
    """What one of ten tenants that asks for ten times its share does to the TTFT of the others."""
    rng = random.Random(seed)
    async with running_service(folder, max_wait_s=PATIENCE_S / 2) as service:
        share = FLOOD_LOAD * await capacity_rps(service, rng, seconds=measure_s) / NUM_TENANTS
        alike = {f"tenant-{number}": share for number in range(NUM_TENANTS)}
        await asyncio.sleep(MAX_WAIT_S)
        calm = await arrivals(service, rng, [(alike, seconds)])
        flood = await arrivals(service, rng, [(alike | {FLOODING: FLOOD * share}, seconds)])
    figures: dict[str, Any] = {
        "policy": POLICY,
        "tenants": NUM_TENANTS,
        "times_its_share": FLOOD,
        "seconds": seconds,
        "requests": len(calm) + len(flood),
    }
    warmup_s = min(WARMUP_S, seconds / 4)
    others = [
        [one for one in answers if one.tenant != FLOODING and one.at >= warmup_s] for answers in (calm, flood)
    ]
    for name, of in (("mean", np.mean), ("p99", lambda values: np.percentile(values, 99))):
        was, became = (float(of([one.ttft_s for one in answers if one.is_served])) for answers in others)
        figures |= {
            f"others_ttft_{name}_s": round(was, 4),
            f"others_ttft_{name}_moved_by": round(became / was - 1, 4),
        }
    figures["others_refused"] = sum(one.refused_after_s is not None for one in others[1])
    return figures | {"problems": _problems([*calm, *flood])}


def _problems(answers: Sequence[Answer]) -> list[str]:
    """What must not be, once for each kind, with how often."""
    errors = [one.error for one in answers if one.error]
    found = [f"{errors.count(error)} times: {error}" for error in sorted(set(errors))]
    num_blind = sum(not one.has_retry_after for one in answers)
    return [*found, *([f"{num_blind} refusals without a time to come back"] if num_blind else [])]


def _recovery_s(calm: Sequence[Answer], answers: Sequence[Answer], over_at: float, calm_s: float) -> float:
    """Seconds until nobody is refused, and no second's arrivals wait longer than any did before."""
    usual_s = max(_mean_ttft_s(calm, second) for second in range(int(calm_s)))
    recovered_at = over_at
    for second in np.arange(over_at, over_at + calm_s):
        arrived = [one for one in answers if second <= one.at < second + 1.0]
        if any(not one.is_served for one in arrived) or _mean_ttft_s(answers, second) > usual_s:
            recovered_at = float(second) + 1.0
    return recovered_at - over_at


def _mean_ttft_s(answers: Sequence[Answer], second: float) -> float:
    waits_s = [one.ttft_s for one in answers if one.is_served and second <= one.at < second + 1.0]
    return float(np.mean(waits_s)) if waits_s else 0.0


def _percentile(values: Sequence[float], share: float) -> float:
    return round(float(np.percentile(values, share)), 3) if values else 0.0
