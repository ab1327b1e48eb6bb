"""Ours: at each pass boundary, choose how long the pass may be, and whose lengths go together.

Question answered: is it better to run a short pass of short prompts now, or a full one, and of which?

Water-filling to the full budget makes every prompt wait for the longest one. Here, at each release, the
window of like lengths (see `windows`) is released that has the most

    [requests, each over its passes  +  beta * rho / (1 - rho) * Q * work / mean work] / T_pred

where Q is the backlog in seconds (waiting tokens / cluster token rate) and rho the load: the tokens that
arrived within the last seconds, and those that wait, over what the cluster can run in that time. Then the
oldest of the others fill what is left under the level.

Why the second term: work done now is time that every later arrival of this busy period does not wait, and
busy periods last 1 / (1 - rho) times the backlog. So at low load value per second rules and passes are short;
near saturation work per second does, and passes are full, and of like lengths, which packs best.

Long prompts wait for company: a pass of one is as long as a pass of many. Once those that have waited for
longer than `gathered_first_s` would fill a quarter of a pass, and at the latest when one has waited for
`age_first_s`, the oldest goes first and the window is one around its length: nobody starves, and a long
backlog is still run in passes of like lengths. Of several priorities only the highest chooses the window.

A tenant that floods has no say in any of this while others wait: see `hearing`.

Prompts of many passes: see `occupied` for who starts and joins where.

Knobs: backlog_weight (beta: more of it shortens the tail and lengthens the mean), gathered_first_s,
age_first_s, num_levels, num_starts. Does not look at decode.
"""

from __future__ import annotations

from collections.abc import Callable

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import Phase, SchedulerSettings
from hortator.scheduler.core.occupants import Rest
from hortator.scheduler.core.policies.base import PlannedBatch
from hortator.scheduler.core.policies.hearing import Hearing, hear
from hortator.scheduler.core.policies.occupied import rest_s, solo_s, willing
from hortator.scheduler.core.policies.seating import Seating
from hortator.scheduler.core.policies.staggered import Staggered, bounds, consider, finish
from hortator.scheduler.core.policies.windows import Windows
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.waiting import WaitingQueue

LOOKAHEAD = 4.0
"""Room of a full pass times this is considered: windows need a choice of lengths."""
WHOLE_ABOVE = 0.5
"""A prompt whose attention costs more than this share of its linear work is judged by all its passes."""
MAX_LOAD = 0.98
"""A load above this counts as this: the worth of work stays finite."""
GATHERED_SHARE = 0.25
"""Of the room of a pass: what those have to fill that go first together."""


class StaggeredPlus(Staggered):
    """Windows and backlog; releases as `staggered` does without its idle gate."""

    name = "staggered-plus"

    def __init__(self, settings: SchedulerSettings) -> None:
        super().__init__(settings)
        pair_cost = settings.attention_pair_cost
        self._whole_above = WHOLE_ABOVE / pair_cost if pair_cost > 0.0 else float("inf")

    def _gate(self, fleet: Fleet, waiting: WaitingQueue, group: GroupState, now: float) -> float:
        if group.spec.phase is Phase.AGGREGATED or self._settings.interval_s is not None:
            return super()._gate(fleet, waiting, group, now)
        return now

    def _fill(
        self, fleet: Fleet, group: GroupState, waiting: WaitingQueue, now: float
    ) -> PlannedBatch | None:
        for bound in bounds(self._settings, waiting, group, now):
            seating = Seating(fleet, group, bound)
            if not seating.has_room():
                return None
            room = seating.total_free_tokens
            considered = consider(waiting, int(room * LOOKAHEAD), group, bound)
            hearing = hear(fleet, waiting, considered, room, now)
            batch = self._choose(fleet, seating, waiting, hearing, now)
            if batch is None and hearing.unheard:  # nobody who is heard fits here
                seating = Seating(fleet, group, bound)
                batch = self._choose(fleet, seating, waiting, Hearing.of_all(considered), now)
            if batch is not None:
                return batch
        return None

    def _choose(
        self, fleet: Fleet, seating: Seating, waiting: WaitingQueue, hearing: Hearing, now: float
    ) -> PlannedBatch | None:
        settings, group = self._settings, seating.group
        backlog_s = _backlog_s(fleet, waiting, hearing)
        considered = willing(
            fleet,
            group,
            hearing.considered,
            backlog_s=backlog_s,
            patience_s=settings.queue_timeout_s / 2,
            now=now,
        )
        if not considered:
            return None
        heard = hearing.heard(considered) if hearing.unheard else considered
        if not heard:
            return None
        starving = self._seat_starving(seating, heard, now)
        taken = set() if starving is None else {starving.request_id}
        choice = Windows(
            [r for r in heard if r.priority == considered[0].priority and r.request_id not in taken],
            budget=group.spec.chunk_budget_tokens,
            whole_above=self._whole_above,
        ).best(
            num_levels=settings.num_levels,
            num_starts=settings.num_starts,
            fullest=int(seating.fullest_level),
            room_under=seating.room_under,
            duration_s=_durations(group, starving),
            work_value=self._work_value(fleet, waiting, backlog_s, now),
            around=None if starving is None else starving.num_prompt_tokens,
        )
        seating.lower_limit(min(choice.level, group.spec.chunk_budget_tokens))
        for request in choice.requests:
            if not seating.has_room():
                break
            if seating.seat(request):
                taken.add(request.request_id)
        _fill_under(choice.level, seating, heard, taken)
        if len(heard) < len(considered):
            level = min(choice.level, int(seating.fullest_level))
            seating.lower_limit(level)
            _fill_under(level, seating, considered, taken)
        if not seating.seats:
            return None
        return finish(seating, [r for r in considered if r.request_id not in taken])

    def _seat_starving(
        self, seating: Seating, considered: list[RequestState], now: float
    ) -> RequestState | None:
        """Seat the oldest of those that have waited too long; None when there is none that fits here."""
        settings = self._settings
        since = now - min(settings.gathered_first_s, settings.age_first_s)
        starving = [r for r in considered if r.waiting_since < since]
        gathered_tokens = sum(r.num_prompt_tokens for r in starving)
        if gathered_tokens < GATHERED_SHARE * seating.total_free_tokens:
            since = now - settings.age_first_s
            starving = [r for r in starving if r.waiting_since < since]
        starving.sort(key=lambda r: (r.waiting_since, r.seq))
        return next((r for r in starving if seating.seat(r, must=True)), None)

    def _work_value(self, fleet: Fleet, waiting: WaitingQueue, backlog_s: float, now: float) -> float:
        """What running one prefill token is worth, in requests of no age."""
        if not backlog_s:
            return 0.0
        rate, arrivals = fleet.tokens_per_s(), fleet.arrivals
        load = min(MAX_LOAD, arrivals.tokens_per_s(now) / rate + backlog_s / arrivals.memory_s)
        mean_tokens = waiting.num_tokens / len(waiting)
        return self._settings.backlog_weight * load / (1.0 - load) * backlog_s / mean_tokens


def _fill_under(level: int, seating: Seating, requests: list[RequestState], taken: set[str]) -> None:
    """Seat what fits under the level, in the order given."""
    for request in requests:
        if not seating.has_room():
            break
        if request.num_prompt_tokens <= level and request.request_id not in taken and seating.seat(request):
            taken.add(request.request_id)


def _backlog_s(fleet: Fleet, waiting: WaitingQueue, hearing: Hearing) -> float:
    """Seconds that the cluster needs for what waits; of tenants that are not heard, for nothing."""
    rate = fleet.tokens_per_s()
    num_tokens = waiting.num_tokens
    if hearing.unheard:
        num_tokens = sum(request.num_prompt_tokens for request in hearing.heard(hearing.considered))
    return num_tokens / rate if rate > 0.0 else 0.0


def _durations(group: GroupState, starving: RequestState | None) -> Callable[[int, float], float]:
    """(level, cost tokens of the fullest rank) -> seconds, with what the group holds already."""
    budget, estimator = group.spec.chunk_budget_tokens, group.estimator
    leftovers = group.queued_tokens()
    fixed = group.occupants.next_cost(leftovers)
    occupied_s = rest_s(group, group.occupants.rest(leftovers))
    if starving is not None and starving.num_prompt_tokens > budget:
        occupied_s = max(occupied_s, solo_s(group, starving))

    def duration_s(level: int, cost: float) -> float:
        if level <= budget:
            return estimator.predict_s(max(fixed, cost))
        return max(occupied_s, rest_s(group, Rest(-(-level // budget), cost)))

    return duration_s
