"""What can be done to a process or a link, and what the victim was doing when it was done.

The state is read from the victim's own metrics, the scheduler's view and the clients a moment before. Which
state is wanted is drawn as well: the injector waits a little for it, and counts what it finds in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from dataclasses import dataclass

from live_stack import Metrics

from chaos.ledger import Ledger
from chaos.load import Load
from chaos.service import Kept, Service
from hortator.cli.admin.client import AdminClient
from hortator.cli.errors import CommandError

POLL_S = 0.05
PATIENCE_S = 0.8
"""How long a wanted state is waited for."""
PAUSES_S = (0.3, 1.5, 3.0)
DELAYS_S = (0.02, 0.1)
PAIR_SHARE = 0.35
CALM_S = (0.05, 0.5)
NUM_TRIES = 5
"""Victims are drawn so often until one may be hit."""
NUM_PLACEMENTS = 40
"""How far back one looks for requests that were placed again."""

SIGNALS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "stopped": signal.SIGSTOP}
LINK_KINDS = ("cut", "slow", "silent")
WANTED = {
    "prefill": ("prefilling", "between phases", "resuming", "draining", "leader change"),
    "decode": ("decoding", "resuming", "draining", "leader change"),
    "group member": ("decoding", "resuming"),
    "leader": ("held", "in flight"),
    "standby": ("in flight", "leader change"),
    "gateway": ("waiting", "streaming", "resuming", "leader change"),
}


@dataclass(frozen=True)
class Victim:
    """A process, or a link by its two ends."""

    what: str
    kept: Kept
    """The process, or the end of the link whose state counts."""
    link: tuple[str, str] | None = None
    ordinal: int = 0

    @property
    def name(self) -> str:
        return self.kept.name if self.link is None else " to ".join(self.link)


class Injector:
    """Injects faults until told to stop; never both gateways or both schedulers by intent."""

    def __init__(self, service: Service, load: Load, ledger: Ledger, *, seed: int) -> None:
        self._service = service
        self._load = load
        self._ledger = ledger
        self._random = random.Random(seed)
        self._admins: dict[str, AdminClient] = {}
        self._acting: dict[str, str] = {}
        """Faults that are there now or wait for their moment: whose, and what."""
        self._injected: dict[str, str] = {}
        """Those that are there."""
        self.is_over = False

    async def run(self) -> None:
        """One fault, or two at once, then a little calm."""
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for scheduler in self._service.schedulers:
                admin = AdminClient(self._service.scheduler_address(scheduler.name))
                self._admins[scheduler.name] = await stack.enter_async_context(admin)
            while not self.is_over:
                tasks.create_task(self._one())
                if self._random.random() < PAIR_SHARE:
                    tasks.create_task(self._one())
                await asyncio.sleep(self._random.uniform(*CALM_S))

    async def _one(self) -> None:
        rng = random.Random(self._random.random())
        for _ in range(NUM_TRIES):
            victim = await self._victim(rng.choice([*WANTED, "link", "link"]), rng)
            if victim is not None and victim.name not in self._acting and not self._would_be_the_last(victim):
                break
        else:
            return
        kind = rng.choice(LINK_KINDS if victim.link else list(SIGNALS))
        if victim.what == "group member" and kind == "terminated":
            kind = "killed"
        fault = f"{kind} {victim.what}"
        self._acting[victim.name] = fault
        try:
            wanted = rng.choice(WANTED.get(victim.what, WANTED.get(victim.kept.role, ("in flight",))))
            await self._lead_up_to(wanted, victim)
            state = await self._wait_for(wanted, victim)
            self._ledger.count(kind, victim.what, state)
            for other in self._injected.values():
                self._ledger.note_pair(fault, other)
            self._injected[victim.name] = fault
            await self._inject(kind, victim, rng)
        finally:
            del self._acting[victim.name]
            self._injected.pop(victim.name, None)

    async def _victim(self, what: str, rng: random.Random) -> Victim | None:
        service = self._service
        if what == "link":
            link = rng.choice(sorted(service.links))
            source, target = link
            name = target if source in {"*", "client"} else source
            kept = service.kept[name]
            kind = {"*": "everybody", "client": "client"}.get(source, kept.role)
            return Victim(f"link {kind} to {service.kept[target].role}", kept, link)
        if what == "group member":
            return Victim(what, service.kept["decode-1"], ordinal=1)
        if what in {"leader", "standby"}:
            leader = await service.leader()
            if leader is None:
                return None
            others = [one for one in service.schedulers if one is not leader]
            return Victim(what, leader if what == "leader" else others[0])
        kept = rng.choice([one for one in service.kept.values() if one.role == what])
        return Victim(what, kept)

    def _would_be_the_last(self, victim: Victim) -> bool:
        """Clients are promised something while a gateway lives; and some scheduler and group must."""
        kept = victim.kept
        if victim.link is not None and victim.link[0] != "client":
            return not kept.is_whole
        others = [one for one in self._service.kept.values() if one.role == kept.role and one is not kept]
        alive = [
            one
            for one in others
            if one.is_whole and not {one.name, f"client to {one.name}"} & self._acting.keys()
        ]
        return not kept.is_whole or not alive

    async def _lead_up_to(self, wanted: str, victim: Victim) -> None:
        if wanted == "draining" and victim.link is None:
            victim.kept.signal(signal.SIGTERM)
            self._ledger.count("terminated", victim.what, await self._state(victim, ignore_drain=True))
            await asyncio.sleep(0.2)
        elif wanted == "leader change":
            leader = await self._service.leader()
            others = [one for one in self._service.schedulers if one is not leader]
            if leader is None or not others[0].is_whole or leader.name in self._acting:
                return
            self._ledger.count("killed", "leader", "in flight")
            leader.signal(signal.SIGKILL)

    async def _wait_for(self, wanted: str, victim: Victim) -> str:
        state = await self._state(victim)
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + PATIENCE_S
        while state not in {wanted, "leader change", "draining"} and loop.time() < ends_at:
            await asyncio.sleep(POLL_S)
            state = await self._state(victim)
        return state

    async def _inject(self, kind: str, victim: Victim, rng: random.Random) -> None:
        pause_s = rng.choice(PAUSES_S)
        if victim.link is not None:
            relay = self._service.links[victim.link]
            match kind:
                case "cut":
                    relay.cut(for_good=rng.random() < 0.5)
                case "slow":
                    relay.delay_s = rng.choice(DELAYS_S)
                case "silent":
                    relay.fall_silent()
            await asyncio.sleep(pause_s)
            relay.is_open, relay.delay_s = True, 0.0
            relay.speak()
            return
        kept, num_starts = victim.kept, victim.kept.num_starts
        kept.signal(SIGNALS[kind], victim.ordinal)
        if kind == "stopped":
            await asyncio.sleep(pause_s)
            if kept.num_starts == num_starts:
                kept.signal(signal.SIGCONT, victim.ordinal)
            return
        while kept.num_starts == num_starts or not kept.is_ready:
            await asyncio.sleep(0.05)

    # --- what a victim is doing -------------------------------------------------------------------------

    async def _state(self, victim: Victim, *, ignore_drain: bool = False) -> str:
        kept = victim.kept
        if kept.terminated_at is not None and not ignore_drain:
            return "draining"
        leader = await self._service.leader()
        if leader is None:
            return "leader change"
        if kept.role == "scheduler":
            return await self._scheduler_state(leader)
        metrics = await kept.metrics()
        if metrics is None:
            return "does not answer"
        if await self._is_resuming(kept, leader):
            return "resuming"
        return gateway_state(metrics) if kept.role == "gateway" else worker_state(metrics)

    async def _is_resuming(self, kept: Kept, leader: Kept) -> bool:
        """Whether it has a request that was somewhere else before and is not over."""
        admin = self._admins[leader.name]
        try:
            async with asyncio.timeout(0.5):
                snapshot = await admin.snapshot(num_recent_placements=NUM_PLACEMENTS)
        except (CommandError, TimeoutError):
            return False
        live = {request_id for asked in self._load.live for request_id in asked.request_ids}
        again = [one for one in snapshot.recent_placements if one.attempt and one.request_id in live]
        if kept.role == "gateway":
            return any(one.request_id.startswith(kept.name) for one in again)
        return any(one.worker_id == kept.name for one in again)

    async def _scheduler_state(self, leader: Kept) -> str:
        metrics = await leader.metrics()
        if metrics is None:
            return "leader change"
        if _value(metrics, "hortator_scheduler_waiting_requests"):
            return "held"
        return "in flight" if self._load.live else "idle"


def _value(metrics: Metrics, name: str) -> float:
    return sum(sample.value for sample in metrics.samples if sample.name == name)


def worker_state(metrics: Metrics) -> str:
    if _value(metrics, "hortator_worker_orphans"):
        return "orphans"
    if _value(metrics, "hortator_worker_kv_leases"):
        return "between phases"
    if not _value(metrics, "hortator_worker_running_requests"):
        return "idle"
    return "prefilling" if _value(metrics, "hortator_worker_prefill_load_tokens") else "decoding"


def gateway_state(metrics: Metrics) -> str:
    if _value(metrics, "hortator_gateway_waiting"):
        return "waiting"
    return "streaming" if _value(metrics, "hortator_gateway_streams") else "idle"
