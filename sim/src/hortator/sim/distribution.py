"""How any number of durations are distributed, in a fixed number of bytes.

Count, sum and maximum are exact. Percentiles come from a histogram whose buckets grow with the values: every
octave from 2^-20 s (a microsecond) to 2^30 s is cut into 512 equal parts, and a value is told as the middle
of its bucket. So a percentile is wrong by half a bucket at most, which is less than PERCENTILE_ERROR of
itself; one under a microsecond is told as 0. A bucket is known by the first bits of the number as the machine
holds it, so that it is the same on every machine, which a logarithm is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERCENTILE_ERROR = 0.001
"""A percentile over the true one is at most so far from 1; half a bucket is 1 / 1024 of its lower edge."""

_LEAST_EXPONENT, _MOST_EXPONENT = -20, 30
_BITS = 9
_PER_OCTAVE = 1 << _BITS
_SHIFT = 52 - _BITS
_FIRST = (1023 + _LEAST_EXPONENT) << _BITS
"""What a double of 2^-20 begins with: its exponent, biased, and 9 bits of its mantissa."""
_NUM_BUCKETS = 1 + (_MOST_EXPONENT - _LEAST_EXPONENT) * _PER_OCTAVE
"""Bucket 0 is what is less."""


class Distribution:
    """Durations in seconds, 0 or more; 200 KB, however many were added."""

    __slots__ = ("_counts", "_max_s", "_sum_s", "num")

    def __init__(self) -> None:
        self.num = 0
        self._sum_s = 0.0
        self._max_s = 0.0
        self._counts = np.zeros(_NUM_BUCKETS, np.int64)

    def add(self, values_s: NDArray[np.float64], times: NDArray[np.int64] | None = None) -> None:
        """Add some values, each once or so many times; 0 is not at all."""
        if times is None:
            times = np.ones(values_s.size, np.int64)
        values_s, times = values_s[times > 0], times[times > 0]
        if not values_s.size:
            return
        buckets = np.clip((values_s.view(np.int64) >> _SHIFT) - _FIRST + 1, 0, _NUM_BUCKETS - 1)
        np.add.at(self._counts, buckets, times)
        self.num += int(times.sum())
        self._sum_s += float((values_s * times).sum())
        self._max_s = float(np.maximum(self._max_s, values_s.max()))  # NaN stays NaN

    def percentiles(self, *, is_one_of_them: bool = False) -> dict[str, float]:
        """mean, p50, p90, p99 and max in seconds, as `results.percentiles` has them; NaN if one is NaN.

        Args:
            is_one_of_them: each percentile is the least value that so many do not exceed; otherwise it lies
                between two neighbours in proportion.
        """
        if not self.num:
            return dict.fromkeys(("mean", "p50", "p90", "p99", "max"), 0.0)
        p50, p90, p99 = (self._percentile(share, is_one_of_them) for share in (50, 90, 99))
        return {"mean": self._sum_s / self.num, "p50": p50, "p90": p90, "p99": p99, "max": self._max_s}

    def _percentile(self, percent: int, is_one_of_them: bool) -> float:
        if np.isnan(self._max_s):
            return self._max_s
        if is_one_of_them:
            return self._value(-(-percent * self.num // 100) - 1)
        place, rest = divmod(percent * (self.num - 1), 100)
        lower = self._value(place)
        return lower + (self._value(place + 1) - lower) * rest / 100 if rest else lower

    def _value(self, place: int) -> float:
        """About the value that `place` others precede in ascending order."""
        bucket = int(np.searchsorted(np.cumsum(self._counts), place, side="right"))
        if bucket == 0:
            return 0.0
        octave, part = divmod(bucket - 1, _PER_OCTAVE)
        middle = 2.0 ** (_LEAST_EXPONENT + octave) * (1.0 + (part + 0.5) / _PER_OCTAVE)
        return min(middle, self._max_s)
