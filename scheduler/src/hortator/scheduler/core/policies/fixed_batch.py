"""Fixed batch: collect requests for a fixed window, then release all of them, ready or not.

Question answered: what if one batches without listening to the engines? Every `interval_s` (default 10 ms)
the whole window goes to the group with the fewest prefill tokens, spread over its ranks by water-filling
where it fits and to the emptiest rank where it does not; of equals the one with the fewest requests. The
engine queues the excess.

Bad when: always, compared with listening; it is here to show what the feedback is worth.
"""

from __future__ import annotations

from heapq import heapify, heapreplace

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.core.policies.base import PlannedBatch, Seat
from hortator.scheduler.core.policies.immediate import seat_on
from hortator.scheduler.core.waiting import WaitingQueue

DEFAULT_WINDOW_S = 0.010


class FixedBatch:
    """Windows of a fixed length, whatever the engines do."""

    name = "fixed-batch"
    gathers_decode = False

    def __init__(self, settings: SchedulerSettings) -> None:
        self._window_s = DEFAULT_WINDOW_S if settings.interval_s is None else settings.interval_s

    def plan(self, fleet: Fleet, waiting: WaitingQueue, now: float) -> PlannedBatch | None:
        """Everything waiting, once the oldest has waited for a window."""
        if not waiting or self._left_s(waiting, now) > 0.0:
            return None
        oldest = next((request for request in waiting if fleet.is_read(request.tokenizer)), None)
        if oldest is None:
            return None
        groups = [group for group in fleet.placeable_entry() if group.can_hold(oldest)]
        if not groups:
            return None
        group = min(groups, key=_load)
        levels = list(zip(group.load_tokens, group.batch_size, range(group.spec.dp_size), strict=True))
        heapify(levels)
        seats: list[Seat] = []
        predicted = 0
        for request in sorted(waiting, key=lambda r: (-r.num_prompt_tokens, r.seq)):
            if not group.can_hold(request):
                continue
            load, batch, rank = levels[0]
            seat = seat_on(fleet, group, rank, request)
            if seat is None:
                break  # decode capacity is out
            seats.append(seat)
            load += seat.num_prefill_tokens
            heapreplace(levels, (load, batch + 1, rank))
            predicted = max(predicted, load)
        if not seats:
            return None
        predicted_s = group.estimator.predict_s(min(predicted, group.spec.chunk_budget_tokens))
        return PlannedBatch(group=group, seats=seats, predicted_pass_s=predicted_s, passed_over=[])

    def wakeup(self, fleet: Fleet, waiting: WaitingQueue, now: float) -> float | None:
        """The end of the window; past it, only an event (a worker, decode capacity) can help."""
        if not waiting or next(fleet.placeable_entry(), None) is None:
            return None
        left_s = self._left_s(waiting, now)
        return now + left_s if left_s > 0.0 else None

    def _left_s(self, waiting: WaitingQueue, now: float) -> float:
        """Time until the window ends; under a nanosecond it has ended (a wake-up may be rounded down)."""
        left_s = self._window_s - waiting.oldest_wait_s(now)
        return left_s if left_s > 1e-9 else 0.0


def _load(group: GroupState) -> tuple[float, float]:
    """Prefill tokens per rank, then requests per rank: with in-flight batching the tokens are soon gone."""
    return sum(group.load_tokens) / group.spec.dp_size, sum(group.batch_size) / group.spec.dp_size
