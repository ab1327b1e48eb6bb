"""The scheduler machine in a small world that obeys the protocol and is otherwise as unkind as it can be.

Two or three EP groups take batches that are some time on their way, run passes, report (late, and without what
is still on its way), refuse, split, drain, vanish and come back; gateways announce, cancel and vanish; clocks
jump; leaders and policies change. Hypothesis chooses what happens next. The world keeps its own books and
compares after every event:

- no request is lost, none has two live placements, none is placed after it has ended;
- nothing is placed on a group that is gone, draining, or has not reported;
- `staggered*` never gives a rank more prefill tokens, KV blocks or sequences than it has room for;
- nor, while newcomers wait, resumed requests more than their share of a pass, or what newcomers leave;
- no group that could run the oldest waiting request is left idle, but for the window of `min_fill`;
- nobody waits beyond the queue timeout; the machine never asks to be woken in the past;
- the same events at the same times give a fresh machine the same commands.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hortator.scheduler.core.commands import Abort, Command, DeclareLost, Dispatch, Probe, Reject
from hortator.scheduler.core.events import (
    BatchSplit,
    Event,
    ForwardPassEnded,
    ForwardPassStarted,
    GatewayLost,
    KvTransferFailed,
    LeaderChanged,
    PlacementRefused,
    PolicyChanged,
    PrefillFinished,
    RankStateReported,
    RequestArrived,
    RequestCancelled,
    RequestFinished,
    TimerFired,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import (
    AbortReason,
    Batch,
    GroupSpec,
    LatencyClass,
    Phase,
    RankLoads,
    RejectReason,
    SchedulerSettings,
)
from hortator.scheduler.core.policies.registry import POLICY_NAMES

BUDGET = 128
TOKENS_PER_BLOCK = 16
KV_BLOCKS = 40
MAX_BATCH = 6
QUEUE_TIMEOUT_S = 5.0


def _blocks(num_tokens: int) -> int:
    return -(-num_tokens // TOKENS_PER_BLOCK)


@dataclass
class Live:
    """A request that its gateway believes to be alive."""

    request_id: str
    attempt: int
    prompt: int
    num_output_tokens: int
    gateway_id: str
    critical: bool
    deadline_at: float | None
    state: str = "waiting"
    group_id: str = ""
    prefill_group_id: str = ""
    batch_id: str = ""
    arrived_at: float = 0.0
    prefilled_at: float = float("inf")
    priority: int = 0

    @property
    def is_resumed(self) -> bool:
        return self.attempt > 0


@dataclass
class Sequence:
    """A request inside an engine."""

    request_id: str
    attempt: int
    rank: int
    uncomputed: int
    prompt: int
    passes_left: int
    """Decode passes until the last token; 0: it only prefills."""
    only_holds_kv: bool = False


@dataclass
class Engine:
    """One EP group and its worker."""

    spec: GroupSpec
    sequences: list[Sequence] = field(default_factory=list)
    on_the_way: deque[Batch] = field(default_factory=deque)
    included_seq: int = 0
    reported_seq: int = 0
    has_reported: bool = False
    draining: bool = False
    suspect: bool = False
    running: dict[tuple[str, int], int] | None = None
    forward_pass_id: int = 0

    def column(self, rank: int) -> list[Sequence]:
        return [s for s in self.sequences if s.rank == rank]

    def loads(self) -> RankLoads:
        columns = [self.column(rank) for rank in range(self.spec.dp_size)]
        return RankLoads(
            prefill_load_tokens=tuple(sum(s.uncomputed for s in column) for column in columns),
            batch_size=tuple(sum(1 for s in column if not s.only_holds_kv) for column in columns),
            kv_blocks_used=tuple(sum(_blocks(s.prompt + 1) for s in column) for column in columns),
        )

    def remove(self, request_id: str, attempt: int) -> None:
        self.sequences = [s for s in self.sequences if (s.request_id, s.attempt) != (request_id, attempt)]

    @property
    def is_idle(self) -> bool:
        """Nothing delivered, on its way, running, or holding KV."""
        return not (self.sequences or self.on_the_way or self.running)


class SchedulerWorld(RuleBasedStateMachine):
    """See the module docstring."""

    @initialize(
        topology=st.sampled_from(["prefill", "prefill_decode", "aggregated"]),
        policy=st.sampled_from(POLICY_NAMES),
        dp_size=st.integers(1, 3),
        lead=st.integers(0, 1),
        chunked=st.sampled_from([True, True, False]),
        interval_s=st.sampled_from([None, None, 0.02]),
        moves=st.sampled_from([False, False, True]),
        resumed_share=st.sampled_from([0.5, 0.2]),
    )
    def set_up(self, topology, policy, dp_size, lead, chunked, interval_s, moves, resumed_share):
        self.settings = SchedulerSettings(
            policy=policy,
            decode_reservation=topology == "prefill_decode",
            queue_timeout_s=QUEUE_TIMEOUT_S,
            max_waiting_requests=40,
            interval_s=interval_s,
            resumed_share=resumed_share,
            max_hold_s=0.5,
            warmup_passes=1,
            expected_output_tokens=32,
        )
        self.topology = topology
        self.chunked = chunked
        self.machine = SchedulerMachine(self.settings)
        self.now = 0.0
        self.log: list[tuple[float, Event, list[Command]]] = []
        self.engines: dict[str, Engine] = {}
        self.live: dict[str, Live] = {}
        self.ended: set[tuple[str, int]] = set()
        self.again: dict[str, Live] = {}
        self.mail: deque[Event] = deque()
        self.num_requests = 0
        self.num_boots = 0
        self.epoch = 1
        self.policy = policy
        self.fresh = True
        entry = Phase.AGGREGATED if topology == "aggregated" else Phase.PREFILL
        self.roles = {"p0": entry, "p1": entry}
        if topology == "prefill_decode":
            self.roles["d0"] = Phase.DECODE
        self.dp_size = dp_size
        self.lead = lead
        self.tokenizers = {"p0": "01", "p1": "02"} if moves else {}
        for group_id in self.roles:
            self.join(group_id)
            self.report(group_id)

    # -- the conversation -------------------------------------------------------------------------------

    def tell(self, event: Event) -> list[Command]:
        commands = self.machine.handle(event, self.now)
        self.log.append((self.now, event, commands))
        for command in commands:
            match command:
                case Dispatch():
                    self._take_batch(command.batch)
                case Reject():
                    request = self.live.pop(command.request_id)
                    assert request.attempt == command.attempt
                    if request.state == "decode_waiting":
                        assert command.reason in (RejectReason.QUEUE_TIMEOUT, RejectReason.NO_WORKER)
                        assert self.now - request.prefilled_at >= QUEUE_TIMEOUT_S - 1e-9
                    else:
                        assert request.state == "waiting"
                    assert command.gateway_id == request.gateway_id
                    self._end(request)
                    for engine in self.engines.values():  # its gateway gives the KV of its prefill back
                        engine.remove(request.request_id, request.attempt)
                case Abort():
                    self._abort(command)
                case Probe():
                    self.engines[command.group_id].suspect = True
                case DeclareLost():
                    del self.engines[command.group_id]
        return commands

    def _end(self, request: Live) -> None:
        self.ended.add((request.request_id, request.attempt))

    def _abort(self, command: Abort) -> None:
        request = self.live.pop(command.request_id)
        assert request.attempt == command.attempt
        assert request.state != "waiting"
        assert command.group_id == (
            request.prefill_group_id if request.state == "decode_waiting" else request.group_id
        )
        self._end(request)
        for engine in self.engines.values():
            engine.remove(request.request_id, request.attempt)
        if command.reason in (AbortReason.WORKER_LOST, AbortReason.BATCH_SPLIT):
            self.again[request.request_id] = request

    def _take_batch(self, batch: Batch) -> None:
        engine = self.engines[batch.group_id]  # KeyError: placed on a group that is gone
        assert engine.has_reported, "placed on a group that has not reported"
        assert not engine.draining, "placed on a draining group"
        assert not engine.suspect, "placed on a suspect group"
        assert batch.phase is self.roles[batch.group_id]
        assert batch.placements
        wanted = "decode_waiting" if batch.phase is Phase.DECODE else "waiting"
        for placement in batch.placements:
            request = self.live[placement.request_id]  # KeyError: placed after its end
            assert request.attempt == placement.attempt
            assert (request.request_id, request.attempt) not in self.ended
            assert request.state == wanted, "placed twice"
            assert request.deadline_at is None or request.deadline_at > self.now
            assert 0 <= placement.dp_rank < engine.spec.dp_size
            assert {self._tokenizer(request.request_id), engine.spec.tokenizer} != {"01", "02"}
        self._check_room(engine, batch)
        self._check_resumed_share(engine, batch)
        for placement in batch.placements:
            request = self.live[placement.request_id]
            request.group_id = batch.group_id
            request.batch_id = batch.batch_id
            request.state = "decoding" if batch.phase is Phase.DECODE else "placed"
            if batch.phase is not Phase.DECODE:
                request.prefill_group_id = batch.group_id
        engine.on_the_way.append(batch)

    def _tokenizer(self, request_id: str) -> str:
        """Of a third of the requests nobody knows it."""
        return ("", "01", "02")[int(request_id[1:]) % 3] if self.tokenizers else ""

    def _check_room(self, engine: Engine, batch: Batch) -> None:
        """Budgets of the ranks that a batch adds to, by what the engine truly has and what is on its way."""
        spec = engine.spec
        if batch.phase is not Phase.DECODE:
            first = self.live[batch.placements[0].request_id]
            if not self.policy.startswith("staggered") or (len(batch.placements) == 1 and first.critical):
                return
        coming = [p for earlier in engine.on_the_way for p in earlier.placements if self._is_live(p)]
        running = engine.running or {}
        for rank in {p.dp_rank for p in batch.placements}:
            seated = [self.live[p.request_id] for p in batch.placements if p.dp_rank == rank]
            before = [self.live[p.request_id] for p in coming if p.dp_rank == rank]
            column = engine.column(rank)
            kv = sum(_blocks(s.prompt + 1) for s in column) + sum(_blocks(r.prompt + 1) for r in before)
            assert kv + sum(_blocks(r.prompt + 1) for r in seated) <= spec.kv_blocks_total, "KV blocks"
            batch_size = sum(1 for s in column if not s.only_holds_kv) + len(before)
            assert batch_size + len(seated) <= spec.max_batch_size, "batch slots"
            if batch.phase is Phase.DECODE:
                continue
            load = sum(s.uncomputed - running.get((s.request_id, s.attempt), 0) for s in column)
            load += sum(r.prompt for r in before)
            budget = spec.chunk_budget_tokens - (batch_size if batch.phase is Phase.AGGREGATED else 0)
            long = [r for r in seated if r.prompt > budget]
            assert len(long) <= 1, "two prompts of several passes on one rank"
            assert load < budget, "a full rank was given more"
            if not long:
                assert load + sum(r.prompt for r in seated) <= budget, "chunk budget"
            elif not self.chunked:
                assert batch.phase is Phase.AGGREGATED
                assert long[0].prompt <= spec.chunk_budget_tokens

    def _check_resumed_share(self, engine: Engine, batch: Batch) -> None:
        """By what the engine truly has room for, and who waits until now."""
        if batch.phase is Phase.DECODE or not self.policy.startswith("staggered"):
            return
        seated = [self.live[p.request_id] for p in batch.placements]
        patience_s = self.settings.queue_timeout_s / 2
        resumed = [r for r in seated if r.is_resumed and self.now - r.arrived_at <= patience_s]
        newcomers = [r for r in self.live.values() if r.state == "waiting" and not r.is_resumed]
        room, num_slots = self._room(engine)
        share = self.settings.resumed_share
        for priority in {r.priority for r in resumed} & {r.priority for r in newcomers}:
            bound = [r for r in resumed if r.priority >= priority]
            beside = [r for r in newcomers if r.priority >= priority]
            if len(bound) > 1:
                num_tokens = sum(min(r.prompt, engine.spec.chunk_budget_tokens) for r in bound)
                assert num_tokens <= max(share * room, room - sum(r.prompt for r in beside)), (
                    "share of tokens"
                )
                assert len(bound) <= max(ceil(share * num_slots), num_slots - len(beside)), "share of slots"

    def _room(self, engine: Engine) -> tuple[int, int]:
        """Prefill tokens and sequences that fit into the next pass."""
        spec, running = engine.spec, engine.running or {}
        coming = [p for earlier in engine.on_the_way for p in earlier.placements if self._is_live(p)]
        room = num_slots = 0
        for rank in range(spec.dp_size):
            column = engine.column(rank)
            before = [self.live[p.request_id].prompt for p in coming if p.dp_rank == rank]
            batch_size = sum(1 for s in column if not s.only_holds_kv) + len(before)
            load = sum(s.uncomputed - running.get((s.request_id, s.attempt), 0) for s in column) + sum(before)
            budget = spec.chunk_budget_tokens - (batch_size if spec.phase is Phase.AGGREGATED else 0)
            room += max(0, budget - load)
            num_slots += max(0, spec.max_batch_size - batch_size)
        return room, num_slots

    def _is_live(self, placement) -> bool:
        request = self.live.get(placement.request_id)
        return request is not None and request.attempt == placement.attempt

    # -- gateways ---------------------------------------------------------------------------------------

    @rule(
        prompt=st.one_of(st.integers(1, 60), st.integers(1, BUDGET), st.integers(1, 500)),
        num_output_tokens=st.integers(1, 4),
        gateway=st.sampled_from(["g0", "g1"]),
        priority=st.sampled_from([0, 0, 0, 1]),
        critical=st.sampled_from([False, False, False, True]),
        patience_s=st.sampled_from([None, None, None, 0.05, 1.0]),
        tenant=st.sampled_from(["", "", "a", "b"]),
    )
    def announce(self, prompt, num_output_tokens, gateway, priority, critical, patience_s, tenant):
        if self.again:
            request = self.again.pop(next(iter(self.again)))
            request_id, attempt, prompt = request.request_id, request.attempt + 1, request.prompt
        else:
            self.num_requests += 1
            request_id, attempt = f"r{self.num_requests}", 0
        deadline_at = None if patience_s is None else self.now + patience_s
        self.live[request_id] = Live(
            request_id,
            attempt,
            prompt,
            num_output_tokens,
            gateway,
            critical,
            deadline_at,
            arrived_at=self.now,
            priority=priority,
        )
        self.tell(
            RequestArrived(
                request_id=request_id,
                attempt=attempt,
                gateway_id=gateway,
                num_prompt_tokens=prompt,
                max_output_tokens=32,
                priority=priority,
                tenant=tenant,
                latency_class=LatencyClass.CRITICAL if critical else LatencyClass.STANDARD,
                deadline_at=deadline_at,
                tokenizer=self._tokenizer(request_id),
            )
        )

    @rule(
        prompts=st.lists(st.one_of(st.integers(1, 60), st.integers(1, 300)), min_size=2, max_size=8),
        num_output_tokens=st.integers(1, 3),
    )
    def announce_many(self, prompts, num_output_tokens):
        """A burst at one instant."""
        for prompt in prompts:
            self.announce(prompt, num_output_tokens, "g0", 0, False, None, "a")

    @rule(
        prompts=st.lists(st.one_of(st.integers(1, 60), st.integers(1, 300)), min_size=2, max_size=8),
        newcomers=st.lists(st.integers(1, BUDGET), max_size=8),
    )
    def resume_many(self, prompts, newcomers):
        """A worker that this leader has never known is gone with all it had, and others come."""
        for prompt in prompts:
            self.num_requests += 1
            request = Live(f"r{self.num_requests}", 0, prompt, 2, "g1", critical=False, deadline_at=None)
            self.again[request.request_id] = request
            self.announce(prompt, 2, "g1", 0, False, None, "")
        while self.again:
            self.announce(1, 2, "g1", 0, False, None, "")
        for prompt in newcomers:
            self.announce(prompt, 2, "g0", 0, False, None, "")

    @rule(pick=st.integers(0, 30), prompt=st.integers(1, BUDGET))
    @precondition(lambda self: self.live)
    def announce_again_what_is_alive(self, pick, prompt):
        """A gateway that has fenced an attempt early, or repeats itself after a reconnect."""
        request = self._pick(pick)
        if request is None:
            return
        attempt = request.attempt + pick % 2
        if attempt > request.attempt:
            del self.live[request.request_id]
            self._end(request)
            for engine in self.engines.values():
                engine.remove(request.request_id, request.attempt)
            self.live[request.request_id] = Live(
                request.request_id, attempt, prompt, 1, request.gateway_id, False, None, arrived_at=self.now
            )
        self.tell(
            RequestArrived(
                request_id=request.request_id,
                attempt=attempt,
                gateway_id=request.gateway_id,
                num_prompt_tokens=prompt,
                tokenizer=self._tokenizer(request.request_id),
            )
        )

    def _pick(self, pick: int, *states: str) -> Live | None:
        matching = [r for r in self.live.values() if not states or r.state in states]
        return matching[pick % len(matching)] if matching else None

    @rule(pick=st.integers(0, 30))
    @precondition(lambda self: self.live)
    def cancel(self, pick):
        request = self._pick(pick)
        if request is None:
            return
        if request.state == "waiting":
            self._end(self.live.pop(request.request_id))
        self.tell(RequestCancelled(request_id=request.request_id, attempt=request.attempt))
        assert request.request_id not in self.live, "a cancelled request stayed"

    def lose_gateway(self, gateway):
        for request in [r for r in self.live.values() if r.gateway_id == gateway and r.state == "waiting"]:
            self._end(self.live.pop(request.request_id))
        self.tell(GatewayLost(gateway_id=gateway))
        assert not any(r.gateway_id == gateway for r in self.live.values())

    @rule()
    @precondition(lambda self: self.mail)
    def deliver_gateway_event(self):
        """First tokens and ends travel by way of the gateway, and may be late."""
        event = self.mail.popleft()
        request = self.live.get(event.request_id)
        if request is not None and request.attempt == event.attempt:
            if isinstance(event, RequestFinished):
                self._end(self.live.pop(event.request_id))
                for engine in self.engines.values():
                    engine.remove(request.request_id, request.attempt)
            elif request.state == "placed":
                request.state = "decode_waiting"
                request.prefilled_at = self.now
        self.tell(event)

    @rule(pick=st.integers(0, 30))
    @precondition(lambda self: self._pick(0, "placed", "decoding"))
    def refuse(self, pick):
        request = self._pick(pick, "placed", "decoding")
        if request is None:
            return
        group_id = request.group_id
        engine = self.engines[group_id]
        if any(s.request_id == request.request_id and s.only_holds_kv for s in engine.sequences):
            return  # prefilled already: too late to refuse
        engine.remove(request.request_id, request.attempt)
        for batch in engine.on_the_way:
            self._strike(engine, batch, request)
        request.state = "waiting" if request.state == "placed" else "decode_waiting"
        self.tell(PlacementRefused(request_id=request.request_id, attempt=request.attempt, group_id=group_id))

    def _strike(self, engine: Engine, batch: Batch, request: Live) -> None:
        """The member will not come with its batch."""
        self.struck = getattr(self, "struck", set())
        self.struck.add((batch.batch_id, request.request_id, request.attempt))

    @rule(pick=st.integers(0, 30), stale=st.booleans())
    @precondition(lambda self: self._pick(0, "placed", "decoding"))
    def split(self, pick, stale):
        request = self._pick(pick, "placed", "decoding")
        if request is None:
            return
        engine = self.engines[request.group_id]
        if any(s.request_id == request.request_id and s.only_holds_kv for s in engine.sequences):
            return
        batch_id = "0-0" if stale else request.batch_id
        before = dict(self.live)
        self.tell(BatchSplit(group_id=request.group_id, batch_id=batch_id, request_ids=(request.request_id,)))
        assert (request.request_id in self.live) is stale
        assert len(before) - len(self.live) == (0 if stale else 1)

    @rule(pick=st.integers(0, 30))
    @precondition(lambda self: self._pick(0, "decode_waiting", "decoding"))
    def fail_transfer(self, pick):
        request = self._pick(pick, "decode_waiting", "decoding")
        if request is None:
            return
        self._end(self.live.pop(request.request_id))
        for engine in self.engines.values():
            engine.remove(request.request_id, request.attempt)
        self.again[request.request_id] = request
        self.tell(KvTransferFailed(request_id=request.request_id, attempt=request.attempt))

    # -- workers ----------------------------------------------------------------------------------------

    def join(self, group_id: str) -> None:
        self.num_boots += 1
        spec = GroupSpec(
            group_id=group_id,
            boot_id=f"boot-{self.num_boots}",
            phase=self.roles[group_id],
            dp_size=self.dp_size,
            chunk_budget_tokens=BUDGET,
            chunked_prefill=self.chunked,
            max_batch_size=MAX_BATCH,
            kv_blocks_total=KV_BLOCKS,
            tokens_per_block=TOKENS_PER_BLOCK,
            admission_lead_passes=self.lead if self.roles[group_id] is not Phase.DECODE else 0,
            tokenizer=self.tokenizers.get(group_id, ""),
        )
        if group_id in self.engines:
            # A new boot: what the old one had is gone, and its commands were for the old books.
            self.engines.pop(group_id)
        self.engines[group_id] = Engine(spec)
        self.tell(WorkerJoined(group=spec))
        assert not any(
            r.group_id == group_id and r.state in ("placed", "decoding") for r in self.live.values()
        )

    group_ids = st.sampled_from(["p0", "p1", "d0"])

    def _engine(self, group_id: str) -> Engine | None:
        return self.engines.get(group_id)

    def _included(self, engine: Engine) -> int:
        engine.reported_seq = engine.included_seq
        engine.has_reported = True
        engine.suspect = False
        return engine.included_seq

    @rule(group_id=group_ids)
    def report(self, group_id):
        engine = self._engine(group_id)
        if engine is not None:
            self.tell(
                RankStateReported(
                    group_id=group_id, included_dispatch_seq=self._included(engine), loads=engine.loads()
                )
            )

    @rule(group_id=group_ids)
    def deliver_batch(self, group_id):
        engine = self._engine(group_id)
        if engine is None or not engine.on_the_way:
            return
        batch = engine.on_the_way.popleft()
        if batch.batch_id.startswith(f"{self.epoch}-"):
            engine.included_seq = batch.dispatch_seq
        struck = getattr(self, "struck", set())
        for p in batch.placements:
            request = self.live.get(p.request_id)
            if not self._is_live(p) or (batch.batch_id, p.request_id, p.attempt) in struck:
                continue
            if request.batch_id != batch.batch_id:
                continue
            is_decode = batch.phase is Phase.DECODE
            passes = 0 if batch.phase is Phase.PREFILL else request.num_output_tokens
            engine.sequences.append(
                Sequence(
                    p.request_id,
                    p.attempt,
                    p.dp_rank,
                    0 if is_decode else p.num_prefill_tokens,
                    request.prompt,
                    passes,
                )
            )
            if is_decode:  # the KV has been pulled
                prefill = self.engines.get(request.prefill_group_id)
                if prefill is not None:
                    prefill.remove(p.request_id, p.attempt)

    @rule(group_id=group_ids, with_loads=st.booleans())
    def start_pass(self, group_id, with_loads):
        engine = self._engine(group_id)
        if engine is None or engine.running is not None:
            return
        work = [s for s in engine.sequences if not s.only_holds_kv]
        if not work:
            return
        room = [engine.spec.chunk_budget_tokens] * engine.spec.dp_size
        engine.running = {}
        for s in work:
            tokens = min(s.uncomputed, room[s.rank])
            room[s.rank] -= tokens
            if tokens or not s.uncomputed:
                engine.running[s.request_id, s.attempt] = tokens
        engine.forward_pass_id += 1
        included = engine.included_seq
        if with_loads:
            included = self._included(engine)
        engine.suspect = engine.suspect and not with_loads
        self.tell(
            ForwardPassStarted(
                group_id=group_id,
                forward_pass_id=engine.forward_pass_id,
                included_dispatch_seq=included,
                loads=engine.loads() if with_loads else None,
            )
        )

    @rule(group_id=group_ids, duration_s=st.sampled_from([0.01, 0.1, 0.4]))
    def end_pass(self, group_id, duration_s):
        engine = self._engine(group_id)
        if engine is None or engine.running is None:
            return
        self._advance_to(self.now + duration_s)
        if self._engine(group_id) is not engine or engine.running is None:
            return  # the watchdog took it meanwhile
        ran = [0] * engine.spec.dp_size
        for s in list(engine.sequences):
            tokens = engine.running.get((s.request_id, s.attempt))
            if tokens is None:
                continue
            ran[s.rank] += tokens
            s.uncomputed -= tokens
            if s.uncomputed:
                continue
            if engine.spec.phase is Phase.PREFILL:
                if self.topology == "prefill":
                    engine.remove(s.request_id, s.attempt)
                    self._post(
                        RequestFinished(request_id=s.request_id, attempt=s.attempt, num_output_tokens=1)
                    )
                else:
                    s.only_holds_kv = True
                    self._post(PrefillFinished(request_id=s.request_id, attempt=s.attempt))
                continue
            s.passes_left -= 1
            if s.passes_left <= 0:
                engine.remove(s.request_id, s.attempt)
                self._post(RequestFinished(request_id=s.request_id, attempt=s.attempt, num_output_tokens=4))
        engine.running = None
        self.tell(
            ForwardPassEnded(
                group_id=group_id,
                forward_pass_id=engine.forward_pass_id,
                duration_s=duration_s,
                included_dispatch_seq=self._included(engine),
                loads=engine.loads(),
                pass_prefill_tokens=tuple(ran),
            )
        )

    def _post(self, event: Event) -> None:
        self.mail.append(event)

    @rule(group_id=group_ids, passes=st.integers(1, 3), duration_s=st.sampled_from([0.01, 0.1]))
    @precondition(lambda self: any(not engine.is_idle for engine in self.engines.values()))
    def run(self, group_id, passes, duration_s):
        """All goes well for a while: passes end, gateways hear of it, batches arrive, the next pass starts."""
        for _ in range(passes):
            self.end_pass(group_id, duration_s)
            while self.mail:
                self.deliver_gateway_event()
            engine = self._engine(group_id)
            while engine is not None and engine.on_the_way:
                self.deliver_batch(group_id)
            self.start_pass(group_id, with_loads=True)

    @rule(duration_s=st.sampled_from([0.01, 0.1]))
    @precondition(lambda self: any(not engine.is_idle for engine in self.engines.values()))
    def run_all(self, duration_s):
        """Every group in turn."""
        for group_id in list(self.roles):
            self.run(group_id, 1, duration_s)

    @rule(group_id=group_ids, how=st.integers(0, 15))
    def trouble(self, group_id, how):
        """Now and then a worker drains, is lost, comes back, reboots or reconnects."""
        engine = self._engine(group_id)
        if engine is None:
            if group_id in self.roles:
                self.join(group_id)
            return
        match how:
            case 0:
                engine.draining = True
                self.tell(WorkerDraining(group_id=group_id))
            case 1:
                del self.engines[group_id]
                self.tell(WorkerLost(group_id=group_id))
                assert not any(
                    r.group_id == group_id and r.state in ("placed", "decoding") for r in self.live.values()
                )
            case 2:
                self.join(group_id)
            case 3:
                self.tell(WorkerJoined(group=engine.spec))

    def change_leader(self):
        for group_id, engine in self.engines.items():
            while engine.on_the_way:  # what an old leader sent arrives before the new one acts
                self.deliver_batch(group_id)
        self.epoch += 1
        for engine in self.engines.values():
            engine.has_reported = False
            engine.included_seq = engine.reported_seq = 0
        for request in [r for r in self.live.values() if r.state in ("placed", "decoding")]:
            self._end(self.live.pop(request.request_id))  # they go on, and the new leader never hears of them
            for engine in self.engines.values():
                engine.remove(request.request_id, request.attempt)
        self.mail = deque(event for event in self.mail if event.request_id in self.live)
        self.tell(LeaderChanged(epoch=self.epoch))
        for request in list(self.live.values()):
            self.announce_to_new_leader(request)

    def announce_to_new_leader(self, request):
        """What gateways tell a leader that knows nothing."""
        if request.state == "decode_waiting":
            request.prefilled_at = self.now
            request.prefill_group_id = ""  # where its KV is, the gateway does not say
            self.tell(
                PrefillFinished(
                    request_id=request.request_id,
                    attempt=request.attempt,
                    gateway_id=request.gateway_id,
                    num_prompt_tokens=request.prompt,
                    max_output_tokens=32,
                    tokenizer=self._tokenizer(request.request_id),
                )
            )
            return
        request.arrived_at = self.now
        request.priority = 0
        self.tell(
            RequestArrived(
                request_id=request.request_id,
                attempt=request.attempt,
                gateway_id=request.gateway_id,
                num_prompt_tokens=request.prompt,
                max_output_tokens=32,
                latency_class=LatencyClass.CRITICAL if request.critical else LatencyClass.STANDARD,
                deadline_at=request.deadline_at,
                tokenizer=self._tokenizer(request.request_id),
            )
        )

    # -- operators and time -----------------------------------------------------------------------------

    @rule(
        what=st.integers(0, 11), policy=st.sampled_from(POLICY_NAMES), gateway=st.sampled_from(["g0", "g1"])
    )
    def turn_of_events(self, what, policy, gateway):
        """What happens rarely."""
        match what:
            case 0:
                self.change_leader()
            case 1:
                self.lose_gateway(gateway)
            case 2 | 3 | 4 | 5:
                self.change_policy(policy)

    def change_policy(self, policy):
        self.policy = policy
        self.tell(PolicyChanged(policy=policy))

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.3, 3.0]))
    def wait(self, seconds):
        self._advance_to(self.now + seconds)

    def _advance_to(self, until: float) -> None:
        """Time passes; the shell fires the timer whenever the machine has asked for it."""
        for _ in range(200):
            wakeup = self.machine.next_wakeup()
            if wakeup is None or wakeup > until:
                self.now = until
                return
            self.now = max(self.now, wakeup)
            self.tell(TimerFired())
            later = self.machine.next_wakeup()
            assert later is None or later > self.now, "asks to be woken at once, for ever"
        raise AssertionError("woken 200 times in no time")

    # -- what must always hold --------------------------------------------------------------------------

    @invariant()
    def its_own_books_agree(self):
        self.machine.check_invariants()

    @invariant()
    def no_request_is_lost_or_doubled(self):
        books = {
            r.request_id: (r.attempt, r.status.value, r.group_id) for r in self.machine.requests.values()
        }
        expected = {
            r.request_id: (
                r.attempt,
                r.state,
                {"waiting": "", "decode_waiting": r.prefill_group_id}.get(r.state, r.group_id),
            )
            for r in self.live.values()
        }
        assert books == expected

    @invariant()
    def nobody_waits_beyond_the_queue_timeout_or_the_deadline(self):
        for request in self.machine.waiting:
            assert self.now - request.waiting_since <= QUEUE_TIMEOUT_S + 1e-9
        # Time may have passed the deadline by the step that is going on, never by an event.

    @invariant()
    def no_group_is_idle_while_the_oldest_request_fits(self):
        """Work conservation, but for what `min_fill`, a fixed interval or the fixed batch's window allow.

        The oldest of those that a group may be given: the others wait for a group of their tokenizer.
        """
        waiting = self.machine.waiting
        if not waiting or self.topology == "prefill_decode":
            return
        for engine in self.engines.values():
            spec = engine.spec
            readable = (one for one in waiting if {one.tokenizer, spec.tokenizer} != {"01", "02"})
            oldest = next(readable, None)
            if oldest is None:
                continue
            prompt = oldest.num_prompt_tokens
            if not engine.has_reported or engine.draining or engine.suspect or not engine.is_idle:
                continue
            if engine.reported_seq != self.machine.fleet.groups[spec.group_id].last_seq:
                continue  # has not yet said what it holds
            if prompt >= KV_BLOCKS * TOKENS_PER_BLOCK or (prompt > BUDGET and not self.chunked):
                continue
            loads = self.machine.fleet.groups[spec.group_id]
            if any(loads.load_tokens) or any(loads.kv_used):
                continue  # believes otherwise until the next report
            others = [group for group in self.machine.fleet.entry.values() if group is not loads]
            is_hosted = any(group.occupants.rest(group.queued_tokens()).num_passes for group in others)
            is_patient = self.now - oldest.waiting_since < self.settings.queue_timeout_s / 2
            if self.policy == "staggered-plus" and prompt > BUDGET and is_hosted and is_patient:
                continue  # it waits for a group that such prompts occupy, or are believed to (see `occupied`)
            may_hold = (
                self.policy == "fixed-batch"
                or self.settings.interval_s is not None
                or (self.policy == "staggered" or self.topology == "aggregated")
            )
            full = BUDGET * spec.dp_size
            if may_hold and self.policy.startswith("staggered"):
                share = 1.0 if self.settings.interval_s is not None else self.settings.min_fill
                may_hold = waiting.num_tokens < share * full
            assert may_hold, f"{spec.group_id} is idle while {prompt} tokens wait"
            assert self.machine.next_wakeup() is not None
            assert self.machine.next_wakeup() <= self.now + self.settings.max_hold_s + 1e-9

    def teardown(self):
        if not hasattr(self, "machine"):
            return
        self.machine.check_invariants()
        again = SchedulerMachine(self.settings)
        for now, event, commands in self.log:
            assert again.handle(event, now) == commands, "a replay decided otherwise"


# It takes seconds; what it finds takes minutes to be made small, and a timeout would hide it.
TestSchedulerWorld = pytest.mark.timeout(600)(SchedulerWorld.TestCase)
TestSchedulerWorld.settings = settings(
    settings.default, stateful_step_count=60, max_examples=2 * settings.default.max_examples
)
