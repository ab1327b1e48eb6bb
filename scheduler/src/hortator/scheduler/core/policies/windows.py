"""Windows of waiting requests of like length, and which of them is the best next pass.

A pass is as long as its fullest rank, so requests of like length belong together: a *window* is a run of
the waiting requests in order of length, packed under a *level* that no rank is filled beyond. Short windows
under low levels make short passes; long windows, or ones that begin among the long prompts, make full passes
whose ranks carry alike quadratic attention too.

Windows around a length are for a request that must go now: it chooses the company, and the pass still is of
like lengths.

The value of a window and its cost come from prefix sums, so judging one costs two binary searches, whatever
it holds: O(B log B) for sorting B requests, and a fixed number of windows on top.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from hortator.scheduler.core.request import RequestState

LEVEL_MULTIPLES = (1, 2, 4)
"""A rank may hold one request of a quantile's length, or several."""


class Choice(NamedTuple):
    """The best window found."""

    level: int
    """Prefill tokens that no rank is filled beyond."""
    requests: list[RequestState]
    """Longest first."""


class Windows:
    """The candidates of one release, in order of length.

    Args:
        requests: that may be seated.
        budget: chunk budget, tokens per rank and pass; a longer prompt counts for one full pass of its rank,
            and is worth its share of the passes that it takes.
        whole_above: a prompt of more tokens than this (and the budget) counts for all its passes, so that
            prompts which take as many are its like: they begin and end together.
    """

    __slots__ = ("_budget", "_costs", "_lengths", "_requests", "_tokens", "_values")

    def __init__(
        self,
        requests: Sequence[RequestState],
        *,
        budget: int,
        whole_above: float = float("inf"),
    ) -> None:
        ordered = sorted(requests, key=_by_length)
        lengths: list[int] = []
        values: list[float] = []
        costs: list[float] = []
        for request in ordered:
            length = request.num_prompt_tokens
            value = 1.0
            cost = request.cost_tokens
            if budget < length <= whole_above:
                value /= -(-length // budget)
                cost *= budget / length
                length = budget
            lengths.append(length)
            values.append(value)
            costs.append(cost)
        self._budget = budget
        self._requests = ordered
        self._lengths = lengths
        self._values = list(accumulate(values, initial=0.0))
        self._tokens = list(accumulate(lengths, initial=0))
        self._costs = list(accumulate(costs, initial=0.0))

    def best(
        self,
        *,
        num_levels: int,
        num_starts: int,
        fullest: int,
        room_under: Callable[[int], int],
        duration_s: Callable[[int, float], float],
        work_value: float,
        around: int | None = None,
    ) -> Choice:
        """The window with the most value per second of its pass.

        Args:
            num_levels: quantiles of the lengths that levels are made of.
            num_starts: quantiles of the lengths that windows begin at.
            fullest: what the fullest rank holds already; no level is below it.
            room_under: level -> prefill tokens that fit over all ranks.
            duration_s: (level, cost tokens of the fullest rank) -> seconds of the pass; of all passes of a
                level above the budget.
            work_value: value of running one cost token, beside that of the requests.
            around: only windows that hold this length, or begin or end next to it.
        """
        lengths, tokens, values, costs = self._lengths, self._tokens, self._values, self._costs
        best_score, best_level, best_low, best_high = 0.0, self._budget, 0, 0
        starts = self._starts(num_starts)
        for level in self._levels(num_levels, fullest):
            room = room_under(level)
            upto = bisect_right(lengths, level)
            if around is not None:
                starts = self._starts_around(around, room, num_starts)
            for low in starts:
                if low >= upto:
                    break
                high = min(upto, bisect_right(tokens, tokens[low] + room) - 1)
                if high <= low:
                    continue
                cost = costs[high] - costs[low]
                pass_s = duration_s(level, max(fullest, level * cost / (tokens[high] - tokens[low])))
                score = (values[high] - values[low] + work_value * cost) / pass_s
                if score > best_score:
                    best_score, best_level, best_low, best_high = score, level, low, high
        return Choice(best_level, self._requests[best_low:best_high][::-1])

    def _levels(self, count: int, fullest: int) -> list[int]:
        lengths, budget = self._lengths, self._budget
        last = len(lengths) - 1
        quantiles = (
            {lengths[min(last, i * len(lengths) // count)] for i in range(1, count + 1)} if lengths else ()
        )
        levels = {
            min(max(budget, length), times * length) for length in quantiles for times in LEVEL_MULTIPLES
        }
        return sorted({max(level, fullest) for level in levels} | {budget})

    def _starts(self, count: int) -> list[int]:
        """Each at the first of the requests of its length."""
        lengths = self._lengths
        if not lengths:
            return []
        return sorted({bisect_left(lengths, lengths[i * len(lengths) // count]) for i in range(count)})

    def _starts_around(self, length: int, room: int, count: int) -> list[int]:
        """From the one that ends before the first request of this length to the one that begins with it."""
        last = bisect_left(self._lengths, length)
        first = bisect_left(self._tokens, self._tokens[last] - room)
        return sorted({last - (last - first) * i // count for i in range(count + 1)})


def _by_length(request: RequestState) -> tuple[int, int]:
    return request.num_prompt_tokens, request.seq
