"""The cluster of `cluster` with messages that take time and groups that die.

Scheduler and gateways are the real ones here (`SchedulerMachine`, `RequestMachine`); what is modelled is what
lies between them and what the engines do:

- What a gateway or a worker tells the scheduler arrives after a delay; so does what the scheduler decides. A
  pass that ends starts the next one with what has arrived by then: a late batch joins the pass after that.
- A report may be lost. A worker that has said nothing for HEARTBEAT_S reports its loads again.
- A group that dies loses its requests, its KV, its prefix cache and what is on its way to it. Gateways see
  the broken stream one delay later and announce what ran there again, with the tokens they have; the
  scheduler is told GRACE_S after that. The group is back, empty and with another boot, after `away_s`.
- A batch for a group that is gone, or for an earlier boot of it, is refused: the attempt is placed again.
- Who lost two workers is quarantined, as in the service; it counts as rejected.

Tokens flow from workers to gateways without delay: latency here is that of the control plane. The gap that a
loss tears into an answer counts for the SLO of its request, and not in the distribution of ITL.

*Newcomers* are requests that arrive while a group is away: their TTFT says what the resumed requests of that
group cost those who come after them. The *pause* of a resumed request is the time from its being announced
again to its next token.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf, isnan, nan
from typing import assert_never

import numpy as np

from hortator.gateway.actions import (
    AbortAttempt,
    Action,
    Announce,
    AnnounceDecode,
    Complete,
    Fail,
    ReleaseLease,
    ReportKvLost,
    ReportRefusal,
    Submit,
    Withdraw,
)
from hortator.gateway.placement import CompletionReason
from hortator.gateway.request import RequestMachine, State
from hortator.scheduler.core.commands import Abort, Command, DeclareLost, Probe, Reject
from hortator.scheduler.core.events import (
    Event,
    FirstToken,
    ForwardPassEnded,
    ForwardPassStarted,
    KvTransferFailed,
    PlacementRefused,
    PrefillFinished,
    RankStateReported,
    RequestArrived,
    RequestCancelled,
    RequestFinished,
    TimerFired,
    WorkerJoined,
    WorkerLost,
)
from hortator.scheduler.core.model import Batch, Phase, SchedulerSettings
from hortator.scheduler.core.model import Placement as SchedulerPlacement
from hortator.sim.cluster import (
    ANNOUNCED_OUTPUT_TOKENS,
    MODES,
    GroupPlan,
    OnPass,
    SimulatedGroup,
    VirtualCluster,
)
from hortator.sim.distribution import Distribution
from hortator.sim.disturbances import HEARTBEAT_S, Disturbances, Draws, Streams
from hortator.sim.gateways import (
    Attempt,
    Held,
    Lease,
    completion_of,
    kv_source_of,
    placement_of,
    rejection_of,
    retraction_of,
    target_of,
)
from hortator.sim.pass_times import PassTimes
from hortator.sim.records import RequestRecord
from hortator.sim.results import Recorder
from hortator.sim.workload import TraceRequest, tenant_name
from hortator.worker.engine import FinishReason, RequestMode, RequestRefusedError
from hortator.worker.engines.simulated.group_model import GroupModel
from hortator.worker.engines.simulated.group_request import (
    DECODING,
    ENDED,
    TRANSFERRING,
    WAITING,
    GroupRequest,
)

GRACE_S = 1.0
"""`worker_grace_s` of the scheduler, by default: what a broken stream has to come back."""

FromWorker = ForwardPassStarted | ForwardPassEnded | RankStateReported | WorkerJoined
FromGateway = (
    RequestArrived
    | RequestCancelled
    | PrefillFinished
    | FirstToken
    | RequestFinished
    | PlacementRefused
    | KvTransferFailed
)


@dataclass(slots=True)
class DisturbanceCounts:
    """What happened in a run."""

    groups_lost: int = 0
    reports_lost: int = 0
    replacements: int = 0
    """Announcements of another attempt."""
    refusals: int = 0
    """Placements on a group that was gone."""


class DisturbedCluster(VirtualCluster):
    """See the module docstring."""

    def __init__(
        self,
        plans: Sequence[GroupPlan],
        settings: SchedulerSettings,
        recorder: Recorder,
        disturbances: Disturbances,
        *,
        seed: int = 0,
        on_event: Callable[[float, Event, list[Command]], None] | None = None,
        on_pass: OnPass | None = None,
    ) -> None:
        super().__init__(plans, settings, recorder, on_event=on_event, on_pass=on_pass)
        self.counts = DisturbanceCounts()
        self._disturbances = disturbances
        self._draws = Draws(disturbances, seed=seed)
        self._streams = Streams(self._at, self._draws)
        self._plans = {plan.spec.group_id: plan for plan in plans}
        self._held: dict[str, Held] = {}
        self._away: set[str] = set()
        self._outages: list[float] = []  # when the first group went away, when all were back, and so on
        self._newcomers_ttft = Distribution()
        self._pauses = Distribution()
        self._reported_at = dict.fromkeys(self._plans, 0.0)
        self._past: list[PassTimes] = []
        """Of boots that died."""
        self._num_boots = 0

    def run(self, requests: Iterable[TraceRequest], *, drain_s: float = 600.0) -> None:
        """As `VirtualCluster.run`."""
        for group_id in self._plans:
            self._at(HEARTBEAT_S, partial(self._heartbeat, group_id))
        if self._disturbances.loss_at_s < inf:
            self._at(self._disturbances.loss_at_s, self._lose_one)
        self._schedule_loss()
        super().run(requests, drain_s=drain_s)

    def figures(self) -> dict[str, object]:
        """What happened, how long newcomers waited while a group was away, and how long the resumed did."""
        newcomers = {"num": self._newcomers_ttft.num, "ttft_s": self._newcomers_ttft.percentiles()}
        resumed = {"num": self._pauses.num, "pause_s": self._pauses.percentiles()}
        return {**asdict(self.counts), "newcomers": newcomers, "resumed": resumed}

    # -- to the scheduler -------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        match event:
            case TimerFired():
                super()._tell(event)
            case ForwardPassStarted() | ForwardPassEnded():
                if self._draws.is_report_lost():
                    self.counts.reports_lost += 1
                    return
                self._tell_of_worker(event, event.group_id)
            case RankStateReported():
                self._tell_of_worker(event, event.group_id)
            case WorkerJoined():
                self._tell_of_worker(event, event.group.group_id)
            case _:
                raise AssertionError(f"nobody says this here: {event}")

    def _tell_of_worker(self, event: FromWorker, group_id: str) -> None:
        boot_id = self.groups[group_id].spec.boot_id
        self._reported_at[group_id] = self.now
        self._streams.send(
            f"reports/{group_id}/{boot_id}",
            self.now,
            partial(self._hear_worker, event, group_id, boot_id),
            extra_s=self._disturbances.report_delay_s,
        )

    def _hear_worker(self, event: FromWorker, group_id: str, boot_id: str) -> None:
        known = self.machine.fleet.groups.get(group_id)
        if isinstance(event, WorkerJoined) or (known is not None and known.spec.boot_id == boot_id):
            super()._tell(event)

    def _tell_of_request(self, event: FromGateway) -> None:
        self._streams.send(f"request/{event.request_id}", self.now, partial(super()._tell, event))

    def _report(self, group_id: str) -> None:
        if group_id not in self._away:
            super()._report(group_id)

    def _heartbeat(self, group_id: str) -> None:
        due_at = self._reported_at[group_id] + HEARTBEAT_S
        if due_at <= self.now:
            self._report(group_id)
            due_at = self.now + HEARTBEAT_S
        self._at(due_at, partial(self._heartbeat, group_id))

    # -- from the scheduler -----------------------------------------------------------------------------

    def _probe(self, command: Probe) -> None:
        self._streams.send(f"probes/{command.group_id}", self.now, partial(self._report, command.group_id))

    def _declare_lost(self, command: DeclareLost) -> None:
        """The scheduler closes the stream; a worker that lives says hello again."""
        group_id = command.group_id

        def come_back() -> None:
            group = self.groups[group_id]
            if group_id not in self._away and group.spec.boot_id == command.boot_id:
                self._tell(WorkerJoined(group=group.spec))
                self._report(group_id)

        self._streams.send(f"probes/{group_id}", self.now, come_back)

    def _reject(self, command: Reject) -> None:
        def deliver() -> None:
            held = self._held.get(command.request_id)
            if held is not None:
                self._carry_out(held, held.machine.rejected(rejection_of(command)))

        self._streams.send(f"decision/{command.request_id}", self.now, deliver)

    def _abort(self, command: Abort) -> None:
        retraction = retraction_of(command)
        if retraction is None:
            return  # its gateway has asked for it, and has told the worker

        def deliver() -> None:
            held = self._held.get(command.request_id)
            if held is not None:
                self._carry_out(held, held.machine.retracted(retraction))

        self._streams.send(f"decision/{command.request_id}", self.now, deliver)

    def _dispatch(self, batch: Batch) -> None:
        if batch.phase is not Phase.DECODE:
            for placement in batch.placements:
                held = self._held.get(placement.request_id)
                if held is not None and isnan(held.record.first_token_at):
                    held.record.dispatched_at = self.now
                    held.record.dp_rank = placement.dp_rank
        boot_id = self.machine.fleet.groups[batch.group_id].spec.boot_id
        self._streams.send(
            f"batches/{batch.group_id}/{boot_id}",
            self.now,
            partial(self._take_batch, batch, boot_id),
            num_hops=2,
        )

    # -- gateways ---------------------------------------------------------------------------------------

    def _announce(self, record: RequestRecord) -> None:
        machine = RequestMachine(
            num_prompt_tokens=record.num_prompt_tokens,
            max_tokens=max(ANNOUNCED_OUTPUT_TOKENS, record.num_output_tokens),
        )
        held = Held(machine=machine, record=record, length_factor=self._draws.length_factor())
        self._held[record.request_id] = held
        self._carry_out(held, machine.accepted())

    def _carry_out(self, held: Held, actions: Sequence[Action]) -> None:
        request_id = held.record.request_id
        for action in actions:
            match action:
                case Announce():
                    if action.attempt:
                        self.counts.replacements += 1
                        if isnan(held.resumed_at):
                            held.resumed_at = self.now
                    event = RequestArrived(
                        request_id=request_id,
                        attempt=action.attempt,
                        num_prompt_tokens=held.announced(action.num_prompt_tokens),
                        max_output_tokens=action.max_output_tokens,
                        block_hashes=held.record.block_hashes,
                        tenant=tenant_name(held.record.tenant),
                    )
                    self._say_later(held, action.attempt, action.delay_s, event)
                case AnnounceDecode():
                    self._tell_of_request(
                        PrefillFinished(
                            request_id=request_id,
                            attempt=action.attempt,
                            num_prompt_tokens=action.num_prompt_tokens,
                            max_output_tokens=action.max_output_tokens,
                        )
                    )
                case ReportRefusal():
                    refused = PlacementRefused(
                        request_id=request_id,
                        attempt=action.attempt,
                        group_id=action.worker_id,
                        reason=action.reason,
                    )
                    self._say_later(held, action.attempt, action.delay_s, refused)
                case Withdraw():
                    self._tell_of_request(RequestCancelled(request_id=request_id, attempt=action.attempt))
                case ReportKvLost():
                    self._tell_of_request(KvTransferFailed(request_id=request_id, attempt=action.attempt))
                case AbortAttempt():
                    self._abort_running(held)
                case ReleaseLease():
                    self._release_lease(held)
                case Complete():
                    self._complete(held)
                case Fail():
                    self._recorder.reject(request_id, action.error.kind.name.lower())
                    self._forget(request_id)
                case Submit():
                    raise AssertionError("submissions are carried out with their batch")
                case _:
                    assert_never(action)

    def _say_later(
        self, held: Held, attempt: int, delay_s: float, event: RequestArrived | PlacementRefused
    ) -> None:
        def say() -> None:
            machine = held.machine
            if machine.attempt == attempt and machine.state in {State.WAITING, State.TRANSFERRING}:
                self._tell_of_request(event)

        if delay_s:
            self._at(self.now + delay_s, say)
        else:
            say()

    def _abort_running(self, held: Held) -> None:
        group, attempt = held.group, held.running
        held.group = held.running = None
        if group is None or attempt is None:
            return

        def abort() -> None:
            if self._is_here(group) and not attempt.aborting and attempt.state != ENDED:
                group.model.abort(attempt.request_id)
                self._touch(group)
                self._report(group.spec.group_id)

        self._at(self.now + self._draws.delay_s(), abort)

    def _release_lease(self, held: Held) -> None:
        lease, held.lease = held.lease, None
        if lease is not None:
            self._at(self.now + self._draws.delay_s(), partial(self._free, lease))

    def _free(self, lease: Lease) -> None:
        group, attempt = lease
        if self._is_here(group) and group.model.lease(attempt.request_id) is attempt:
            group.model.release(attempt.request_id)
            self._touch(group)

    def _complete(self, held: Held) -> None:
        record = held.record
        record.finished_at = self.now
        self._recorder.finish(record)
        self._tell_of_request(
            RequestFinished(
                request_id=record.request_id,
                attempt=held.machine.attempt,
                num_output_tokens=held.num_tokens,
            )
        )
        self._forget(record.request_id)

    def _forget(self, request_id: str) -> None:
        del self._held[request_id]
        self._streams.close(f"request/{request_id}")
        self._streams.close(f"decision/{request_id}")

    # -- engines ----------------------------------------------------------------------------------------

    def _is_here(self, group: SimulatedGroup) -> bool:
        group_id = group.spec.group_id
        return self.groups[group_id] is group and group_id not in self._away

    def _take_batch(self, batch: Batch, boot_id: str) -> None:
        group = self.groups[batch.group_id]
        is_there = self._is_here(group) and group.spec.boot_id == boot_id
        members: list[Attempt] = []
        for placement in batch.placements:
            held = self._held.get(placement.request_id)
            if held is None or not held.machine.placed(placement_of(batch, placement, boot_id=boot_id)):
                continue
            if not is_there:
                self.counts.refusals += 1
                self._carry_out(held, held.machine.refused("the worker cannot be reached"))
                continue
            attempt = self._enter(held, group, batch.phase, placement)
            if attempt is not None:
                members.append(attempt)
        if not is_there:
            return
        group.model.submit(members, self.now)
        group.included_seq = batch.dispatch_seq
        self._touch(group)
        if len(members) < len(batch.placements):
            self._at(self.now, partial(self._report, batch.group_id))
        for member in members:
            held = self._held[member.request_id]
            if held.lease is not None:
                self._release_after_pull(held, member, held.lease)

    def _enter(
        self, held: Held, group: SimulatedGroup, phase: Phase, placement: SchedulerPlacement
    ) -> Attempt | None:
        """The attempt for the engine; None where that would never run it."""
        record = held.record
        mode = MODES[phase]
        is_decode = mode is RequestMode.DECODE_ONLY
        num_prior = held.num_tokens
        attempt = Attempt(
            record.request_id,
            placement.dp_rank,
            mode,
            record.num_prompt_tokens + num_prior - is_decode,
            max(1, record.num_output_tokens),
            num_prior_tokens=num_prior,
            block_hashes=() if is_decode else record.block_hashes,
            transfer_s=group.cost.transfer_s(record.num_prompt_tokens) if is_decode else 0.0,
        )
        attempt.attempt = held.machine.attempt
        held.running, held.group = attempt, group
        group.model.abort(record.request_id)  # an earlier attempt, whose abort is on its way
        try:
            group.model.check(attempt)
        except RequestRefusedError as error:
            refused = completion_of(attempt, CompletionReason.REFUSED, field=error.field)
            self._carry_out(held, held.machine.worker_completed(refused))
            return None
        return attempt

    def _release_after_pull(self, held: Held, member: Attempt, lease: Lease) -> None:
        def release() -> None:
            if held.lease is not lease or held.running is not member:
                return
            if member.state == WAITING:  # for blocks
                self._at(self.now + member.transfer_s, release)
                return
            if member.state == TRANSFERRING and member.ready_at > self.now:
                self._at(member.ready_at, release)
                return
            held.lease = None
            self._free(lease)

        self._at(self.now + member.transfer_s, release)

    def _all_passes(self) -> Iterator[PassTimes]:
        yield from super()._all_passes()
        yield from self._past

    def _touch(self, group: SimulatedGroup) -> None:
        if self._is_here(group):
            super()._touch(group)

    def _end_pass(self, group: SimulatedGroup) -> None:
        if self._is_here(group):
            super()._end_pass(group)

    def _first_token(self, group: SimulatedGroup, request: GroupRequest) -> None:
        held = self._running(request)
        is_prefill = request.mode is RequestMode.PREFILL_ONLY
        if held is None:
            if is_prefill:
                group.model.release(request.request_id)  # of an attempt that nobody wants any more
            return
        record, machine = held.record, held.machine
        if not isnan(held.resumed_at):
            self._pauses.add(np.array([self.now - held.resumed_at]))
            held.resumed_at = nan
        if isnan(record.first_token_at):
            record.started_at = request.started_at
            record.first_token_at = self.now
            record.prefill_group = group.spec.group_id
            if bisect_right(self._outages, record.arrived_at) % 2:
                self._newcomers_ttft.add(np.array([record.ttft_s]))
        else:
            self._note_gap(held, self.now)
        held.take(1)
        held.last_token_at = self.now
        if not is_prefill:
            self._tell_of_request(FirstToken(request_id=record.request_id, attempt=machine.attempt))
            return
        attempt = held.running
        if attempt is None:
            raise AssertionError("nobody runs this")
        held.running = held.group = None
        if self._has_decode and record.num_output_tokens > held.num_tokens:
            held.lease = Lease(group, attempt)
            prefilled = completion_of(
                attempt, CompletionReason.PREFILLED, kv_source=kv_source_of(group, record.request_id)
            )
            self._carry_out(held, machine.worker_completed(prefilled))
            return
        group.model.release(record.request_id)
        self._carry_out(held, machine.worker_completed(completion_of(attempt, CompletionReason.STOP)))

    def _finish(self, group: SimulatedGroup, request: GroupRequest) -> None:  # noqa: ARG002
        held = self._running(request)
        if held is None or held.running is None or request.finish_reason is FinishReason.ABORTED:
            return
        attempt = held.running
        self._advance(held, held.record.num_output_tokens - 1)
        held.running = held.group = None
        self._carry_out(held, held.machine.worker_completed(completion_of(attempt, CompletionReason.STOP)))

    def _running(self, request: GroupRequest) -> Held | None:
        held = self._held.get(request.request_id)
        return held if held is not None and held.running is request else None

    def _advance(self, held: Held, last_index: int) -> None:
        """The decode of `held` came as far as the output token `last_index`."""
        group, attempt, record = held.group, held.running, held.record
        first_index = held.num_tokens
        if group is None or attempt is None or last_index < first_index:
            return
        passes = group.passes
        first_pass = first_index - attempt.pass_offset
        self._note_gap(held, passes.end_of(first_pass))
        num_gaps = last_index - first_index
        if record.arrived_at >= self._recorder.warmup_s:
            record.num_late_gaps += passes.count(first_pass, num_gaps)
        held.last_token_at = passes.end_of(first_pass + num_gaps)
        held.take(last_index + 1 - first_index)

    def _note_gap(self, held: Held, at: float) -> None:
        """The token at this time is the first one after a change of passes that are counted together."""
        record = held.record
        if isnan(record.second_token_at):
            record.second_token_at = at
        elif at - held.last_token_at > self._recorder.slo.itl:
            record.num_late_gaps += 1

    # -- deaths -----------------------------------------------------------------------------------------

    def _schedule_loss(self) -> None:
        wait_s = self._draws.next_loss_s()
        if wait_s == inf:
            return

        def lose() -> None:
            self._lose_one()
            self._schedule_loss()

        self._at(self.now + wait_s, lose)

    def _lose_one(self) -> None:
        alive = [group_id for group_id in self._plans if group_id not in self._away]
        if alive:
            self._lose(self._draws.one_of(alive))

    def _lose(self, group_id: str) -> None:
        group, plan = self.groups[group_id], self._plans[group_id]
        model = group.model
        last_pass = model.forward_pass_id - model.is_running
        concerned = []
        for held in self._held.values():
            if held.group is group and held.running is not None:
                if held.running.state == DECODING:
                    self._advance(held, held.running.output_index(last_pass))
                concerned.append(held)
            elif held.lease is not None and held.lease.group is group:
                concerned.append(held)
        self.counts.groups_lost += 1
        if not self._away:
            self._outages.append(self.now)
        self._away.add(group_id)
        self._num_settled_gaps += group.passes.settle(last_pass)
        self._past.append(group.passes)
        self._dirty.pop(group_id, None)
        group.model = GroupModel(plan.config, plan.cost)
        self._at(self.now + self._draws.delay_s(), partial(self._see_stream_break, group, concerned))
        self._at(self.now + GRACE_S + self._draws.delay_s(), partial(self._tell_loss, group))
        self._at(self.now + self._disturbances.away_s, partial(self._come_back, group_id))

    def _see_stream_break(self, group: SimulatedGroup, concerned: Sequence[Held]) -> None:
        """Gateways learn that a worker is gone."""
        target = target_of(group)
        for held in concerned:
            if self._held.get(held.record.request_id) is not held:
                continue
            if held.lease is not None and held.lease.group is group:
                held.lease = None
                if held.running is not None:  # its KV was being pulled
                    attempt = held.running
                    self._abort_running(held)
                    lost = completion_of(attempt, CompletionReason.KV_LOST)
                    self._carry_out(held, held.machine.worker_completed(lost))
                    continue
            if held.group is group:
                held.group = held.running = None
            self._carry_out(held, held.machine.worker_lost(target, "its stream broke", crashed=True))

    def _tell_loss(self, group: SimulatedGroup) -> None:
        known = self.machine.fleet.groups.get(group.spec.group_id)
        if known is not None and known.spec.boot_id == group.spec.boot_id:
            super()._tell(WorkerLost(group_id=group.spec.group_id))

    def _come_back(self, group_id: str) -> None:
        plan = self._plans[group_id]
        self._num_boots += 1
        spec = replace(plan.spec, boot_id=f"again-{self._num_boots}")
        self.groups[group_id] = SimulatedGroup(replace(plan, spec=spec), itl_limit_s=self._recorder.slo.itl)
        self._away.discard(group_id)
        if not self._away:
            self._outages.append(self.now)
        self._tell(WorkerJoined(group=spec))
        self._report(group_id)
