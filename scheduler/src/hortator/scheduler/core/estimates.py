"""What the scheduler learns: how long a pass takes, how long outputs are, how late a dispatch lands.

The pass model is a line, pass_s = a + b x (cost tokens of the fullest rank), because the pass is as long as
its fullest rank; in virtual time it does as well as the exact cost model. It starts from H800 figures
(60 ms + 0.137 ms per token) and learns by recursive least squares with forgetting, so another engine, a
slow node or a changed clock is followed within some tens of passes.
"""

from __future__ import annotations

PRIOR_BASE_S = 0.060
PRIOR_PER_TOKEN_S = 0.137e-3
_SCALE = 1024.0
"""Tokens are fitted in units of this, so that both coefficients have a like magnitude."""


class PassEstimator:
    """Predicts the length of a forward pass from the prefill tokens of its fullest rank."""

    __slots__ = ("_a", "_b", "_paa", "_pab", "_pbb", "forgetting", "num_passes", "smoothed_s", "warmup")

    def __init__(self, *, warmup: int = 5, forgetting: float = 0.98) -> None:
        self._a = PRIOR_BASE_S
        self._b = PRIOR_PER_TOKEN_S * _SCALE
        self._paa, self._pab, self._pbb = 1.0, 0.0, 1.0
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
        self.smoothed_s = duration_s if self.smoothed_s == 0.0 else 0.8 * self.smoothed_s + 0.2 * duration_s
        x = fullest_rank_tokens / _SCALE
        error = duration_s - (self._a + self._b * x)
        ga = self._paa + self._pab * x
        gb = self._pab + self._pbb * x
        denominator = self.forgetting + ga + gb * x
        ka, kb = ga / denominator, gb / denominator
        self._a += ka * error
        self._b += kb * error
        f = self.forgetting
        self._paa = min((self._paa - ka * ga) / f, 100.0)
        self._pab = (self._pab - ka * gb) / f
        self._pbb = min((self._pbb - kb * gb) / f, 100.0)

    def predict_s(self, fullest_rank_tokens: float) -> float:
        """Predicted pass time in seconds; never below a tenth of a millisecond."""
        predicted = max(self._a, 0.0) + max(self._b, 0.0) * (fullest_rank_tokens / _SCALE)
        return max(predicted, 1e-4)

    @property
    def base_s(self) -> float:
        """Predicted time of a pass with no prefill tokens."""
        return max(self._a, 0.0)

    @property
    def per_token_s(self) -> float:
        """Predicted seconds per token of the fullest rank."""
        return max(self._b, 0.0) / _SCALE


class Smoothed:
    """An exponentially smoothed mean that starts from a first guess."""

    __slots__ = ("_weight", "value")

    def __init__(self, first_guess: float, *, weight: float = 0.02) -> None:
        self.value = first_guess
        self._weight = weight

    def observe(self, value: float) -> None:
        """Move towards an observation."""
        self.value += self._weight * (value - self.value)
