"""Ours: at each pass boundary, choose how long the pass may be, not only who is in it.

Question answered: is it better to run a short pass of short prompts now, or a full one?

Water-filling to the full budget makes every prompt wait for the longest one. Here, at each release:

(a) requests older than `age_first_s` go first, oldest first, placed longest-first up to the budget;
(b) for each level L among at most `num_levels` quantiles of the waiting lengths (not below the fullest rank
    so far) and the full budget, requests of length <= L are taken longest-first under L;
(c) the L is chosen that maximises

        [sum of (1 + (age/tau)^2) / passes  +  beta * Q * tokens / mean_length] / T_pred

    where Q is the backlog in seconds (waiting tokens / cluster token rate). Short passes win while there is
    no backlog; near saturation the backlog term hands over to full packing; the age set bounds waiting.

Levels are judged from prefix sums over the sorted lengths (what fits is what the level's capacity holds),
and only the winner is packed for real: O(B log B) per release, whatever the number of levels.

Knobs: age_first_s (A), age_tau_s (tau), backlog_weight (beta), num_levels. Rough: prompts of many passes,
and decode is not looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import Phase
from hortator.scheduler.core.policies.base import PlannedBatch
from hortator.scheduler.core.policies.seating import Seating
from hortator.scheduler.core.policies.staggered import Staggered, consider, finish
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.waiting import WaitingQueue

LOOKAHEAD = 3.0
"""Room of a full pass times this is considered: levels need a choice of lengths."""


class StaggeredPlus(Staggered):
    """Levels, ages and backlog; releases as `staggered` does without its idle gate."""

    name = "staggered-plus"

    def _gate(self, fleet: Fleet, waiting: WaitingQueue, group: GroupState, now: float) -> float:
        if group.spec.phase is Phase.AGGREGATED or self._settings.interval_s is not None:
            return super()._gate(fleet, waiting, group, now)
        return now

    def _fill(
        self, fleet: Fleet, group: GroupState, waiting: WaitingQueue, now: float
    ) -> PlannedBatch | None:
        full = Seating(fleet, group)
        if not full.has_room():
            return None
        settings = self._settings
        considered = consider(waiting, int(full.total_free_tokens * LOOKAHEAD), group)
        old = [r for r in considered if now - r.waiting_since > settings.age_first_s]
        young = [r for r in considered if now - r.waiting_since <= settings.age_first_s]
        first = _fitting_prefix(old, full.total_free_tokens)
        first.sort(key=lambda r: (-r.num_prompt_tokens, r.seq))
        seated = {r.request_id for r in first if full.seat(r, must=True)}
        level = self._best_level(fleet, full, young, waiting, now)
        rest = [r for r in considered if r.request_id not in seated]
        # The level binds only the young; it never cuts what the old have filled already.
        rest.sort(key=lambda r: (-r.num_prompt_tokens, r.seq))
        full.lower_limit(level)
        for request in rest:
            if not full.has_room():
                break
            if (
                request.num_prompt_tokens <= level
                or request.num_prompt_tokens > group.spec.chunk_budget_tokens
            ):
                full.seat(request)
        if not full.seats:
            return None
        taken = {seat.request.request_id for seat in full.seats}
        return finish(full, [r for r in considered if r.request_id not in taken])

    def _best_level(
        self, fleet: Fleet, seating: Seating, young: list[RequestState], waiting: WaitingQueue, now: float
    ) -> int:
        group = seating.group
        budget = group.spec.chunk_budget_tokens
        fullest = int(seating.fullest_level)
        curve = _Curve.of([r for r in young if r.num_prompt_tokens <= budget], now, self._settings.age_tau_s)
        if not curve.lengths:
            return budget
        rate = fleet.tokens_per_s()
        backlog_s = waiting.num_tokens / rate if rate > 0.0 else 0.0
        weight = self._settings.backlog_weight * backlog_s / (waiting.num_tokens / len(waiting))
        best_score, best_level = -1.0, budget
        for level in self._levels(curve.lengths, fullest, budget):
            room = seating.room_under(level)
            value, tokens = curve.taken(level, room)
            if tokens <= 0.0 and level < budget:
                continue
            score = (value + weight * tokens) / group.estimator.predict_s(level)
            if score > best_score:
                best_score, best_level = score, level
        return best_level

    def _levels(self, lengths: list[int], fullest: int, budget: int) -> list[int]:
        count = self._settings.num_levels
        quantiles = {lengths[min(len(lengths) - 1, i * len(lengths) // count)] for i in range(1, count + 1)}
        quantiles |= {min(budget, 2 * q) for q in quantiles}
        return sorted({max(q, fullest) for q in quantiles if q <= budget} | {budget})


class _Curve(NamedTuple):
    """Lengths ascending with prefix sums of value and tokens."""

    lengths: list[int]
    values: list[float]
    tokens: list[int]

    @staticmethod
    def of(requests: list[RequestState], now: float, tau_s: float) -> _Curve:
        ordered = sorted(requests, key=lambda r: r.num_prompt_tokens)
        lengths = [r.num_prompt_tokens for r in ordered]
        values = list(
            accumulate((1.0 + ((now - r.waiting_since) / tau_s) ** 2 for r in ordered), initial=0.0)
        )
        return _Curve(lengths, values, list(accumulate(lengths, initial=0)))

    def taken(self, level: int, room: int) -> tuple[float, float]:
        """(Value, tokens) of the requests of length <= level that `room` tokens hold, longest first."""
        upto = bisect_right(self.lengths, level)
        total = self.tokens[upto]
        if total <= room:
            return self.values[upto], float(total)
        start = bisect_right(self.tokens, total - room, 0, upto + 1)
        return self.values[upto] - self.values[min(start, upto)], float(room)


def _fitting_prefix(requests: list[RequestState], room: int) -> list[RequestState]:
    taken: list[RequestState] = []
    for request in requests:
        if room <= 0:
            break
        taken.append(request)
        room -= request.num_prompt_tokens
    return taken
