"""The scheduler machine: the one mutating door of the sans-IO core.

Rules of this file:

1. Every change of state happens in `handle(event, now)`; nothing else mutates anything.
2. Time is an argument. The same events at the same times give the same commands; ties break by id.
3. Events about unknown requests, old attempts or departed groups change nothing.
4. Policies answer "what should be released now?"; only this file commits the answer.
5. Cancellation and deadline win over everything.

After each event the machine expires what is overdue, places decode-ready requests, and asks the policy for
batches until it has none. `next_wakeup()` says when to call again if no event comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import assert_never

from hortator.scheduler.core import decode
from hortator.scheduler.core.admission import OTHER_TOKENIZER, Admission
from hortator.scheduler.core.commands import Abort, Attach, Command, DeclareLost, Dispatch, Probe, Reject
from hortator.scheduler.core.demand import Demand
from hortator.scheduler.core.events import (
    AdmissionStopped,
    BatchSplit,
    Event,
    FirstToken,
    ForwardPassEnded,
    ForwardPassStarted,
    GatewayLost,
    KeyedRequestsEnded,
    KeyedRequestsListed,
    KvTransferFailed,
    LeaderChanged,
    PlacementRefused,
    PolicyChanged,
    PrefillFinished,
    RankStateReported,
    ReportsRefused,
    RequestArrived,
    RequestCancelled,
    RequestFinished,
    TimerFired,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import DispatchedShare, GroupState
from hortator.scheduler.core.invariants import check, check_keys
from hortator.scheduler.core.keys import Keys, Leftover, left_by
from hortator.scheduler.core.model import (
    AbortReason,
    Batch,
    LatencyClass,
    LostReason,
    Phase,
    Placement,
    RankLoads,
    RejectReason,
    SchedulerSettings,
)
from hortator.scheduler.core.policies.base import PlannedBatch
from hortator.scheduler.core.policies.immediate import least_delay, place_one
from hortator.scheduler.core.policies.registry import make_policy
from hortator.scheduler.core.request import RequestState, RequestStatus
from hortator.scheduler.core.saturation import predicted_ttft_s, saturations
from hortator.scheduler.core.snapshot import SchedulerSnapshot, snapshot_group
from hortator.scheduler.core.waiting import WaitingQueue
from hortator.scheduler.core.watchdog import Verdict, Watchdog

_UNPLACED = frozenset({RequestStatus.FENCED, RequestStatus.WAITING, RequestStatus.DECODE_WAITING})
MAX_LEFT = 4096
"""Groups that are lost and may come back, of which the last dispatch is remembered."""
_TAKEN_OVER = "the client came back at another gateway, where the request goes on"


class SchedulerMachine:
    """Events in, commands out. See the rules in the module docstring."""

    def __init__(self, settings: SchedulerSettings, *, epoch: int = 1) -> None:
        self.settings = settings
        self.epoch = epoch
        self.fleet = Fleet(settings)
        self.waiting = WaitingQueue(settings.tenant_weights(), resumed_share=settings.resumed_share)
        self.requests: dict[str, RequestState] = {}
        self.keys = Keys()
        self._by_gateway: dict[str, dict[str, None]] = {}
        self._settled_at: float | None = None
        self._unsettled: dict[str, RequestState] = {}  # by key: held in case a worker has something for them
        self._decode_ready: dict[str, RequestState] = {}
        self._decode_due_at: float | None = None
        self._critical: dict[str, RequestState] = {}
        self._expiries: list[tuple[float, int, str]] = []  # (due, seq, request)
        self._policy = make_policy(settings)
        self._watchdog = Watchdog(settings)
        self._watch_at: float | None = None  # no verdict can change before; too early is harmless
        self._left: dict[str, tuple[str, int]] = {}  # group: boot and last dispatch sequence when it was lost
        self._admission = Admission(self.fleet, self.waiting)
        self._num_arrived = 0
        self._num_batches = 0
        self._out: list[Command] = []
        self._now = 0.0

    # -- the door ---------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event at time `now` (seconds, any origin, never going back) and return what to do."""
        self._out = []
        self._now = now
        if self._settled_at is None:
            self._settled_at = now + self.settings.settle_s
        self._apply(event, now)
        self._expire(now)
        if self._unsettled and now >= self._settled_at:
            for key, request in list(self._unsettled.items()):
                if self.keys.is_fenced(request):
                    self._let_on(key)
            self._unsettled.clear()
        for orphan in self.keys.unheard(now):
            self._end_leftover(orphan)
        self.fleet.close_passes(now)
        if not isinstance(event, FirstToken):  # changes nothing that a release depends on
            self._release(now)
        if isinstance(event, TimerFired):
            self._check_watchdog(now)  # a batch may have gone to a group that was silent for too long
        return self._out

    def next_wakeup(self) -> float | None:
        """When `TimerFired` is due if no event comes first; None: never."""
        times = [
            self._expiries[0][0] if self._expiries else None,
            self._settled_at if self._unsettled else None,
            self.keys.next_check_at,
            self._decode_due_at if self._decode_ready else None,
            self._policy.wakeup(self.fleet, self.waiting, self._now),
            self._watch_at,
            self.fleet.next_closing_at if self.waiting else None,
        ]
        return min((at for at in times if at is not None), default=None)

    # -- events -----------------------------------------------------------------------------------------

    def _apply(self, event: Event, now: float) -> None:
        match event:
            case RequestArrived():
                self._arrive(event, now)
            case ForwardPassEnded():
                self._end_pass(event, now)
            case ForwardPassStarted():
                self._start_pass(event, now)
            case RequestFinished():
                self._finish(event)
            case PrefillFinished():
                self._finish_prefill(event, now)
            case FirstToken():
                self._end_prompt(event)
            case RankStateReported():
                group = self.fleet.groups.get(event.group_id)
                if group is not None:
                    group.continues = False
                    if group.running and not any(event.loads.batch_size):
                        # An idle engine runs no pass: word of the end of its last one is lost.
                        group.end_pass(now, leaves_over=False)
                    self._report(group, event.loads, event.included_dispatch_seq, now)
            case ReportsRefused():
                group = self.fleet.groups.get(event.group_id)
                if group is not None:
                    group.suspect = True  # until a report makes sense
                    self.fleet.refresh_ready(group, now)
            case TimerFired():
                self._check_watchdog(now)
            case RequestCancelled():
                self._cancel(event)
            case PlacementRefused():
                self._refuse_placement(event, now)
            case BatchSplit():
                for request_id in event.request_ids:
                    request = self.requests.get(request_id)
                    if request is not None and request.batch_id == event.batch_id:  # not placed again since
                        self._abort(request, event.group_id, AbortReason.BATCH_SPLIT)
            case KvTransferFailed():
                request = self._current(event.request_id, event.attempt)
                if request is not None:
                    self._forget(request)
            case GatewayLost():
                for request_id in list(self._by_gateway.get(event.gateway_id, ())):
                    request = self.requests[request_id]
                    if not self._orphan(request):
                        self._abort(request, request.group_id, AbortReason.GATEWAY_LOST)
            case KeyedRequestsEnded():
                self._end_keyed(event)
            case KeyedRequestsListed():
                self._list_keyed(event, now)
            case WorkerJoined():
                self._join(event, now)
            case WorkerDraining():
                group = self.fleet.groups.get(event.group_id)
                if group is not None:
                    group.draining = True
                    self.fleet.refresh_ready(group, now)
            case WorkerLost():
                self._lose(event.group_id)
            case LeaderChanged():
                self._lead(event, now)
            case PolicyChanged():
                settings = replace(self.settings, policy=event.policy)
                self._policy = make_policy(settings)
                self.settings = settings
            case AdmissionStopped():
                self._admission.is_open = False
            case _:
                assert_never(event)

    def _arrive(self, event: RequestArrived, now: float) -> None:
        known = self.requests.get(event.request_id)
        if known is not None:
            if event.attempt <= known.attempt:
                return  # announced again after a reconnect: nothing new
            self._supersede(known)
        prompt = event.num_prompt_tokens
        cost_tokens = prompt * (1.0 + self.settings.attention_pair_cost * prompt)
        self.fleet.observe_asked(event.tenant, prompt, now)
        self.fleet.demand.observe_asked(prompt, cost_tokens, now)
        refusal = self._claim(event) if event.key else None
        if refusal is None and event.key not in self.keys.leftovers:
            refusal = self._admission.refusal(event, now)
        if refusal is not None:
            reason, message = refusal
            self._out.append(
                Reject(
                    request_id=event.request_id,
                    attempt=event.attempt,
                    gateway_id=event.gateway_id,
                    reason=reason,
                    retry_after_s=self._admission.retry_after_s(event, now),
                    message=message,
                )
            )
            return
        self._num_arrived += 1
        request = RequestState(
            request_id=event.request_id,
            attempt=event.attempt,
            gateway_id=event.gateway_id,
            num_prompt_tokens=prompt,
            max_output_tokens=event.max_output_tokens,
            cost_tokens=cost_tokens,
            now=now,
            seq=self._num_arrived,
            block_hashes=event.block_hashes,
            priority=event.priority,
            tenant=event.tenant,
            critical=event.latency_class is LatencyClass.CRITICAL,
            deadline_at=event.deadline_at,
            key=event.key,
            fingerprint=event.fingerprint,
            asked_at=event.asked_at,
            tokenizer=event.tokenizer,
            is_resumed=event.attempt > 0 or event.is_resumed,
        )
        self._remember(request)
        if self._settle(request, now):
            return
        if event.is_resumed and self._settled_at is not None and now < self._settled_at:
            self._unsettled[request.key] = request
            self.keys.fence(request)
            request.status = RequestStatus.FENCED
            self._watch_wait(request)
            return
        self.fleet.observe_accepted(prompt, now)
        self._wait(request)

    def _end_pass(self, event: ForwardPassEnded, now: float) -> None:
        group = self.fleet.groups.get(event.group_id)
        if group is None:
            return
        group.end_pass(now, leaves_over=any(event.loads.batch_size))
        group.progress_at = now
        group.forward_pass_id = event.forward_pass_id
        if event.pass_prefill_tokens:
            group.learn_pass(event.pass_prefill_tokens, event.duration_s)
            if (
                group.spec.phase is Phase.AGGREGATED
                and group.estimator.num_passes > self.settings.warmup_passes
            ):
                group.mixed_passes.observe(sum(event.pass_prefill_tokens), event.duration_s)
        self._report(group, event.loads, event.included_dispatch_seq, now)

    def _start_pass(self, event: ForwardPassStarted, now: float) -> None:
        group = self.fleet.groups.get(event.group_id)
        if group is None:
            return
        group.forward_pass_id = event.forward_pass_id
        group.last_heard_at = group.progress_at = now
        if event.loads is not None:
            self._report(group, event.loads, event.included_dispatch_seq, now)
            if not group.spec.admission_lead_passes:
                group.learn_boundary(now)
        group.start_pass(now, event.predicted_s)
        self.fleet.watch_end(group)
        self.fleet.refresh_ready(group, now)

    def _report(self, group: GroupState, loads: RankLoads, included_seq: int, now: float) -> None:
        group.last_heard_at = now
        group.suspect = False
        group.probed_at = None
        group.apply_report(loads, included_seq)
        if self._decode_ready and self._decode_due_at is None and group.spec.phase is Phase.DECODE:
            self._decode_due_at = now
        self.fleet.refresh_ready(group, now)

    def _finish_prefill(self, event: PrefillFinished, now: float) -> None:
        request = self._current(event.request_id, event.attempt)
        if request is None:
            known = self.requests.get(event.request_id)
            if not event.num_prompt_tokens or (known is not None and event.attempt <= known.attempt):
                return
            if known is not None:
                self._supersede(known)  # its gateway placed the next attempt by itself
            if event.key in self.keys.holders:
                self._out.append(
                    Reject(
                        request_id=event.request_id,
                        attempt=event.attempt,
                        gateway_id=event.gateway_id,
                        reason=RejectReason.TAKEN_OVER,
                        message=_TAKEN_OVER,
                    )
                )
                return
            for leftover in self.keys.left_under(event.key):
                self._end_leftover(replace(leftover, came_late=True))
            # Placed by an earlier leader: the event says enough to go on.
            self._num_arrived += 1
            request = RequestState(
                request_id=event.request_id,
                attempt=event.attempt,
                gateway_id=event.gateway_id,
                num_prompt_tokens=event.num_prompt_tokens,
                max_output_tokens=event.max_output_tokens,
                cost_tokens=float(event.num_prompt_tokens),
                now=now,
                seq=self._num_arrived,
                key=event.key,
                fingerprint=event.fingerprint,
                tokenizer=event.tokenizer,
            )
            self._remember(request)
        elif request.status is not RequestStatus.PLACED:
            return
        self._note_progress(request)
        self._leave_group(request)
        request.waiting_since = now
        self._wait_for_decode(request)
        if request.critical:
            self._decode_due_at = now  # holds nothing, and lets those go that a window holds
        elif self._decode_due_at is None:
            window_s = self.settings.decode_window_s if self._policy.gathers_decode else 0.0
            self._decode_due_at = now + window_s

    def _finish(self, event: RequestFinished) -> None:
        request = self._current(event.request_id, event.attempt)
        if request is None:
            for leftover in self.keys.left_by(event.request_id, event.attempt):
                self._drop_leftover(leftover)
            return
        if event.num_output_tokens > 0:
            self.fleet.output_tokens.observe(event.num_output_tokens)
        self._note_progress(request)
        self._forget(request)

    def _cancel(self, event: RequestCancelled) -> None:
        request = self._current(event.request_id, event.attempt)
        if request is not None:
            self._abort(request, request.group_id, AbortReason.CANCELLED)
            return
        for leftover in self.keys.left_by(event.request_id, event.attempt):
            self._end_leftover(leftover)

    def _refuse_placement(self, event: PlacementRefused, now: float) -> None:
        request = self._current(event.request_id, event.attempt)
        if request is None or (event.group_id and request.group_id != event.group_id):
            return
        self._note_progress(request)
        if request.is_attached:
            self._fence_off(request)
        elif request.status is RequestStatus.PLACED:
            self._leave_group(request)
            request.group_id = request.prefill_group_id = ""
            request.status = RequestStatus.WAITING
            self._wait(request, front=True)
        elif request.status is RequestStatus.DECODING:
            self._leave_group(request)
            request.group_id = request.prefill_group_id
            self._wait_for_decode(request)
            self._decode_due_at = now

    def _join(self, event: WorkerJoined, now: float) -> None:
        old = self.fleet.groups.get(event.group.group_id)
        if old is not None and old.spec.boot_id == event.group.boot_id:
            old.last_heard_at = now  # the stream came back: what we know still holds
            old.end_pass(now, leaves_over=False)
            old.prefixes = old.new_prefixes()  # the hello that follows tells all blocks again
            self.fleet.refresh_ready(old, now)
            return
        if old is not None:
            self._lose(event.group.group_id)
        group = GroupState(
            event.group,
            now=now,
            warmup_passes=self.settings.warmup_passes,
            attention_pair_cost=self.settings.attention_pair_cost,
        )
        boot_id, last_seq = self._left.pop(event.group.group_id, ("", 0))
        if boot_id == event.group.boot_id:
            group.last_seq = last_seq  # back after a cut: its reports still name the old sequences
        self.fleet.add(group)

    def _lose(self, group_id: str) -> None:
        group = self.fleet.groups.get(group_id)
        if group is None:
            return
        for request in list(group.in_flight.values()):
            self._abort(request, group_id, AbortReason.WORKER_LOST)
        # KV that waited for a decode placement is gone too.
        for request in list(self._decode_ready.values()):
            if request.group_id == group_id:
                self._abort(request, group_id, AbortReason.WORKER_LOST)
        for request in self.requests.values():
            if request.reservation is not None and request.reservation[0] == group_id:
                request.reservation = None
        self._left[group_id] = (group.spec.boot_id, group.last_seq)
        if len(self._left) > MAX_LEFT:
            del self._left[next(iter(self._left))]
        self.fleet.remove(group_id)
        for leftover in self.keys.left_on(group_id):
            self._drop_leftover(leftover)

    def _lead(self, event: LeaderChanged, now: float) -> None:
        self.epoch = event.epoch
        self._left.clear()
        for request in list(self.requests.values()):
            self._forget(request)
        self.fleet.demand = Demand(now)  # what was asked of another leader is not known here
        self._settled_at = now + self.settings.settle_s  # workers tell again what runs under which key
        for group in self.fleet.groups.values():
            group.forget_dispatches()
            self.fleet.refresh_ready(group, now)

    # -- requests ---------------------------------------------------------------------------------------

    def _current(self, request_id: str, attempt: int) -> RequestState | None:
        request = self.requests.get(request_id)
        return request if request is not None and request.attempt == attempt else None

    def _remember(self, request: RequestState) -> None:
        self.requests[request.request_id] = request
        if request.key:
            self.keys.hold(request)
        self._by_gateway.setdefault(request.gateway_id, {})[request.request_id] = None

    def _wait(self, request: RequestState, *, front: bool = False) -> None:
        (self.waiting.put_back if front else self.waiting.add)(request)
        if request.critical:
            self._critical[request.request_id] = request
        self._watch_wait(request)

    def _wait_for_decode(self, request: RequestState) -> None:
        request.status = RequestStatus.DECODE_WAITING
        self._decode_ready[request.request_id] = request
        self._watch_wait(request)

    def _watch_wait(self, request: RequestState) -> None:
        due = request.waiting_since + self.settings.queue_timeout_s
        if request.deadline_at is not None:
            due = min(due, request.deadline_at)
        heappush(self._expiries, (due, request.seq, request.request_id))

    def _end_prompt(self, event: FirstToken) -> None:
        request = self.requests.get(event.request_id)
        group = None if request is None else self.fleet.groups.get(request.group_id)
        if group is not None:  # load comes from the worker's reports
            group.occupants.leave(event.request_id)

    def _note_progress(self, request: RequestState) -> None:
        """Its group is done with a request, or does not take it: so says its gateway."""
        group = self.fleet.groups.get(request.group_id)
        if group is not None:
            group.progress_at = self._now

    def _leave_group(self, request: RequestState) -> None:
        group = self.fleet.groups.get(request.group_id)
        if group is not None:
            group.in_flight.pop(request.request_id, None)
            group.occupants.leave(request.request_id)

    def _forget(self, request: RequestState) -> None:
        """Take a request out of every collection."""
        if request.status is RequestStatus.WAITING:
            self.waiting.remove(request)
            self._critical.pop(request.request_id, None)
        elif request.status is RequestStatus.DECODE_WAITING:
            self._drop_decode_ready(request)
        self._leave_group(request)
        self.fleet.drop_reservation(request)
        del self.requests[request.request_id]
        if request.key:
            self.keys.let_go(request)
        held = self._by_gateway[request.gateway_id]
        del held[request.request_id]
        if not held:
            del self._by_gateway[request.gateway_id]

    def _drop_decode_ready(self, request: RequestState) -> None:
        self._decode_ready.pop(request.request_id, None)
        if not self._decode_ready:
            self._decode_due_at = None

    def _abort(self, request: RequestState | None, group_id: str, reason: AbortReason) -> None:
        if request is None or request.group_id != group_id:
            return
        placed = request.status not in {RequestStatus.WAITING, RequestStatus.FENCED}
        group = self.fleet.groups.get(group_id)
        self._forget(request)
        if group is not None:
            group.disturb_pass()
        if placed:
            key = "" if reason is AbortReason.WORKER_LOST or group is None else request.key
            if key:
                self.keys.leave(left_by(request, is_ending=True))
            self._out.append(
                Abort(
                    request_id=request.request_id,
                    attempt=request.attempt,
                    gateway_id=request.gateway_id,
                    group_id=group_id,
                    reason=reason,
                    key=key,
                    dispatch_seq=group.last_seq if key and group is not None else 0,
                )
            )

    def _expire(self, now: float) -> None:
        expiries = self._expiries
        while expiries and expiries[0][0] <= now:
            due, seq, request_id = heappop(expiries)
            request = self.requests.get(request_id)
            if request is None or request.seq != seq:
                continue
            if request.deadline_at is not None and request.deadline_at <= now:
                self._expire_deadline(request)
            elif request.status in _UNPLACED:
                timeout_at = request.waiting_since + self.settings.queue_timeout_s
                if timeout_at <= now:
                    self._expire_in_queue(request)
                elif timeout_at > due:
                    heappush(expiries, (timeout_at, seq, request_id))
            elif request.deadline_at is not None:
                heappush(expiries, (request.deadline_at, seq, request_id))
        if len(expiries) > 64 and len(expiries) > 4 * len(self.requests):
            self._rebuild_expiries()

    def _rebuild_expiries(self) -> None:
        """Drop the entries of requests that have ended, so that the heap stays as large as the live set."""
        entries = []
        for due, seq, request_id in self._expiries:
            request = self.requests.get(request_id)
            if request is not None and request.seq == seq:
                entries.append((due, seq, request_id))
        entries.sort()
        self._expiries = entries

    def _expire_deadline(self, request: RequestState) -> None:
        if request.status in {RequestStatus.WAITING, RequestStatus.FENCED}:
            self._reject(request, RejectReason.DEADLINE, "the deadline passed while the request waited")
        else:
            self._abort(request, request.group_id, AbortReason.DEADLINE)

    def _expire_in_queue(self, request: RequestState) -> None:
        waited = f"waited {self.settings.queue_timeout_s:g} s"
        if request.status is RequestStatus.DECODE_WAITING:
            groups, kind = [group for group in self.fleet.decode.values() if group.placeable], "decode worker"
        else:
            groups, kind = list(self.fleet.placeable_entry()), "worker"
        if not groups:
            self._reject(request, RejectReason.NO_WORKER, f"no {kind} is available; {waited}")
        elif not any(group.reads(request.tokenizer) for group in groups):
            self._reject(request, RejectReason.NO_WORKER, f"{OTHER_TOKENIZER}; {waited}")
        else:
            self._reject(request, RejectReason.QUEUE_TIMEOUT, f"{waited} in the queue for a {kind}")

    def _reject(self, request: RequestState, reason: RejectReason, message: str) -> None:
        self._forget(request)
        self._out.append(
            Reject(
                request_id=request.request_id,
                attempt=request.attempt,
                gateway_id=request.gateway_id,
                reason=reason,
                retry_after_s=self._admission.retry_after_s(),
                message=message,
            )
        )

    # -- idempotency keys: see `keys` -------------------------------------------------------------------

    def _claim(self, event: RequestArrived) -> tuple[RejectReason, str] | None:
        """Take the key from an older holder; why not, if it stays with that one."""
        key = event.key
        holder = self.keys.holders.get(key)
        known = [holder] if holder is not None else self.keys.left_under(key)
        if any(one.fingerprint != event.fingerprint for one in known):
            return RejectReason.KEY_REUSED, "the idempotency key was used with another request"
        if holder is None:
            return None
        asked_at, holder_asked_at = event.asked_at, holder.asked_at
        is_older = asked_at is not None and holder_asked_at is not None and asked_at < holder_asked_at
        if event.attempt or is_older:
            return RejectReason.TAKEN_OVER, _TAKEN_OVER
        if holder.status in {RequestStatus.WAITING, RequestStatus.FENCED}:
            self._reject(holder, RejectReason.TAKEN_OVER, _TAKEN_OVER)
        elif not self._orphan(holder):
            self._abort(holder, holder.group_id, AbortReason.TAKEN_OVER)
        return None

    def _settle(self, request: RequestState, now: float) -> bool:
        """Deal with what runs under a newcomer's key; True: it attaches to that, or is held."""
        orphan: Leftover | None = None
        for leftover in self.keys.left_under(request.key):
            group = self.fleet.groups[leftover.group_id]
            may_attach = group.spec.phase is not Phase.PREFILL and group.reads(request.tokenizer)
            if may_attach and not request.attempt and not leftover.is_ending:
                orphan = leftover
                continue
            self._end_leftover(leftover)
            if leftover.request_id != request.request_id:
                self.keys.fence(request)
        if self.keys.is_fenced(request):
            if request.status is not RequestStatus.FENCED:
                request.status = RequestStatus.FENCED
                self._watch_wait(request)
        elif orphan is not None:
            self._attach(request, orphan, now)
        else:
            return False
        return True

    def _orphan(self, request: RequestState) -> bool:
        """A placed request loses its gateway: its worker may go on, for another. False: it may not."""
        group = self.fleet.groups.get(request.group_id)
        runs = request.status in {RequestStatus.PLACED, RequestStatus.DECODING}
        if not request.key or not runs or group is None or group.spec.phase is Phase.PREFILL:
            return False
        self._forget(request)
        self.keys.leave_orphan(left_by(request), self._now)
        return True

    def _supersede(self, request: RequestState) -> None:
        """A newer attempt is announced: end the older one, if its worker might think that it still counts."""
        placed = request.status not in {RequestStatus.WAITING, RequestStatus.FENCED}
        self._forget(request)
        if placed and request.key and request.group_id in self.fleet.groups:
            leftover = left_by(request)
            self.keys.leave(leftover)
            self._end_leftover(leftover)

    def _attach(self, request: RequestState, leftover: Leftover, now: float) -> None:
        self.keys.drop(leftover)
        group = self.fleet.groups[leftover.group_id]
        is_decode = group.spec.phase is Phase.DECODE
        request.status = RequestStatus.DECODING if is_decode else RequestStatus.PLACED
        request.group_id = leftover.group_id
        request.is_attached = True
        was_quiescent = group.is_quiescent
        self._watch_group(group, now, was_quiescent=was_quiescent)
        group.in_flight[request.request_id] = request
        self._watch_wait(request)
        self._out.append(
            Attach(
                request_id=request.request_id,
                attempt=request.attempt,
                gateway_id=request.gateway_id,
                group_id=leftover.group_id,
                phase=group.spec.phase,
            )
        )

    def _fence_off(self, request: RequestState) -> None:
        """It could not attach: make sure that nothing runs under its key before it is placed."""
        self._leave_group(request)
        leftover = left_by(request)
        request.group_id = ""
        request.is_attached = False
        self.keys.leave(leftover)
        self._end_leftover(leftover)
        self.keys.fence(request)
        request.status = RequestStatus.FENCED
        self._watch_wait(request)

    def _end_leftover(self, leftover: Leftover) -> None:
        if not leftover.is_ending:
            self.keys.leave(replace(leftover, is_ending=True))
            self._tell_to_end(leftover)

    def _tell_to_end(self, leftover: Leftover) -> None:
        self._out.append(
            Abort(
                request_id=leftover.request_id,
                attempt=leftover.attempt,
                gateway_id="",
                group_id=leftover.group_id,
                reason=AbortReason.SUPERSEDED,
                key=leftover.key,
                dispatch_seq=self.fleet.groups[leftover.group_id].last_seq,
            )
        )

    def _drop_leftover(self, leftover: Leftover) -> None:
        self.keys.drop(leftover)
        self._let_on(leftover.key)

    def _let_on(self, key: str) -> None:
        """Look again at the request that is held for a key, if there is one."""
        request = self.keys.unfence(key)
        if request is not None and not self._settle(request, self._now):
            request.status = RequestStatus.WAITING
            self._wait(request, front=True)

    def _end_keyed(self, event: KeyedRequestsEnded) -> None:
        for ended in event.requests:
            leftover = self.keys.leftovers.get(ended.key, {}).get(event.group_id)
            if leftover is not None:
                self._drop_leftover(leftover)
                continue
            request = self._current(ended.request_id, ended.attempt)
            if request is not None and request.key == ended.key and request.group_id == event.group_id:
                self._forget(request)  # an orphan whose gateway we do not miss yet

    def _list_keyed(self, event: KeyedRequestsListed, now: float) -> None:
        group = self.fleet.groups.get(event.group_id)
        if group is None:
            return
        listed = {keyed.key for keyed in event.requests}
        for leftover in self.keys.left_on(event.group_id):
            if leftover.key not in listed:
                self._drop_leftover(leftover)
        for keyed in event.requests:
            holder = self.keys.holders.get(keyed.key)
            known = self.keys.leftovers.get(keyed.key, {}).get(event.group_id)
            if known is not None and known.is_ending:
                self._tell_to_end(known)  # what was told before the stream broke may not have arrived
            if known is not None or (holder is not None and holder.group_id == event.group_id):
                continue
            leftover = Leftover(
                key=keyed.key,
                fingerprint=keyed.fingerprint,
                group_id=event.group_id,
                request_id=keyed.request_id,
                attempt=keyed.attempt,
            )
            self.keys.leave(leftover)
            if holder is None:
                self._keep_one(keyed.key)
                continue
            if holder.status is RequestStatus.FENCED:
                self._let_on(keyed.key)
            elif holder.status is RequestStatus.WAITING:
                self.waiting.remove(holder)
                self._critical.pop(holder.request_id, None)
                if not self._settle(holder, now):
                    self._wait(holder, front=True)
            else:
                self._end_leftover(replace(leftover, came_late=True))

    def _keep_one(self, key: str) -> None:
        """Of what several groups have under a key nobody holds, one may go on: that of most attempts."""
        running = [leftover for leftover in self.keys.left_under(key) if not leftover.is_ending]
        running.sort(key=lambda leftover: (leftover.attempt, leftover.request_id))
        for leftover in running[:-1]:
            self._end_leftover(leftover)

    # -- releases ---------------------------------------------------------------------------------------

    def _release(self, now: float) -> None:
        if self._decode_ready and self._decode_due_at is not None and self._decode_due_at <= now:
            self._release_decode()
        if not self.waiting:
            return
        for request in list(self._critical.values()):
            planned = place_one(self.fleet, request, now, least_delay)
            if planned is not None:
                self._dispatch_planned(planned)
        while True:
            planned = self._policy.plan(self.fleet, self.waiting, now)
            if planned is None:
                return
            self._dispatch_planned(planned)

    def _dispatch_planned(self, planned: PlannedBatch) -> None:
        group = planned.group
        shares: list[DispatchedShare] = []
        members: list[tuple[RequestState, int, int]] = []
        for request, rank, tokens, blocks in planned.seats:
            self.waiting.take(request)
            if request.critical:
                self._critical.pop(request.request_id, None)
            shares.append((rank, tokens, blocks))
            members.append((request, rank, tokens))
        for request in planned.passed_over:
            request.carried += 1
        self._dispatch(
            group,
            members,
            group.spec.phase,
            tuple(shares),
            status=RequestStatus.PLACED,
            predicted_s=planned.predicted_pass_s,
        )

    def _release_decode(self) -> None:
        seats = decode.place_round(self.settings.policy, self.fleet, self._decode_ready.values())
        by_group: dict[str, list[tuple[RequestState, int, int]]] = {}
        for request, group, rank, blocks in seats:
            del self._decode_ready[request.request_id]
            by_group.setdefault(group.spec.group_id, []).append((request, rank, blocks))
        for group_id, members in by_group.items():
            group = self.fleet.decode[group_id]
            shares = tuple((rank, 0, blocks) for _, rank, blocks in members)
            seated = [(request, rank, 0) for request, rank, _ in members]
            self._dispatch(
                group,
                seated,
                Phase.DECODE,
                shares,
                status=RequestStatus.DECODING,
                predicted_s=group.estimator.smoothed_s,
            )
        self._decode_due_at = None  # those without a seat are tried again when a decode group reports

    def _dispatch(
        self,
        group: GroupState,
        members: Sequence[tuple[RequestState, int, int]],
        phase: Phase,
        shares: tuple[DispatchedShare, ...],
        *,
        status: RequestStatus,
        predicted_s: float,
    ) -> None:
        now = self._now
        was_quiescent = group.is_quiescent
        seq = group.record_dispatch(shares, now)
        self._watch_group(group, now, was_quiescent=was_quiescent)
        group_id = group.spec.group_id
        self._num_batches += 1
        batch_id = f"{self.epoch}-{self._num_batches}"
        placements: list[Placement] = []
        for request, rank, tokens in members:
            request.status = status
            request.group_id = group_id
            request.batch_id = batch_id
            if phase is not Phase.DECODE:
                request.prefill_group_id = group_id
                self.fleet.demand.observe_placed(request.num_prompt_tokens, tokens, now)
            group.in_flight[request.request_id] = request
            group.occupants.seat(rank, request.request_id, request.num_prompt_tokens, tokens)
            placements.append(
                Placement(
                    request_id=request.request_id,
                    attempt=request.attempt,
                    gateway_id=request.gateway_id,
                    dp_rank=rank,
                    num_prefill_tokens=tokens,
                    hold_s=now - request.waiting_since,
                )
            )
        self.fleet.refresh_ready(group, now)
        self._out.append(
            Dispatch(
                batch=Batch(
                    batch_id=batch_id,
                    group_id=group_id,
                    phase=phase,
                    dispatch_seq=seq,
                    predicted_pass_s=predicted_s,
                    placements=tuple(placements),
                )
            )
        )

    def _watch_group(self, group: GroupState, now: float, *, was_quiescent: bool) -> None:
        if was_quiescent:
            group.last_heard_at = max(group.last_heard_at, now)  # the watchdog counts from here
        if not group.in_flight:
            group.progress_at = now
        due_at = group.last_heard_at + self._watchdog.patience_s(group)  # no later than the one for a stall
        if self._watch_at is None or due_at < self._watch_at:
            self._watch_at = due_at

    # -- silence ----------------------------------------------------------------------------------------

    def _check_watchdog(self, now: float) -> None:
        if self._watch_at is None or now < self._watch_at:
            return
        for group in list(self.fleet.groups.values()):
            verdict = self._watchdog.judge(group, now)
            if verdict is Verdict.PROBE:
                group.suspect = True
                group.probed_at = now
                self.fleet.refresh_ready(group, now)
                self._out.append(Probe(group_id=group.spec.group_id))
            elif verdict is not None:
                group_id, boot_id = group.spec.group_id, group.spec.boot_id
                reason = LostReason.STALLED if verdict is Verdict.STALLED else LostReason.SILENT
                self._lose(group_id)
                self._out.append(DeclareLost(group_id=group_id, boot_id=boot_id, reason=reason))
        self._watch_at = self._watchdog.next_check_at(self.fleet)

    # -- outside views ----------------------------------------------------------------------------------

    def snapshot(self, now: float) -> SchedulerSnapshot:
        """The machine as plain values."""
        return SchedulerSnapshot(
            epoch=self.epoch,
            policy=self.settings.policy,
            num_waiting=len(self.waiting),
            waiting_tokens=self.waiting.num_tokens,
            num_waiting_decode=len(self._decode_ready),
            oldest_wait_s=self.waiting.oldest_wait_s(now),
            num_in_flight=len(self.requests) - len(self.waiting) - len(self._decode_ready),
            waiting_by_tenant=self.waiting.loads_of(tenant.name for tenant in self.settings.tenants),
            saturation=saturations(self.fleet, self.waiting, now) if self.epoch else {},
            predicted_ttft_s=predicted_ttft_s(self.fleet, self.waiting, now) if self.epoch else None,
            groups=tuple(snapshot_group(group, now) for group in self.fleet.groups.values()),
        )

    def check_invariants(self) -> None:
        """AssertionError when any of the machine's promises is broken; see `invariants`."""
        check(self.fleet, self.waiting, self.requests, self._decode_ready, self._by_gateway)
        check_keys(self.keys, self.requests, self.fleet, self._unsettled)
