"""Arrivals: when a known number of requests arrive within a known time, so that load and mean rate are exact.

Every process here is the usual one *given its count*: n requests in [0, wall). So a burst or a peak moves
requests in time and never changes how many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

import numpy as np

from hortator.sim.workload import Floats

MIN_CV, MAX_CV = 0.01, 10.0
MAX_PEAK_TO_MEAN = 2.0
"""A rate that swings as a sine is zero in its trough then."""
_GRID = np.linspace(0.0, 1.0, 4097)
"""Shares of a period at which the profile is inverted."""
_SLACK = 1e-9


class ArrivalMode(StrEnum):
    """Whose arrival times a workload has."""

    RECORDED = "recorded"
    """The trace's own, stretched: bursts stay bursts."""
    POISSON = "poisson"
    """Independent of each other."""
    GAMMA = "gamma"
    """Gaps of a gamma distribution: bursts without a trace."""
    DIURNAL = "diurnal"
    """Poisson at a rate that swings as a sine: a day, starting at the mean and rising."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """A mode and its parameters; those of other modes are ignored.

    Raises:
        ValueError: a parameter out of range; the message begins with its name.
    """

    mode: ArrivalMode
    cv: float = 2.0
    """Of GAMMA: standard deviation of the gaps over their mean; 1 is Poisson, above are bursts."""
    peak_to_mean: float = 1.6
    """Of DIURNAL: highest rate over mean rate."""
    period_s: float = 86_400.0
    """Of DIURNAL: one swing, virtual seconds."""

    def __post_init__(self) -> None:
        if not MIN_CV <= self.cv <= MAX_CV:
            raise ValueError(f"cv: got {self.cv:g} (allowed: {MIN_CV:g} to {MAX_CV:g})")
        if not 1.0 <= self.peak_to_mean <= MAX_PEAK_TO_MEAN:
            raise ValueError(f"peak_to_mean: got {self.peak_to_mean:g} (allowed: 1 to {MAX_PEAK_TO_MEAN:g})")
        if not (math.isfinite(self.period_s) and self.period_s > 0):
            raise ValueError(f"period_s: got {self.period_s:g} (allowed: above 0, finite)")

    def parameters(self) -> dict[str, float]:
        """The parameters that the mode has, by name."""
        match self.mode:
            case ArrivalMode.RECORDED | ArrivalMode.POISSON:
                return {}
            case ArrivalMode.GAMMA:
                return {"cv": self.cv}
            case ArrivalMode.DIURNAL:
                return {"peak_to_mean": self.peak_to_mean, "period_s": self.period_s}
            case _:
                assert_never(self.mode)

    def shortest_run_s(self, min_run_s: float) -> float:
        """The shortest run of at least `min_run_s` virtual seconds; of DIURNAL, one of whole periods.

        Raises:
            ValueError: DIURNAL, and `min_run_s` is less than one period.
        """
        if self.mode is not ArrivalMode.DIURNAL:
            return min_run_s
        num_periods = min_run_s / self.period_s
        if num_periods < 1.0 - _SLACK:
            raise ValueError(
                f"min_run_s: got {min_run_s:g} (allowed with diurnal arrivals: at least one period_s, "
                f"{self.period_s:g})"
            )
        return math.ceil(num_periods * (1.0 - _SLACK)) * self.period_s

    def fitted_to(self, wall_s: float) -> Arrivals:
        """The same, with the period of DIURNAL changed so that whole periods make up `wall_s` seconds."""
        if self.mode is not ArrivalMode.DIURNAL:
            return self
        return replace(self, period_s=wall_s / max(1, round(wall_s / self.period_s)))


RECORDED = Arrivals(mode=ArrivalMode.RECORDED)
POISSON = Arrivals(mode=ArrivalMode.POISSON)


def draw_times(arrivals: Arrivals, rng: np.random.Generator, *, num_requests: int, wall_s: float) -> Floats:
    """Exactly `num_requests` (1 or more) ascending times in [0, `wall_s`), seconds; a seed decides all.

    Raises:
        ValueError: RECORDED, of which nothing is drawn.
    """
    match arrivals.mode:
        case ArrivalMode.RECORDED:
            raise ValueError("recorded times are not drawn (allowed: poisson, gamma, diurnal)")
        case ArrivalMode.POISSON:
            # A Poisson process, given how many arrive, is that many independent uniform times.
            times = np.sort(rng.uniform(0.0, wall_s, size=num_requests))
        case ArrivalMode.GAMMA:
            times = _gamma_shares(rng, num_requests, cv=arrivals.cv) * wall_s
        case ArrivalMode.DIURNAL:
            times = _diurnal_periods(rng, num_requests, arrivals, wall_s=wall_s) * arrivals.period_s
        case _:
            assert_never(arrivals.mode)
    before_the_end: Floats = np.minimum(times, np.nextafter(wall_s, 0.0))
    return before_the_end


def _gamma_shares(rng: np.random.Generator, num_requests: int, *, cv: float) -> Floats:
    """Times as shares of the wall: the first at 0, the last gap ends with the wall."""
    # Short gaps of a large cv are below what a float can hold; not all may be zero.
    gaps = np.maximum(rng.gamma(1.0 / cv**2, size=num_requests), np.finfo(np.float64).tiny)
    ends = np.cumsum(gaps)
    shares: Floats = np.concatenate(([0.0], ends[:-1])) / ends[-1]
    return shares


def _diurnal_periods(
    rng: np.random.Generator, num_requests: int, arrivals: Arrivals, *, wall_s: float
) -> Floats:
    """Times in periods since the start: which period is uniform, where in it follows the profile."""
    drawn = np.sort(rng.uniform(0.0, wall_s / arrivals.period_s, size=num_requests))
    whole = np.floor(drawn)
    swing = (arrivals.peak_to_mean - 1.0) / (2.0 * math.pi)
    share_until = _GRID + swing * (1.0 - np.cos(2.0 * math.pi * _GRID))
    times: Floats = whole + np.interp(drawn - whole, share_until, _GRID)
    return times
