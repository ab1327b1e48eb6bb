"""When a group's passes ended, and the gaps between tokens that follow.

A request that decodes gets one token from every pass of its group, so the gap before a token is the time from
one pass end to the next. Gaps are counted per pass and not per token: constant time for each request.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class PassTimes:
    """The passes of one EP group; pass ids count from 1, pass 0 is the start of the run."""

    __slots__ = ("_change", "_limit_s", "_num_late", "ends")

    def __init__(self, *, itl_limit_s: float = float("inf")) -> None:
        self.ends: list[float] = [0.0]
        """Index: forward pass id."""
        self._limit_s = itl_limit_s
        self._num_late = [0]
        """Up to this pass: those that ended later than the limit after the one before."""
        self._change = [0, 0]
        """How many more requests the gap before this pass counts for than the gap before that one."""

    def end(self, now: float) -> None:
        """The next pass ended."""
        is_late = now - self.ends[-1] > self._limit_s
        self.ends.append(now)
        self._num_late.append(self._num_late[-1] + is_late)
        self._change.append(0)

    def count(self, first_pass: int, num_gaps: int) -> int:
        """A request got a token from `first_pass` and from each of the `num_gaps` passes after it, all ended.

        Returns how many of the gaps were over the limit.
        """
        if num_gaps <= 0:
            return 0
        self._change[first_pass + 1] += 1
        self._change[first_pass + num_gaps + 1] -= 1
        return self._num_late[first_pass + num_gaps] - self._num_late[first_pass]

    def gaps(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Gaps in seconds, and how many tokens came after each."""
        num_passes = len(self.ends) - 1
        return np.diff(np.asarray(self.ends)), np.cumsum(self._change)[1 : num_passes + 1]
