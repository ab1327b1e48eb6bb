"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hortator.sim.timeline import ObservedPass, RankTime, Window

QUANTILES: tuple[float, ...] = (*np.linspace(0.0, 99.0, 199).tolist(), *np.linspace(99.1, 100.0, 10).tolist())
"""Percent; at which TTFT is kept."""
BINS_PER_DECADE = 24
TTFT_EDGES: tuple[float, ...] = tuple(np.logspace(-4.0, 4.0, 8 * BINS_PER_DECADE + 1).tolist())
"""Seconds; of the histogram, the same for every run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Mean seconds that requests spent on the way to their first token."""

    hold_s: float = 0.0
    """Arrival to dispatch."""
    queue_s: float = 0.0
    """Dispatch to the first pass that runs some of the prompt."""
    running_s: float = 0.0
    """From there to the first token."""

    @property
    def total_s(self) -> float:
        """The mean TTFT."""
        return self.hold_s + self.queue_s + self.running_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRun:
    """One policy over the workload: its figures and what was watched."""

    policy: str
    figures: Mapping[str, Any]
    """See `results`."""
    window: Window
    groups: Mapping[str, int]
    """Ranks of every group that takes arrivals, by id."""
    chunk_budget_tokens: int
    """Of a rank and pass."""
    passes: Sequence[ObservedPass]
    """Those that touch the window."""
    rank_time: RankTime
    balance: Sequence[float]
    """Mean per bin of the run; NaN without passes."""
    waiting: Sequence[float]
    """Requests held by the scheduler, mean per bin of the run."""
    queued: Sequence[float]
    """Requests in engines' queues, mean per bin of the run."""
    ttft_quantiles: Sequence[float]
    """Seconds at QUANTILES; empty when no request has ended."""
    ttft_counts: Sequence[int]
    """Requests between TTFT_EDGES."""
    waits: Waits
    slowest_waits: Waits
    """Of the slowest hundredth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """All policies at one load."""

    load: float
    figures: Mapping[str, Mapping[str, Any]]
    """By policy."""
    bound_s: float | None = None
    """The mean TTFT that no scheduler can go below, where one is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """EP groups of one kind."""

    name: str
    num_groups: int
    ranks_per_group: int
    chunk_budget_tokens: int
    """0: takes no prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page."""

    service: str
    roles: Sequence[Role]
    prefill_only: bool
    workload: str
    """Where requests come from, in words."""
    num_requests: int
    run_s: float
    seed: int
    runs: Sequence[PolicyRun]
    """At the first load."""
    sweep: Sequence[SweepPoint]
    """In the order asked for; the first is that of the runs."""
    command: str
    """That makes the same page."""
    version: str
    commit: str
    is_modified: bool

    @property
    def load(self) -> float:
        """Of the runs."""
        return self.sweep[0].load

    @property
    def policies(self) -> tuple[str, ...]:
        """In the order asked for."""
        return tuple(run.policy for run in self.runs)

    @property
    def best(self) -> PolicyRun | None:
        """Lowest mean TTFT, of those that keep up if any does; None when no request has ended."""
        ended = [run for run in self.runs if run.figures["completed"]]
        keeping_up = [run for run in ended if run.figures["stable"] and not run.figures["rejected"]]
        return min(keeping_up or ended, key=lambda run: run.figures["ttft_s"]["mean"], default=None)
