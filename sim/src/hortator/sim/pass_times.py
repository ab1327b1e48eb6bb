"""When a group's passes ended, and the gaps between tokens that follow.

A request that decodes gets one token from every pass of its group, so the gap before a token is the time from
one pass end to the next. Gaps are counted per pass and not per token: constant time for each request.

Times are kept of the passes since the oldest decode that goes on began. Gaps before that are settled: nobody
will count them any more. They are kept if tokens came after them, and given away on demand (`sum_up`).
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from hortator.sim.distribution import Distribution

_MIN_PASSES = 256
"""Settling is worth while from here on."""


class PassTimes:
    """The passes of one EP group; pass ids count from 1, pass 0 is the start of the run."""

    __slots__ = (
        "_change",
        "_ends",
        "_first",
        "_limit_s",
        "_num_before",
        "_num_late",
        "_settle_at",
        "_settled",
        "_settled_times",
    )

    def __init__(self, *, itl_limit_s: float = float("inf")) -> None:
        self._limit_s = itl_limit_s
        self._first = 0
        """Id of the oldest pass of which the time is kept; the index of the lists counts from it."""
        self._ends: list[float] = [0.0]
        self._num_late = [0]
        """Up to this pass: those that ended later than the limit after the one before."""
        self._change = [0, 0]
        """How many more requests the gap before this pass counts for than the gap before that one."""
        self._num_before = 0
        """How many requests the gap before the oldest pass counts for."""
        self._settle_at = _MIN_PASSES
        self._settled = array("d")
        self._settled_times = array("q")

    @property
    def num_ended(self) -> int:
        """Passes that have ended."""
        return self._first + len(self._ends) - 1

    @property
    def has_many(self) -> bool:
        """It is time for `settle`."""
        return len(self._ends) > self._settle_at

    def end(self, now: float) -> None:
        """The next pass ended."""
        is_late = now - self._ends[-1] > self._limit_s
        self._ends.append(now)
        self._num_late.append(self._num_late[-1] + is_late)
        self._change.append(0)

    def end_of(self, forward_pass_id: int) -> float:
        """When the pass ended; of one that is not settled."""
        return self._ends[self._index(forward_pass_id)]

    def count(self, first_pass: int, num_gaps: int) -> int:
        """A request got a token from `first_pass` and from each of the `num_gaps` passes after it, all ended.

        Returns how many of the gaps were over the limit.
        """
        if num_gaps <= 0:
            return 0
        first = self._index(first_pass)
        self._change[first + 1] += 1
        self._change[first + num_gaps + 1] -= 1
        return self._num_late[first + num_gaps] - self._num_late[first]

    def settle(self, first_pass: int) -> int:
        """No request that has yet to be counted got a token before `first_pass`.

        Returns how many gaps are kept that were not before.
        """
        num = max(0, min(first_pass, self.num_ended) - self._first)
        gaps, times = self._unsettled(num)
        if num:
            self._num_before = int(times[-1])
            self._first += num
            del self._ends[:num], self._num_late[:num], self._change[:num]
            self._change[0] = 0
        seen = times > 0
        self._settled.extend(gaps[seen].tolist())
        self._settled_times.extend(times[seen].tolist())
        self._settle_at = max(_MIN_PASSES, 2 * len(self._ends))
        return int(seen.sum())

    def gaps(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Gaps in seconds, and how many tokens came after each; not all of those that no token saw."""
        gaps, times = self._unsettled(len(self._ends) - 1)
        return (
            np.concatenate([np.array(self._settled), gaps]),
            np.concatenate([np.array(self._settled_times, dtype=np.int64), times]),
        )

    def sum_up(self, sums: Distribution) -> None:
        """Give the settled gaps away."""
        sums.add(np.array(self._settled), np.array(self._settled_times, dtype=np.int64))
        self._settled, self._settled_times = array("d"), array("q")

    def _unsettled(self, num: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The oldest of which times are kept."""
        gaps = np.diff(np.asarray(self._ends[: num + 1]))
        return gaps, self._num_before + np.cumsum(self._change[1 : num + 1], dtype=np.int64)

    def _index(self, forward_pass_id: int) -> int:
        index = forward_pass_id - self._first
        if index < 0:
            raise ValueError(f"pass {forward_pass_id} is settled, as all before {self._first}")
        return index
