"""Whether a run keeps up: how many requests wait for their first token, early and late in it.

The queue that an arrival sees, itself included, is its own place among the arrivals less the first tokens
until then; so its mean over a fifth of the arrivals needs the order of arrivals and first tokens, not who
they belong to. `QueueBins` has both per bin of time, and where in its bin each lies on average: bins of half
a thousandth of the run or less, in a fixed number of bytes, from requests in any order.

What is lost is the order within a bin. Of its n arrivals and f first tokens, whose mean places in it are a
and t, (n f - m) (1/2 + a - t) pairs have the token first, on average and if either is spread evenly, which
Poisson arrivals are. The m requests that have both in this bin are no such pairs with themselves; they are
those of the n that do not wait at its end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_BINS = 4096
_FIRST_WIDTH_S = 2.0**-6
MIN_ARRIVALS = 50
"""Fewer say nothing."""


def keeps_up(second: float, last: float) -> bool:
    """Not if the mean queue of the last fifth of arrivals exceeds twice that of the second fifth."""
    return last <= 2.0 * max(second, 1.0)


class QueueBins:
    """Arrivals and first tokens over time; bins become twice as wide whenever time runs out of them."""

    __slots__ = ("_arrivals", "_firsts", "_width_s")

    def __init__(self) -> None:
        self._width_s = _FIRST_WIDTH_S
        self._arrivals = np.zeros((2, NUM_BINS))
        """Per bin: how many, and the sum of their times in seconds."""
        self._firsts = np.zeros((2, NUM_BINS))

    def add(self, arrived_at: Floats, first_token_at: Floats) -> None:
        """Add requests that were not rejected; NaN: no first token yet."""
        first_token_at = first_token_at[~np.isnan(first_token_at)]
        latest = max(float(times.max(initial=0.0)) for times in (arrived_at, first_token_at))
        while latest >= NUM_BINS * self._width_s:
            self._arrivals, self._firsts = _joined(self._arrivals), _joined(self._firsts)
            self._width_s *= 2.0
        self._count(self._arrivals, arrived_at)
        self._count(self._firsts, first_token_at)

    def is_stable(self) -> bool:
        """As `results.is_stable`; of fewer than MIN_ARRIVALS, True."""
        if self._arrivals[0].sum() < MIN_ARRIVALS:
            return True
        return keeps_up(*self.means())

    def means(self) -> tuple[float, float]:
        """The mean queue of the second and of the last fifth of arrivals; of 5 or more."""
        (arrivals, arrival_sums), (firsts, first_sums) = self._arrivals, self._firsts
        starts_at = np.arange(NUM_BINS) * self._width_s
        places = [
            (sums - counts * starts_at) / (np.maximum(counts, 1.0) * self._width_s)
            for counts, sums in ((arrivals, arrival_sums), (firsts, first_sums))
        ]
        at_end = np.cumsum(arrivals) - np.cumsum(firsts)
        at_start = at_end - arrivals + firsts
        own = np.maximum(0.0, arrivals - at_end)
        in_order = (arrivals * firsts - own) * (0.5 + places[0] - places[1])
        queues = arrivals * (at_start + 0.5 * (arrivals + 1.0)) - in_order
        some = arrivals > 0
        until = np.concatenate([[0.0], np.cumsum(arrivals[some])])
        sums = np.concatenate([[0.0], np.cumsum(queues[some])])
        num = until[-1]
        fifth = num // 5
        ends = np.interp([fifth, 2 * fifth, 4 * fifth, num], until, sums)
        return float((ends[1] - ends[0]) / fifth), float((ends[3] - ends[2]) / (num - 4 * fifth))

    def _count(self, bins: Floats, times: Floats) -> None:
        numbers = (times / self._width_s).astype(np.int64)
        bins[0] += np.bincount(numbers, minlength=NUM_BINS)
        bins[1] += np.bincount(numbers, times, minlength=NUM_BINS)


def _joined(bins: Floats) -> Floats:
    """Each two neighbours made one; the rest of time is empty."""
    return np.concatenate([bins.reshape(2, -1, 2).sum(axis=2), np.zeros((2, NUM_BINS // 2))], axis=1)
