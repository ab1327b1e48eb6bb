"""A whole cluster in virtual time: the real scheduler core over modelled EP groups.

A heap of (time, order, action) drives three kinds of things: arrivals, ends of passes, and the scheduler's
own wake-ups. Nothing here decides anything; the commands come from the `SchedulerMachine` that the
service runs, and the engines behave as `GroupModel` (the simulated worker's model) says.

Order at one instant: every event of that instant is handled before any pass starts, so requests dispatched
as a pass ends join the next one. Messages take no time and nothing fails here; see `disturbed`.

Gateways are perfect: they see a first token as the pass ends, and a request prefilled without decode
groups (a prefill-only study) is finished then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import assert_never

from hortator.scheduler.core.commands import Abort, Attach, Command, DeclareLost, Dispatch, Probe, Reject
from hortator.scheduler.core.events import (
    Event,
    FirstToken,
    ForwardPassEnded,
    ForwardPassStarted,
    PrefillFinished,
    RankStateReported,
    RequestArrived,
    RequestFinished,
    TimerFired,
    WorkerJoined,
)
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import (
    Batch,
    BlocksChanged,
    GroupSpec,
    Phase,
    RankLoads,
    SchedulerSettings,
)
from hortator.sim.distribution import Distribution
from hortator.sim.pass_times import PassTimes
from hortator.sim.records import RequestRecord
from hortator.sim.results import Recorder
from hortator.sim.workload import TraceRequest, tenant_name
from hortator.worker.engine import FinishReason, RequestMode
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_model import GroupConfig, GroupModel
from hortator.worker.engines.simulated.group_request import GroupRequest

ANNOUNCED_OUTPUT_TOKENS = 1024
"""The `max_tokens` that clients send: the scheduler does not know how long an output will be."""

OnPass = Callable[[float, GroupSpec, GroupModel, float], None]
"""Told as a pass starts: now, whose, the model (what the pass runs is known), and how long it takes."""

MODES = {
    Phase.PREFILL: RequestMode.PREFILL_ONLY,
    Phase.AGGREGATED: RequestMode.AGGREGATED,
    Phase.DECODE: RequestMode.DECODE_ONLY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """One modelled EP group."""

    spec: GroupSpec
    config: GroupConfig
    cost: PassCost


class SimulatedGroup:
    """An EP group's model, and what the cluster keeps beside it."""

    __slots__ = ("cost", "included_seq", "model", "passes", "spec", "started_at")

    def __init__(self, plan: GroupPlan, *, itl_limit_s: float) -> None:
        self.spec = plan.spec
        self.cost = plan.cost
        self.model = GroupModel(plan.config, plan.cost)
        self.included_seq = 0
        self.started_at = 0.0
        self.passes = PassTimes(itl_limit_s=itl_limit_s)

    def loads(self) -> RankLoads:
        """The report that a worker would push now."""
        ranks = self.model.ranks
        changed = tuple(
            BlocksChanged(dp_rank=rank.dp_rank, stored=tuple(rank.kv.stored), removed=tuple(rank.kv.removed))
            for rank in ranks
            if rank.kv.stored or rank.kv.removed
        )
        if changed:
            for rank in ranks:
                rank.kv.stored.clear()
                rank.kv.removed.clear()
        return RankLoads(
            prefill_load_tokens=tuple([rank.prefill_load_tokens for rank in ranks]),
            batch_size=tuple([rank.batch_size + rank.num_waiting for rank in ranks]),
            kv_blocks_used=tuple([rank.kv.used for rank in ranks]),
            blocks_changed=changed,
        )


class VirtualCluster:
    """Runs a workload through scheduler and groups; results go to the recorder."""

    def __init__(
        self,
        plans: Sequence[GroupPlan],
        settings: SchedulerSettings,
        recorder: Recorder,
        *,
        on_event: Callable[[float, Event, list[Command]], None] | None = None,
        on_pass: OnPass | None = None,
    ) -> None:
        self.machine = SchedulerMachine(settings)
        self.groups = {
            plan.spec.group_id: SimulatedGroup(plan, itl_limit_s=recorder.slo.itl) for plan in plans
        }
        self._tokens_per_block = plans[0].spec.tokens_per_block
        self._has_decode = any(plan.spec.phase is Phase.DECODE for plan in plans)
        self._recorder = recorder
        self._on_event = on_event
        self._on_pass = on_pass
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._dirty: dict[str, SimulatedGroup] = {}
        self._wakeup_at = float("inf")
        self.now = 0.0
        self.num_events = 0
        self._arrivals_done = False
        self._num_settled_gaps = 0

    def run(self, requests: Iterable[TraceRequest], *, drain_s: float = 600.0) -> None:
        """Feed the requests (ascending `arrived_at`) and run until all have ended, or `drain_s` after."""
        for group in self.groups.values():
            self._tell(WorkerJoined(group=group.spec))
            self._report(group.spec.group_id)
        arrivals = iter(requests)
        self._schedule_arrival(arrivals, 0)
        end_at = float("inf")
        heap = self._heap
        while heap:
            at = heap[0][0]
            if at > end_at:
                break
            self.now = at
            while heap and heap[0][0] == at:
                heappop(heap)[2]()
            self._start_passes()
            self._arm()
            if end_at == float("inf") and self._arrivals_done:
                end_at = at + drain_s
            if end_at < float("inf") and not self._recorder.num_live:
                break
        self._keep_gaps()
        self._recorder.end(self.now)

    # -- the heap ---------------------------------------------------------------------------------------

    def _at(self, when: float, action: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._heap, (when, self._order, action))

    def _schedule_arrival(self, arrivals: Iterator[TraceRequest], index: int) -> None:
        request = next(arrivals, None)
        if request is None:
            self._arrivals_done = True
            return

        def arrive() -> None:
            self._arrive(request, index)
            self._schedule_arrival(arrivals, index + 1)

        self._at(max(self.now, request.arrived_at), arrive)

    def _arm(self) -> None:
        """One pending wake-up suffices: a later one is set when it fires."""
        wakeup = self.machine.next_wakeup()
        if wakeup is not None and wakeup < self._wakeup_at:
            self._wakeup_at = wakeup
            self._at(max(wakeup, self.now), self._wake)

    def _wake(self) -> None:
        if self.now >= self._wakeup_at:
            self._wakeup_at = float("inf")
            self._tell(TimerFired())

    # -- events and commands ----------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        self.num_events += 1
        commands = self.machine.handle(event, self.now)
        if self._on_event is not None:
            self._on_event(self.now, event, commands)
        for command in commands:
            match command:
                case Dispatch():
                    self._dispatch(command.batch)
                case Reject():
                    self._reject(command)
                case Abort():
                    self._abort(command)
                case Attach():
                    raise AssertionError(f"no request has a key in this cluster: {command}")
                case Probe():
                    self._probe(command)
                case DeclareLost():
                    self._declare_lost(command)
                case _:
                    assert_never(command)

    def _reject(self, command: Reject) -> None:
        self._recorder.reject(command.request_id, command.reason.value)

    def _probe(self, command: Probe) -> None:
        self._at(self.now, partial(self._report, command.group_id))

    def _abort(self, command: Abort) -> None:
        raise AssertionError(f"nothing aborts in this cluster: {command}")

    def _declare_lost(self, command: DeclareLost) -> None:
        raise AssertionError(f"a modelled group answers probes: {command}")

    def _report(self, group_id: str) -> None:
        """A worker in the middle of a long pass answers."""
        group = self.groups[group_id]
        self._tell(
            RankStateReported(
                group_id=group_id, included_dispatch_seq=group.included_seq, loads=group.loads()
            )
        )

    def _arrive(self, request: TraceRequest, index: int) -> None:
        request_id = f"r{index}"
        hashes = request.prefix_hashes(self._tokens_per_block) if request.prefix_block_ids else ()
        record = RequestRecord(
            request_id=request_id,
            arrived_at=self.now,
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=request.num_output_tokens,
            tenant=request.tenant,
            block_hashes=hashes,
        )
        self._recorder.arrive(record)
        self._announce(record)

    def _announce(self, record: RequestRecord) -> None:
        self._tell(
            RequestArrived(
                request_id=record.request_id,
                num_prompt_tokens=record.num_prompt_tokens,
                max_output_tokens=max(ANNOUNCED_OUTPUT_TOKENS, record.num_output_tokens),
                block_hashes=record.block_hashes,
                tenant=tenant_name(record.tenant),
            )
        )

    def _dispatch(self, batch: Batch) -> None:
        group = self.groups[batch.group_id]
        mode = MODES[batch.phase]
        members: list[GroupRequest] = []
        for placement in batch.placements:
            record = self._recorder.live[placement.request_id]
            is_decode = mode is RequestMode.DECODE_ONLY
            if not is_decode:
                record.dispatched_at = self.now
                record.dp_rank = placement.dp_rank
            members.append(
                GroupRequest(
                    placement.request_id,
                    placement.dp_rank,
                    mode,
                    record.num_prompt_tokens,
                    max(1, record.num_output_tokens),
                    num_prior_tokens=1 if is_decode else 0,
                    block_hashes=record.block_hashes,
                    transfer_s=group.cost.transfer_s(record.num_prompt_tokens) if is_decode else 0.0,
                )
            )
        group.model.submit(members, self.now)
        group.included_seq = batch.dispatch_seq
        self._dirty[batch.group_id] = group
        if mode is RequestMode.DECODE_ONLY:
            for member in members:
                self._release_kv_after(member, self._recorder.live[member.request_id])

    def _release_kv_after(self, member: GroupRequest, record: RequestRecord) -> None:
        """The prefill rank keeps the KV until it has been pulled."""
        prefill = self.groups[record.prefill_group]

        def release() -> None:
            if member.ready_at > self.now:  # the transfer waited for blocks: not before it has ended
                self._at(member.ready_at, release)
                return
            prefill.model.release(member.request_id)
            self._dirty[prefill.spec.group_id] = prefill

        self._at(self.now + member.transfer_s, release)

    # -- passes -----------------------------------------------------------------------------------------

    def _start_passes(self) -> None:
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for group_id, group in dirty.items():
                model = group.model
                if model.is_running:
                    continue
                duration_s = model.start_pass(self.now)
                if duration_s is None:
                    ready_at = model.next_ready_at()
                    if ready_at is not None:
                        self._at(max(ready_at, self.now), partial(self._touch, group))
                    continue
                group.started_at = self.now
                self._recorder.start_pass(group.spec, model, duration_s)
                if self._on_pass is not None:
                    self._on_pass(self.now, group.spec, model, duration_s)
                self._at(self.now + duration_s, partial(self._end_pass, group))
                self._tell(
                    ForwardPassStarted(
                        group_id=group_id,
                        forward_pass_id=model.forward_pass_id,
                        included_dispatch_seq=group.included_seq,
                        loads=group.loads(),
                    )
                )

    def _touch(self, group: SimulatedGroup) -> None:
        self._dirty[group.spec.group_id] = group

    def _end_pass(self, group: SimulatedGroup) -> None:
        model = group.model
        outcome = model.end_pass()
        self._dirty[group.spec.group_id] = group
        group.passes.end(self.now)
        for request in outcome.first_tokens:
            self._first_token(group, request)
        for request in outcome.finished:
            if request.finish_reason is not FinishReason.PREFILLED:
                self._finish(group, request)
        if group.passes.has_many:
            self._settle(group)
        ranks = model.ranks
        self._tell(
            ForwardPassEnded(
                group_id=group.spec.group_id,
                forward_pass_id=model.forward_pass_id,
                duration_s=self.now - group.started_at,
                included_dispatch_seq=group.included_seq,
                loads=group.loads(),
                pass_prefill_tokens=tuple([rank.pass_prefill_tokens for rank in ranks]),
            )
        )

    def _first_token(self, group: SimulatedGroup, request: GroupRequest) -> None:
        record = self._recorder.live[request.request_id]
        record.started_at = request.started_at
        record.first_token_at = self.now
        record.prefill_group = group.spec.group_id
        if request.mode is not RequestMode.PREFILL_ONLY:
            record.first_decode_pass = group.model.forward_pass_id + 1
            self._tell(FirstToken(request_id=request.request_id))
            return
        if self._has_decode and record.num_output_tokens > 1:
            self._tell(PrefillFinished(request_id=request.request_id))
            return
        group.model.release(request.request_id)
        self._end_request(record, 1)

    def _finish(self, group: SimulatedGroup, request: GroupRequest) -> None:
        record = self._recorder.live.get(request.request_id)
        if record is None:
            return  # its first token was its last
        # A decode group's request gets its token number `num_prior_tokens` from its first pass there.
        first_pass = (
            request.num_prior_tokens - request.pass_offset
            if request.num_prior_tokens
            else record.first_decode_pass
        )
        if record.num_output_tokens > 1 and first_pass <= group.passes.num_ended:
            record.second_token_at = group.passes.end_of(first_pass)
            if record.arrived_at >= self._recorder.warmup_s:
                record.num_late_gaps = group.passes.count(first_pass, record.num_output_tokens - 2)
        self._end_request(record, record.num_output_tokens)

    def _settle(self, group: SimulatedGroup) -> None:
        """Forget times of passes before all decodes that go on; of very many gaps, keep only sums."""
        oldest = next(iter(group.model.decoding.values()), None)
        first_pass = group.model.forward_pass_id
        if oldest is not None:
            first_pass = min(first_pass, oldest.num_prior_tokens - oldest.pass_offset)
        self._num_settled_gaps += group.passes.settle(first_pass)
        recorder = self._recorder
        if recorder.gap_sums is None and self._num_settled_gaps > recorder.max_gaps:
            recorder.gap_sums = Distribution()
        if recorder.gap_sums is not None:
            for passes in self._all_passes():
                passes.sum_up(recorder.gap_sums)

    def _all_passes(self) -> Iterator[PassTimes]:
        return (group.passes for group in self.groups.values())

    def _keep_gaps(self) -> None:
        """The run is over."""
        gaps = [passes.gaps() for passes in self._all_passes()]
        if self._recorder.gap_sums is None:
            self._recorder.token_gaps = gaps
            return
        for seconds, times in gaps:
            self._recorder.gap_sums.add(seconds, times)

    def _end_request(self, record: RequestRecord, num_output_tokens: int) -> None:
        record.finished_at = self.now
        self._recorder.finish(record)
        self._tell(RequestFinished(request_id=record.request_id, num_output_tokens=num_output_tokens))
