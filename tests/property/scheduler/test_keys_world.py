"""Clients with idempotency keys that come back at other gateways, in a world where gateways and workers die.

What is said to gateways and workers is on its way for as long as Hypothesis likes; a gateway that dies takes what
was on its way to it along, and the scheduler misses it late or never. The world keeps the books of what truly runs
on the engines, and looks at them whenever something begins to run:

- no attempt begins while one of another request runs under the same key, anywhere;
- an earlier attempt of the same request may still run only if its worker has been told to end it;
- nobody is held for ever: when all mail is delivered, nobody is fenced.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hortator.scheduler.core.commands import Abort, Attach, Command, Dispatch, Reject
from hortator.scheduler.core.events import (
    Event,
    GatewayLost,
    KeyedRequest,
    KeyedRequestsEnded,
    KeyedRequestsListed,
    PlacementRefused,
    PrefillFinished,
    RankStateReported,
    RequestArrived,
    RequestCancelled,
    RequestFinished,
    WorkerJoined,
    WorkerLost,
)
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import AbortReason, GroupSpec, Phase, RankLoads, SchedulerSettings

KEYS = ("k0", "k1")
GROUPS = {"a0": Phase.AGGREGATED, "a1": Phase.AGGREGATED}
APART = {"p0": Phase.PREFILL, "d0": Phase.DECODE, "d1": Phase.DECODE}
Name = tuple[str, int]


@dataclass
class Held:
    """A request as its gateway has it."""

    request_id: str
    gateway: str
    key: str
    attempt: int = 0
    group: str = ""
    """Where its attempt was submitted or attached."""


@dataclass
class Worker:
    """What runs on an engine, under the names that gateways gave it; orphans have no gateway."""

    phase: Phase
    boot: str = ""
    running: dict[Name, tuple[str, str]] = field(default_factory=dict)
    """Name: (key, gateway)."""
    mail: deque[Abort] = field(default_factory=deque)
    closed: dict[str, int] = field(default_factory=dict)
    """Key: the dispatch sequence up to which nothing may begin to run."""

    def under(self, key: str) -> list[Name]:
        return [name for name, (of, _) in self.running.items() if of == key]


class KeysWorld(RuleBasedStateMachine):
    """See the module docstring."""

    @initialize(apart=st.booleans())
    def set_up(self, apart):
        self.groups = APART if apart else GROUPS
        self.now = 0.0
        self.num_boots = self.num_requests = self.num_gateways = 0
        self.workers: dict[str, Worker] = {}
        self.gateways: dict[str, deque[tuple[Command, str]]] = {}
        """What is on its way to each, with the boot of the worker that it names."""
        self.held: dict[str, Held] = {}
        self.unmissed: list[str] = []
        self.lead()
        for _ in range(3):
            self.new_gateway()

    def lead(self) -> None:
        """A machine that knows what workers and gateways say."""
        self.machine = SchedulerMachine(
            SchedulerSettings(policy="immediate-round-robin", decode_reservation=False, decode_window_s=0.0)
        )
        for group_id in self.groups:
            self.join(group_id)

    def new_gateway(self) -> None:
        self.num_gateways += 1
        self.gateways[f"g{self.num_gateways}"] = deque()

    def join(self, group_id: str) -> None:
        self.num_boots += 1
        worker = self.workers.setdefault(group_id, Worker(self.groups[group_id]))
        worker.boot = f"b{self.num_boots}"
        spec = GroupSpec(
            group_id=group_id,
            boot_id=worker.boot,
            phase=worker.phase,
            dp_size=1,
            chunk_budget_tokens=1000,
            kv_blocks_total=1000,
        )
        self.tell(WorkerJoined(group=spec))
        self.list_keys(group_id)
        loads = RankLoads(prefill_load_tokens=(0,), batch_size=(0,), kv_blocks_used=(0,))
        self.tell(RankStateReported(group_id=group_id, included_dispatch_seq=0, loads=loads))

    def list_keys(self, group_id: str) -> None:
        running = self.workers[group_id].running
        listed = [
            KeyedRequest(key=key, fingerprint="f", request_id=name[0], attempt=name[1])
            for name, (key, _) in running.items()
        ]
        self.tell(KeyedRequestsListed(group_id=group_id, requests=tuple(listed)))

    def tell(self, event: Event) -> None:
        self.now += 0.001
        for command in self.machine.handle(event, self.now):
            match command:
                case Dispatch(batch=batch):
                    for placement in batch.placements:
                        self.post(placement.gateway_id, command, self.workers[batch.group_id].boot)
                case Attach():
                    self.post(command.gateway_id, command, self.workers[command.group_id].boot)
                case Reject():
                    self.post(command.gateway_id, command)
                case Abort():
                    if command.group_id in self.workers and command.reason is not AbortReason.WORKER_LOST:
                        self.workers[command.group_id].mail.append(command)
                    self.post(command.gateway_id, command)

    def post(self, gateway: str, command: Command, boot: str = "") -> None:
        if gateway in self.gateways:
            self.gateways[gateway].append((command, boot))

    def _gateway(self, pick: int) -> str:
        return list(self.gateways)[pick % len(self.gateways)]

    # -- clients and gateways -----------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), pick=st.integers(0, 2))
    def ask(self, key, pick):
        """A client asks for the first time, or again, whether its gateway died or only its link."""
        self.num_requests += 1
        request = Held(f"r{self.num_requests}", self._gateway(pick), key)
        self.held[request.request_id] = request
        self.announce(request)

    def announce(self, request: Held) -> None:
        self.tell(
            RequestArrived(
                request_id=request.request_id,
                gateway_id=request.gateway,
                attempt=request.attempt,
                num_prompt_tokens=10,
                key=request.key,
                fingerprint="f",
            )
        )

    @rule(pick=st.integers(0, 2))
    def lose_gateway(self, pick):
        """What was on its way to it is lost, what it had submitted are orphans; some day it is missed."""
        gateway = self._gateway(pick)
        del self.gateways[gateway]
        self.unmissed.append(gateway)
        self.held = {name: r for name, r in self.held.items() if r.gateway != gateway}
        for group_id, worker in self.workers.items():
            for name, (key, of) in list(worker.running.items()):
                if of != gateway:
                    continue
                worker.running[name] = (key, "")
                if worker.phase is Phase.PREFILL:
                    self.ended(group_id, name)
        self.new_gateway()

    @rule()
    def miss_gateway(self):
        if self.unmissed:
            self.tell(GatewayLost(gateway_id=self.unmissed.pop(0)))

    @rule(pick=st.integers(0, 2))
    def hear(self, pick):
        """A gateway gets the next thing that it was told."""
        gateway = self._gateway(pick)
        mail = self.gateways[gateway]
        if not mail:
            return
        command, boot = mail.popleft()
        match command:
            case Dispatch(batch=batch):
                for placement in batch.placements:
                    request = self.held.get(placement.request_id)
                    if request is None or request.gateway != gateway:
                        continue
                    if request.attempt == placement.attempt:
                        self.submit(request, batch.group_id, boot, batch.dispatch_seq)
            case Attach():
                request = self.held.get(command.request_id)
                if request is not None and request.attempt == command.attempt:
                    self.attach(request, command.group_id, boot)
            case Reject():
                self.held.pop(command.request_id, None)
            case Abort():
                request = self.held.get(command.request_id)
                if request is None or request.attempt != command.attempt:
                    return
                if command.reason is AbortReason.WORKER_LOST:
                    self.again(request)
                elif command.reason in {AbortReason.TAKEN_OVER, AbortReason.DEADLINE}:
                    del self.held[request.request_id]

    def again(self, request: Held) -> None:
        request.attempt += 1
        request.group = ""
        self.announce(request)

    def refused(self, request: Held, group_id: str) -> None:
        self.tell(PlacementRefused(request_id=request.request_id, attempt=request.attempt, group_id=group_id))

    def submit(self, request: Held, group_id: str, boot: str, dispatch_seq: int) -> None:
        worker = self.workers[group_id]
        if worker.boot != boot or dispatch_seq <= worker.closed.get(request.key, 0):
            self.refused(request, group_id)
            return
        for other_id, other in self.workers.items():
            told = {(abort.request_id, abort.attempt) for abort in other.mail}
            for name in other.under(request.key):
                assert name[0] == request.request_id, f"{request} begins while {name} runs on {other_id}"
                assert name in told or other is worker, f"{request} begins, {name} was not told to end"
        for older in worker.under(request.key):
            del worker.running[older]
        request.group = group_id
        worker.running[request.request_id, request.attempt] = (request.key, request.gateway)

    def attach(self, request: Held, group_id: str, boot: str) -> None:
        worker = self.workers[group_id]
        names = worker.under(request.key)
        if worker.boot != boot or not names:
            self.refused(request, group_id)
            return
        (name,) = names
        _, before = worker.running.pop(name)
        if before and before != request.gateway:
            self.held.pop(name[0], None)
        request.group = group_id
        worker.running[request.request_id, request.attempt] = (request.key, request.gateway)

    @rule(pick=st.integers(0, 9))
    def cancel(self, pick):
        """A client is gone for good, its gateway is not."""
        if not self.held:
            return
        request = self.held.pop(list(self.held)[pick % len(self.held)])
        worker = self.workers.get(request.group)
        if worker is not None:
            worker.running.pop((request.request_id, request.attempt), None)
        self.tell(RequestCancelled(request_id=request.request_id, attempt=request.attempt))

    # -- workers ------------------------------------------------------------------------------------------

    def ended(self, group_id: str, name: Name) -> None:
        key, _ = self.workers[group_id].running.pop(name)
        keyed = KeyedRequest(key=key, request_id=name[0], attempt=name[1])
        self.tell(KeyedRequestsEnded(group_id=group_id, requests=(keyed,)))

    @rule(group=st.integers(0, 2))
    def obey(self, group):
        """A worker gets the next correction and says what has ended."""
        worker = self._worker(group)
        if worker is None or not worker.mail:
            return
        command = worker.mail.popleft()
        group_id = command.group_id
        worker.closed[command.key] = command.dispatch_seq
        for name in worker.under(command.key):
            if name[0] == command.request_id and name[1] > command.attempt:
                continue
            del worker.running[name]
        keyed = KeyedRequest(key=command.key, request_id=command.request_id, attempt=command.attempt)
        self.tell(KeyedRequestsEnded(group_id=group_id, requests=(keyed,)))

    def _worker(self, group: int) -> Worker | None:
        return self.workers.get(list(self.groups)[group % len(self.groups)])

    @rule(group=st.integers(0, 2))
    def advance(self, group):
        """The oldest request of a group has done what it does there; an orphan's time is over."""
        worker = self._worker(group)
        if worker is None or not worker.running:
            return
        name, (_, gateway) = next(iter(worker.running.items()))
        group_id = next(group_id for group_id, one in self.workers.items() if one is worker)
        if not gateway:
            self.ended(group_id, name)
            return
        del worker.running[name]
        if worker.phase is Phase.PREFILL:
            self.tell(PrefillFinished(request_id=name[0], attempt=name[1]))
        else:
            self.held.pop(name[0], None)
            self.tell(RequestFinished(request_id=name[0], attempt=name[1], num_output_tokens=1))

    @rule(group=st.integers(0, 2), says_keys=st.booleans())
    def lose_worker(self, group, says_keys):
        """Gone and started again; or its stream broke, and it says again what it has."""
        group_id = list(self.groups)[group % len(self.groups)]
        if says_keys:
            self.workers[group_id].mail.clear()
            self.list_keys(group_id)
            return
        del self.workers[group_id]
        self.tell(WorkerLost(group_id=group_id))
        for request in self.held.values():
            if request.group == group_id:
                request.group = ""
        self.join(group_id)

    @rule()
    def settle(self):
        """All mail is delivered: nobody is held."""
        for _ in range(100):
            for pick in range(3):
                self.obey(pick)
                self.hear(pick)
        assert not list(self.machine.keys.fenced)

    @invariant()
    def its_own_books_agree(self):
        if hasattr(self, "machine"):
            self.machine.check_invariants()

    def teardown(self):
        if hasattr(self, "machine"):
            self.settle()


TestKeysWorld = KeysWorld.TestCase
TestKeysWorld.settings = settings(settings.default, stateful_step_count=50)
