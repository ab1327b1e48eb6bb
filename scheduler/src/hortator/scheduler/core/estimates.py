"""What the scheduler learns: how long a pass takes, how long outputs are, how much work arrives.

The pass model is a line, pass_s = a + b x (cost tokens of the fullest rank), because the pass is as long as
its fullest rank; in virtual time it does as well as the exact cost model. It starts from H800 figures
(60 ms + 0.137 ms per token) and learns by least squares over exponentially forgotten passes, so another
engine, a slow node or a changed clock is followed within some tens of passes.

At saturation every pass is as long as the last one, and a constant load says nothing about a and b apart.
A small pull towards the first figures (a ridge) settles what the passes leave open; without it the noise of
some hundred such passes drives the coefficients anywhere.
"""

from __future__ import annotations

from collections import deque

PRIOR_BASE_S = 0.060
PRIOR_PER_TOKEN_S = 0.137e-3
_SCALE = 1024.0
"""Tokens are fitted in units of this, so that both coefficients have a like magnitude."""
_PRIOR_B = PRIOR_PER_TOKEN_S * _SCALE
_RIDGE = 0.1
"""Weight of the first figures, in passes (about 50 are remembered)."""
MAX_SURPRISE = 8.0
MIN_SURPRISE_S = 1.0
"""A pass counts as at most so many times as long as predicted, or so long: a clock that jumped, or a process
that was stopped in the middle, must not be believed for the next hundred passes."""


class PassEstimator:
    """Predicts the length of a forward pass from the prefill tokens of its fullest rank."""

    __slots__ = (
        "_a",
        "_b",
        "_n",
        "_r",
        "_rx",
        "_x",
        "_xx",
        "forgetting",
        "num_passes",
        "smoothed_s",
        "warmup",
    )

    def __init__(self, *, warmup: int = 5, forgetting: float = 0.98) -> None:
        self._a = PRIOR_BASE_S
        self._b = _PRIOR_B
        # Forgetting sums over passes: of 1, x, x^2, and of the residual to the first figures times 1 and x.
        self._n = self._x = self._xx = self._r = self._rx = 0.0
        self.forgetting = forgetting
        self.warmup = warmup
        self.num_passes = 0
        self.smoothed_s = 0.0
        """Exponentially smoothed pass time (T_hat); 0 until the first pass after warm-up."""

    def observe(self, fullest_rank_tokens: float, duration_s: float) -> None:
        """Learn from one finished pass; the first `warmup` passes are ignored."""
        self.num_passes += 1
        if self.num_passes <= self.warmup or duration_s <= 0.0:
            return
        x = fullest_rank_tokens / _SCALE
        predicted_s = self.predict_s(fullest_rank_tokens)
        duration_s = min(duration_s, max(MAX_SURPRISE * predicted_s, MIN_SURPRISE_S))
        self.smoothed_s = duration_s if self.smoothed_s == 0.0 else 0.8 * self.smoothed_s + 0.2 * duration_s
        residual = duration_s - (PRIOR_BASE_S + _PRIOR_B * x)
        f = self.forgetting
        self._n = f * self._n + 1.0
        self._x = f * self._x + x
        self._xx = f * self._xx + x * x
        self._r = f * self._r + residual
        self._rx = f * self._rx + x * residual
        self._solve()

    def _solve(self) -> None:
        """Ridge regression on the sums, with neither coefficient below zero."""
        n, xx = self._n + _RIDGE, self._xx + _RIDGE
        determinant = n * xx - self._x * self._x  # > 0: Cauchy-Schwarz plus the ridge
        self._a = PRIOR_BASE_S + (xx * self._r - self._x * self._rx) / determinant
        self._b = _PRIOR_B + (n * self._rx - self._x * self._r) / determinant
        if self._b < 0.0:
            self._a = max(0.0, PRIOR_BASE_S + (self._r + _PRIOR_B * self._x) / n)
            self._b = 0.0
        elif self._a < 0.0:
            self._a = 0.0
            self._b = max(0.0, _PRIOR_B + (self._rx + PRIOR_BASE_S * self._x) / xx)

    def predict_s(self, fullest_rank_tokens: float) -> float:
        """Predicted pass time in seconds; never below a tenth of a millisecond."""
        return max(self._a + self._b * (fullest_rank_tokens / _SCALE), 1e-4)

    @property
    def base_s(self) -> float:
        """Predicted time of a pass with no prefill tokens."""
        return self._a

    @property
    def per_token_s(self) -> float:
        """Predicted seconds per token of the fullest rank."""
        return self._b / _SCALE


class Smoothed:
    """An exponentially smoothed mean that starts from a first guess."""

    __slots__ = ("_weight", "value")

    def __init__(self, first_guess: float, *, weight: float = 0.02) -> None:
        self.value = first_guess
        self._weight = weight

    def observe(self, value: float) -> None:
        """Move towards an observation."""
        self.value += self._weight * (value - self.value)


class ArrivalRate:
    """Work arriving per second, over the last `memory_s`; O(1) per arrival.

    Within the first `memory_s` it is too low rather than too high. Whole numbers in buckets of time instead
    of exponential forgetting: the same arrivals give the same rate on every machine.
    """

    __slots__ = ("_bucket_s", "_buckets", "memory_s")

    def __init__(self, *, memory_s: float = 10.0, num_buckets: int = 20) -> None:
        self.memory_s = memory_s
        self._bucket_s = memory_s / num_buckets
        self._buckets: deque[list[int]] = deque(maxlen=num_buckets)  # [number of the bucket, tokens]

    def observe(self, num_tokens: int, now: float) -> None:
        """So much work arrived."""
        number = int(now / self._bucket_s)
        if self._buckets and self._buckets[-1][0] == number:
            self._buckets[-1][1] += num_tokens
        else:
            self._buckets.append([number, num_tokens])

    def tokens_per_s(self, now: float) -> float:
        """The rate as of `now`."""
        oldest = int((now - self.memory_s) / self._bucket_s)
        return sum(tokens for number, tokens in self._buckets if number > oldest) / self.memory_s
