"""What the passes of a virtual run looked like: each pass within a window, and the whole run in bins.

A passive observer: `VirtualCluster` calls `on_pass` as a pass starts, where somebody asked for it. Groups
that take no arrivals (decode) are left out: their ranks are never filled, so they have no bubbles to show.

A rank's share of a pass is its tokens over those of the fullest rank; what is left of its time is bubble.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hortator.scheduler.core.model import GroupSpec
from hortator.worker.engines.simulated.group_model import GroupModel

NUM_BINS = 120
"""Of a whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a run, in virtual seconds."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Its length."""
        return self.end_s - self.start_s


def middle_window(run_s: float, duration_s: float) -> Window:
    """So many seconds in the middle of a run, or all of a run that is shorter."""
    half_s = 0.5 * min(duration_s, run_s)
    return Window(start_s=0.5 * run_s - half_s, end_s=0.5 * run_s + half_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPass:
    """One forward pass of an EP group."""

    group_id: str
    started_at: float
    duration_s: float
    prefill_tokens: tuple[int, ...]
    """Of each rank."""
    decode_tokens: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """What each rank ran."""
        return tuple(map(sum, zip(self.prefill_tokens, self.decode_tokens, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTime:
    """Where the time of all ranks went, in rank-seconds within the time of arrivals."""

    filled_s: float
    """In passes with prefill, at work."""
    bubble_s: float
    """In passes with prefill, waiting for the fullest rank."""
    decode_only_s: float
    """In passes without prefill."""
    idle_s: float
    """In no pass."""


class Timeline:
    """Collects passes of the groups that take arrivals.

    Attributes:
        passes: those that touch the window, in order of their start.
    """

    def __init__(self, *, groups: Mapping[str, int], window: Window, run_s: float) -> None:
        """`groups`: ranks by group id; others are ignored. Passes that start after `run_s` are the drain."""
        self.passes: list[ObservedPass] = []
        self._groups = groups
        self._window = window
        self._run_s = run_s
        self._balance_sums = [0.0] * NUM_BINS
        self._num_passes = [0] * NUM_BINS
        self._filled_s = self._bubble_s = self._decode_only_s = 0.0

    def on_pass(self, now: float, spec: GroupSpec, model: GroupModel, duration_s: float) -> None:
        """A pass began."""
        if spec.group_id not in self._groups or now >= self._run_s:
            return
        tokens = [rank.pass_prefill_tokens for rank in model.ranks]
        rank_s = len(tokens) * min(duration_s, self._run_s - now)
        if fullest := max(tokens):
            balance = sum(tokens) / len(tokens) / fullest
            bin_ = min(NUM_BINS - 1, int(NUM_BINS * now / self._run_s))
            self._balance_sums[bin_] += balance
            self._num_passes[bin_] += 1
            self._filled_s += rank_s * balance
            self._bubble_s += rank_s * (1.0 - balance)
        else:
            self._decode_only_s += rank_s
        if now < self._window.end_s and now + duration_s > self._window.start_s:
            self.passes.append(
                ObservedPass(
                    group_id=spec.group_id,
                    started_at=now,
                    duration_s=duration_s,
                    prefill_tokens=tuple(tokens),
                    decode_tokens=tuple(load.pass_decode_tokens for load in model.loads(of_pass=True)),
                )
            )

    def balance(self) -> tuple[float, ...]:
        """Mean balance of the passes with prefill that started in each bin; NaN where there were none."""
        return tuple(
            total / number if number else float("nan")
            for total, number in zip(self._balance_sums, self._num_passes, strict=True)
        )

    def rank_time(self) -> RankTime:
        """Over the whole run."""
        total_s = self._run_s * sum(self._groups.values())
        spent_s = self._filled_s + self._bubble_s + self._decode_only_s
        return RankTime(
            filled_s=self._filled_s,
            bubble_s=self._bubble_s,
            decode_only_s=self._decode_only_s,
            idle_s=max(0.0, total_s - spent_s),
        )
