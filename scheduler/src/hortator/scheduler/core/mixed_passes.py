"""What prefill costs the decodes beside it (Aggregated): how much longer a pass is that runs some.

A pass with any prefill in it has a price of its own, whatever it holds (on H800 about 15 ms on top of 40 to
60 ms of decode): every running sequence waits that much longer for its next token. So it pays to admit many
at a time. The price is learned as the difference between two smoothed means, of passes with and without
prefill.
"""

from __future__ import annotations

from hortator.scheduler.core.estimates import Smoothed

PRIOR_EXTRA_S = 0.015
"""Until both kinds of passes have been seen."""
_WEIGHT = 0.1


class MixedPasses:
    """Smoothed times of passes with and without prefill, seconds."""

    __slots__ = ("_decode", "_mixed")

    def __init__(self) -> None:
        self._decode: Smoothed | None = None
        self._mixed: Smoothed | None = None

    def observe(self, prefill_tokens: int, duration_s: float) -> None:
        """Learn from one finished pass that ran so many prefill tokens over all ranks."""
        known = self._mixed if prefill_tokens else self._decode
        if known is not None:
            known.observe(duration_s)
        elif prefill_tokens:
            self._mixed = Smoothed(duration_s, weight=_WEIGHT)
        else:
            self._decode = Smoothed(duration_s, weight=_WEIGHT)

    @property
    def extra_s(self) -> float:
        """How much longer a pass with prefill is; never below 0."""
        if self._mixed is None or self._decode is None:
            return PRIOR_EXTRA_S
        return max(0.0, self._mixed.value - self._decode.value)
