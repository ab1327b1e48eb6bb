"""Staggered batch scheduling after the paper (PBAA): hold, then release one batch to the group that is ready.

Question answered: which waiting requests join the forward pass that this group is about to form, and on
which rank does each do least harm?

When: a ready group is given work at once; groups become ready one after another, so the rhythm T/N emerges
by itself. Only while the waiting work is under `min_fill` of a full pass, and the oldest hold is under
`max_hold`, may a release be held until I = (T_hat + L_hat) / N after the last one. With a fixed
`interval_s` the window always applies, and ends early when the batch is full. Aggregated groups hold by
another rule, see `joint_admission`.

Where: carried-over requests first (oldest first when they have been passed over `max_carry` times), then
new ones; within each, longest first; each to the rank with the greatest A_d (water-filling). A tenant that
floods rides along under the level of the others, see `hearing`. How many resumed requests are seated while
newcomers wait: see `resumed`.

Knobs: min_fill, max_hold_s, max_carry, interval_s, first_token_weight, resumed_share. Bad when: prompts are
much longer than the chunk budget (they occupy ranks for several passes whoever places them).
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import Phase, SchedulerSettings
from hortator.scheduler.core.policies.base import PlannedBatch
from hortator.scheduler.core.policies.hearing import hear
from hortator.scheduler.core.policies.joint_admission import joint_admission_at
from hortator.scheduler.core.policies.seating import Seating
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.resumed import ResumedBound
from hortator.scheduler.core.waiting import WaitingQueue

LOOKAHEAD = 1.25
"""How far beyond a group's room requests are considered, so that short ones fill what long ones leave."""


class Staggered:
    """The paper's policy."""

    name = "staggered"
    gathers_decode = True

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._last_release_at = float("-inf")

    def plan(self, fleet: Fleet, waiting: WaitingQueue, now: float) -> PlannedBatch | None:
        """A batch for the group that has been ready longest and has room."""
        if not waiting or not fleet.ready:
            return None
        for group in fleet.ready.values():
            if now < self._gate(fleet, waiting, group, now):
                continue
            batch = self._fill(fleet, group, waiting, now)
            if batch is not None:
                self._last_release_at = now
                return batch
        return None

    def wakeup(self, fleet: Fleet, waiting: WaitingQueue, now: float) -> float | None:
        """The end of the earliest hold."""
        if not waiting or not fleet.ready:
            return None
        gates = [self._gate(fleet, waiting, group, now) for group in fleet.ready.values()]
        upcoming = [gate for gate in gates if gate > now]
        return min(upcoming, default=None)

    def _gate(self, fleet: Fleet, waiting: WaitingQueue, group: GroupState, now: float) -> float:
        """Time from which `group` may be given work."""
        fill = waiting.num_tokens / group.full_pass_tokens
        if self._settings.interval_s is not None:
            if fill >= 1.0:
                return now
            gate = self._last_release_at + self._settings.interval_s
        else:
            if fill >= self._settings.min_fill:
                return now
            if group.spec.phase is Phase.AGGREGATED:
                return joint_admission_at(self._settings, group, waiting, now)
            gate = self._last_release_at + self.interval_s(fleet)
        if gate <= now:
            return now
        oldest_at = now - waiting.oldest_wait_s(now)
        return min(gate, oldest_at + self._settings.max_hold_s)

    def interval_s(self, fleet: Fleet) -> float:
        """I = (T_hat + L_hat) / N_active."""
        active = [group for group in fleet.entry.values() if group.placeable]
        if not active:
            return 0.0
        smoothed = sum(group.estimator.smoothed_s for group in active) / len(active)
        return (smoothed + self._settings.dispatch_latency_s) / len(active)

    def _fill(
        self,
        fleet: Fleet,
        group: GroupState,
        waiting: WaitingQueue,
        now: float,
    ) -> PlannedBatch | None:
        for bound in bounds(self._settings, waiting, group, now):
            seating = Seating(fleet, group, bound)
            if not seating.has_room():
                return None
            considered = consider(waiting, int(seating.total_free_tokens * LOOKAHEAD), group, bound)
            batch = self._choose_all(fleet, seating, waiting, considered, now)
            if batch is not None:
                return batch
        return None

    def _choose_all(
        self,
        fleet: Fleet,
        seating: Seating,
        waiting: WaitingQueue,
        considered: list[RequestState],
        now: float,
    ) -> PlannedBatch | None:
        hearing = hear(fleet, waiting, considered, seating.total_free_tokens, now)
        passed_over = self._seat_all(seating, hearing.heard(hearing.considered))
        if hearing.unheard:
            rest = [r for r in hearing.considered if r.tenant in hearing.unheard]
            if seating.seats:
                level = int(seating.fullest_level)
                seating.lower_limit(level)
                rest = [r for r in rest if r.num_prompt_tokens <= level]
            passed_over += self._seat_all(seating, rest)
        if not seating.seats:
            return None
        return finish(seating, passed_over)

    def _seat_all(self, seating: Seating, requests: list[RequestState]) -> list[RequestState]:
        """Seat in the order above; those that found no seat."""
        max_carry = self._settings.max_carry
        mandatory = [r for r in requests if r.carried >= max_carry]
        carried = [r for r in requests if 0 < r.carried < max_carry]
        new = [r for r in requests if r.carried == 0]
        carried.sort(key=_longest_first)
        new.sort(key=_longest_first)
        passed_over = [r for r in mandatory if not seating.seat(r, must=True)]
        passed_over += [r for r in carried if not seating.seat(r)]
        passed_over += [r for r in new if not seating.seat(r)]
        return passed_over


def bounds(
    settings: SchedulerSettings, waiting: WaitingQueue, group: GroupState, now: float
) -> Iterator[ResumedBound | None]:
    """By what the resumed requests of a pass are bound; if nobody fits then, by what else."""
    if not 0 < waiting.num_resumed < len(waiting):
        yield None
        return
    for by_arrival in (False, True):
        yield ResumedBound(
            waiting,
            share=settings.resumed_share,
            num_tokens=sum(free for free in group.free_tokens() if free > 0),
            num_slots=sum(free for free in group.free_slots() if free > 0),
            budget=group.spec.chunk_budget_tokens,
            overdue_before=now - settings.queue_timeout_s / 2,
            by_arrival=by_arrival,
        )


def consider(
    waiting: WaitingQueue, num_tokens: int, group: GroupState, bound: ResumedBound | None = None
) -> list[RequestState]:
    """The oldest waiting requests whose prompts the group reads, up to so many tokens and its batch slots.

    A prompt of several passes counts as one chunk budget: that is all it takes of the next pass.
    """
    considered: list[RequestState] = []
    budget = group.spec.chunk_budget_tokens
    slots = sum(free for free in group.free_slots() if free > 0)
    for request in waiting.in_turn(bound):
        if num_tokens <= 0 or slots <= 0:
            break
        if request.tokenizer and not group.reads(request.tokenizer):
            continue
        considered.append(request)
        num_tokens -= min(request.num_prompt_tokens, budget)
        slots -= 1
    return considered


def finish(seating: Seating, passed_over: list[RequestState]) -> PlannedBatch:
    """The planned batch of what was seated."""
    group = seating.group
    predicted = group.estimator.predict_s(seating.fullest_level)
    if group.spec.phase is Phase.AGGREGATED:
        predicted = max(predicted, group.estimator.smoothed_s)
    return PlannedBatch(group=group, seats=seating.seats, predicted_pass_s=predicted, passed_over=passed_over)


def _longest_first(request: RequestState) -> tuple[int, int]:
    return -request.num_prompt_tokens, request.seq
