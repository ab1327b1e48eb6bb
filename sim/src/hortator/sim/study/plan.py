"""Which points a study has.

Every policy runs at the common chunk budget with every seed, and at its own best one: all budgets are tried
with the first seed, and the one with the least mean TTFT (of the stable ones) runs with the others too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hortator.sim.arrivals import POISSON, RECORDED, ArrivalMode
from hortator.sim.study.points import LOWER_BOUND, Point, Workload

BASELINE = "immediate-least-tokens"
RIVAL = "immediate-least-delay"
COMMON_BUDGET = 8192
MAX_TRACE_LOAD = 0.85
LOADS = (0.5, 0.7, 0.85, 0.95)
WORKLOADS = (
    Workload(name="conversation", lengths="conversation", arrivals=POISSON),
    Workload(name="code", trace="azure2023_code.csv", arrivals=RECORDED),
    Workload(name="long-context", trace="mooncake_conversation.jsonl", arrivals=POISSON, loads=(0.4, 0.5)),
)

Figures = Mapping[str, Any]
Found = Callable[[Point], Figures]
"""The figures of a point that was simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload at a load: what policies are compared on."""

    workload: str
    load: float
    is_recorded: bool = False
    """Lengths and times are a trace's: there is nothing to draw, one seed is all there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared, and over what. BASELINE and RIVAL are always among the policies."""

    policies: tuple[str, ...] = (BASELINE, RIVAL, "staggered", "staggered-plus")
    budgets: tuple[int, ...] = (1024, 2048, 4096, COMMON_BUDGET)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    loads: tuple[float, ...] = LOADS
    """Of workloads that have none of their own; any other than LOADS: of all."""

    def cases(self, workload: Workload) -> Iterator[Case]:
        """The cases of a workload; recorded arrivals have bursts enough below the highest loads."""
        is_recorded = workload.arrivals.mode is ArrivalMode.RECORDED
        loads = workload.loads if workload.loads and self.loads == LOADS else self.loads
        return (
            Case(workload=workload.name, load=load, is_recorded=is_recorded)
            for load in loads
            if load <= MAX_TRACE_LOAD or not is_recorded
        )

    def seeds_of(self, case: Case) -> tuple[int, ...]:
        """Those that make a difference."""
        return self.seeds[:1] if case.is_recorded else self.seeds

    def first_points(self, case: Case) -> list[Point]:
        """The bound and every policy at the common budget, and every budget with the first seed."""
        budgets = [(seed, COMMON_BUDGET) for seed in self.seeds_of(case)]
        budgets += [(self.seeds[0], budget) for budget in self.budgets if budget != COMMON_BUDGET]
        return [
            *self.points_of(case, LOWER_BOUND, COMMON_BUDGET),
            *(_point(case, policy, seed, budget) for policy in self.policies for seed, budget in budgets),
        ]

    def second_points(self, case: Case, found: Found) -> list[Point]:
        """Every policy at its best budget with the other seeds."""
        points = []
        for policy in self.policies:
            budget = self.best_budget(case, policy, found)
            if budget != COMMON_BUDGET:
                points += self.points_of(case, policy, budget)[1:]
        return points

    def best_budget(self, case: Case, policy: str, found: Found) -> int:
        """The budget of the least mean TTFT with the first seed; an unstable one only if all are."""

        def rank(budget: int) -> tuple[bool, float]:
            figures = found(_point(case, policy, self.seeds[0], budget))
            return not figures["stable"], figures["ttft_s"]["mean"]

        return min(self.budgets, key=rank)

    def points_of(self, case: Case, policy: str, budget: int) -> list[Point]:
        """One point per seed."""
        return [_point(case, policy, seed, budget) for seed in self.seeds_of(case)]


def _point(case: Case, policy: str, seed: int, budget: int) -> Point:
    return Point(workload=case.workload, load=case.load, seed=seed, policy=policy, chunk_budget_tokens=budget)
