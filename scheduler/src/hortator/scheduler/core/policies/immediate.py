"""Immediate dispatch: every request goes to an engine on arrival; the rules differ in where.

Question answered: which rank of all groups gets this request, now? The engine queues what it cannot run
(in-engine queueing), so no budget is looked at. These are the field's usual rules and Hortator's rivals:

- round-robin: the next rank.
- least-requests: fewest requests (reported and dispatched).
- weighted-requests: the same with those that no pass has begun with counted four times (vLLM's rule).
- least-tokens: fewest prefill tokens not yet computed.
- power-of-two: the less loaded (tokens) of two ranks drawn at random (seeded).
- least-delay: earliest predicted completion = residual of the running pass + predicted passes for the
  tokens ahead and its own. The honest rival: it knows what staggered batching knows, and cannot wait.

Bad when: the pass is long; a request committed to a busy engine waits for half a pass on average although
another engine may become free much sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import Phase, SchedulerSettings
from hortator.scheduler.core.policies.base import PlannedBatch, Seat
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.waiting import WaitingQueue

WAITING_WEIGHT = 4

Chosen = tuple[GroupState, int]
Picker = Callable[[list[GroupState], RequestState, float], Chosen]


class ImmediateDispatch:
    """Places the oldest waiting request at once, by the given picker."""

    gathers_decode = False

    def __init__(self, name: str, pick: Picker) -> None:
        self.name = name
        self._pick = pick

    def plan(self, fleet: Fleet, waiting: WaitingQueue, now: float) -> PlannedBatch | None:
        """One request, if any group may be given work."""
        request = next((request for request in waiting if fleet.is_read(request.tokenizer)), None)
        if request is None:
            return None
        return place_one(fleet, request, now, self._pick)

    def wakeup(self, fleet: Fleet, waiting: WaitingQueue, now: float) -> float | None:  # noqa: ARG002
        """Only events matter."""
        return None


def place_one(fleet: Fleet, request: RequestState, now: float, pick: Picker) -> PlannedBatch | None:
    """Place one request now on the rank that `pick` chooses; None when no group can take it."""
    groups = [group for group in fleet.placeable_entry() if group.can_hold(request)]
    if not groups:
        return None
    group, rank = pick(groups, request, now)
    seat = seat_on(fleet, group, rank, request)
    if seat is None:
        return None
    ahead = group.load_tokens[rank] + seat.num_prefill_tokens
    predicted = group.estimator.predict_s(min(ahead, group.spec.chunk_budget_tokens))
    return PlannedBatch(group=group, seats=[seat], predicted_pass_s=predicted, passed_over=[])


def seat_on(fleet: Fleet, group: GroupState, rank: int, request: RequestState) -> Seat | None:
    """Seat a request on a given rank whatever its room; None when no decode rank can be reserved."""
    if (
        group.spec.phase is Phase.PREFILL
        and fleet.settings.decode_reservation
        and request.reservation is None
    ):
        reservation = fleet.reserve_decode(request)
        if reservation is None:
            return None
        fleet.hold_reservation(request, reservation)
    tokens = request.num_prompt_tokens
    for depth, ranks in group.prefixes.match(request.block_hashes):
        if ranks >> rank & 1:
            tokens = max(1, tokens - depth * group.spec.tokens_per_block)
            break
    return Seat(request, rank, tokens, fleet.blocks_on_entry(group, request))


def _ranks(groups: list[GroupState]) -> Iterator[Chosen]:
    return ((group, rank) for group in groups for rank in range(group.spec.dp_size))


class RoundRobin:
    """The next rank in turn."""

    def __init__(self) -> None:
        self._turn = 0

    def __call__(self, groups: list[GroupState], request: RequestState, now: float) -> Chosen:  # noqa: ARG002
        """Groups take turns first, then ranks within a group."""
        group = groups[self._turn % len(groups)]
        rank = self._turn // len(groups) % group.spec.dp_size
        self._turn += 1
        return group, rank


def least_requests(groups: list[GroupState], request: RequestState, now: float) -> Chosen:  # noqa: ARG001
    """Fewest requests; ties to the earlier group and lower rank."""
    group = min(groups, key=lambda g: min(g.batch_size))
    return group, group.batch_size.index(min(group.batch_size))


def weighted_requests(groups: list[GroupState], request: RequestState, now: float) -> Chosen:  # noqa: ARG001
    """Fewest requests, those that no pass has begun with counted WAITING_WEIGHT times.

    What vLLM's own balancer over DP ranks does; ours sees the counts at once and not every 100 ms.
    """
    best: float = float("inf")
    chosen: Chosen = (groups[0], 0)
    for group in groups:
        scores = [
            batch + (WAITING_WEIGHT - 1) * waiting
            for batch, waiting in zip(group.batch_size, group.not_started(), strict=True)
        ]
        if (score := min(scores)) < best:
            best, chosen = score, (group, scores.index(score))
    return chosen


def least_tokens(groups: list[GroupState], request: RequestState, now: float) -> Chosen:  # noqa: ARG001
    """Fewest prefill tokens that the running pass will leave over; among equals the fewest requests.

    Counting the running pass's tokens too would herd arrivals onto whichever group has just finished one;
    this is the stronger form of the rule.
    """
    best: tuple[int, int] | None = None
    chosen: Chosen | None = None
    for group in groups:
        queued = group.queued_tokens()
        tokens = min(queued)
        if best is not None and tokens > best[0]:
            continue
        batch, rank = min(
            (group.batch_size[rank], rank) for rank, load in enumerate(queued) if load == tokens
        )
        if best is None or (tokens, batch) < best:
            best, chosen = (tokens, batch), (group, rank)
    if chosen is None:
        raise AssertionError("no groups")
    return chosen


class PowerOfTwo:
    """The less loaded of two random ranks. The generator is seeded: same events, same choices."""

    def __init__(self, seed: int = 0x9E3779B97F4A7C15) -> None:
        self._state = seed

    def _draw(self, bound: int) -> int:
        # Multiplicative congruential step (Knuth's MMIX constants); the high bits are the good ones.
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return (self._state >> 33) % bound

    def __call__(self, groups: list[GroupState], request: RequestState, now: float) -> Chosen:  # noqa: ARG002
        """Two draws, with replacement."""
        ranks = list(_ranks(groups))
        first, second = ranks[self._draw(len(ranks))], ranks[self._draw(len(ranks))]
        return min(first, second, key=lambda chosen: chosen[0].queued_tokens()[chosen[1]])


def least_delay(groups: list[GroupState], request: RequestState, now: float) -> Chosen:
    """Earliest predicted completion of this prompt."""
    best_at = float("inf")
    chosen: Chosen = (groups[0], 0)
    for group in groups:
        at, rank = predicted_completion(group, request, now)
        if at < best_at:
            best_at, chosen = at, (group, rank)
    return chosen


def predicted_completion(group: GroupState, request: RequestState, now: float) -> tuple[float, int]:
    """When `request` would be prefilled on the group's emptiest rank, and that rank.

    Work on a rank is what the running pass leaves over plus the prompt; it takes whole passes of the
    chunk budget, each as long as the group's fullest rank makes it. Of equally empty ranks the one with the
    fewest requests is meant: with in-flight batching most have nothing to prefill, and many no slot free.
    """
    budget = group.spec.chunk_budget_tokens
    queued = group.queued_tokens()
    lowest, _, rank = min(zip(queued, group.batch_size, range(group.spec.dp_size), strict=True))
    tokens = lowest + request.num_prompt_tokens
    longest = max(*queued, tokens)
    passes, last = divmod(tokens - 1, budget)
    seconds = group.residual_s(now) + passes * group.estimator.predict_s(min(budget, longest))
    # In the last pass other ranks may still be fuller than ours.
    seconds += group.estimator.predict_s(min(budget, max(last + 1, longest - passes * budget)))
    return now + seconds, rank


def round_robin(settings: SchedulerSettings) -> ImmediateDispatch:  # noqa: ARG001
    """`immediate-round-robin`."""
    return ImmediateDispatch("immediate-round-robin", RoundRobin())


def by_least_requests(settings: SchedulerSettings) -> ImmediateDispatch:  # noqa: ARG001
    """`immediate-least-requests`."""
    return ImmediateDispatch("immediate-least-requests", least_requests)


def by_weighted_requests(settings: SchedulerSettings) -> ImmediateDispatch:  # noqa: ARG001
    """`immediate-weighted-requests`."""
    return ImmediateDispatch("immediate-weighted-requests", weighted_requests)


def by_least_tokens(settings: SchedulerSettings) -> ImmediateDispatch:  # noqa: ARG001
    """`immediate-least-tokens`."""
    return ImmediateDispatch("immediate-least-tokens", least_tokens)


def power_of_two(settings: SchedulerSettings) -> ImmediateDispatch:  # noqa: ARG001
    """`immediate-power-of-two`."""
    return ImmediateDispatch("immediate-power-of-two", PowerOfTwo())


def by_least_delay(settings: SchedulerSettings) -> ImmediateDispatch:  # noqa: ARG001
    """`immediate-least-delay`."""
    return ImmediateDispatch("immediate-least-delay", least_delay)
