"""What happened when: the passes of a window of time, and how long the queue was, for whoever wants to look.

Nothing is kept unless a `Timeline` is given to the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class PassShape(NamedTuple):
    """One forward pass of one EP group."""

    group_id: str
    started_at: float
    duration_s: float
    prefill_tokens: tuple[int, ...]
    """By DP rank."""
    num_decodes: int
    """Sequences that decode in it, over all ranks."""


class Sample(NamedTuple):
    """The state at one moment."""

    at: float
    num_waiting: int
    """Requests that the scheduler holds."""
    balance: float
    """Mean over maximum of the ranks' prefill tokens, averaged over passes since the last sample; 0: none."""


@dataclass(slots=True, kw_only=True)
class Timeline:
    """Collects passes that touch the window, and a sample every `sample_s`."""

    window_from_s: float
    window_to_s: float
    sample_s: float
    passes: list[PassShape] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    _balances: list[float] = field(default_factory=list)
    _next_at: float = 0.0

    def start_pass(self, now: float, shape: PassShape, *, num_waiting: int) -> None:
        """A pass begins."""
        if now < self.window_to_s and now + shape.duration_s > self.window_from_s:
            self.passes.append(shape)
        fullest = max(shape.prefill_tokens)
        if fullest:
            self._balances.append(sum(shape.prefill_tokens) / len(shape.prefill_tokens) / fullest)
        if now >= self._next_at:
            balance = sum(self._balances) / len(self._balances) if self._balances else 0.0
            self.samples.append(Sample(now, num_waiting, balance))
            self._balances.clear()
            self._next_at = now + self.sample_s
