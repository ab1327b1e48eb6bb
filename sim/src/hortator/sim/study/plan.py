"""Which points a study has.

Every policy runs at the common chunk budget with every seed, and at its own best one: all budgets are tried
with the first seed, and the one with the least mean TTFT (of the stable ones) runs with the others too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hortator.sim.arrivals import POISSON, RECORDED
from hortator.sim.study.points import LOWER_BOUND, Point, Workload

BASELINE = "immediate-least-tokens"
RIVAL = "immediate-least-delay"
POLICIES = (BASELINE, RIVAL, "staggered", "staggered-plus")
COMMON_BUDGET = 8192
BUDGETS = (1024, 2048, 4096, 8192)
SEEDS = (0, 1, 2, 3, 4)
WORKLOADS = (
    Workload(name="conversation", lengths="conversation", arrivals=POISSON),
    Workload(name="code", trace="azure2023_code.csv", arrivals=RECORDED),
)
LOADS = {"conversation": (0.5, 0.7, 0.85, 0.95), "code": (0.5, 0.7, 0.85)}
"""By workload."""

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload at a load: what policies are compared on."""

    workload: str
    load: float


def cases(workload: Workload) -> Iterator[Case]:
    """The cases of a workload."""
    return (Case(workload=workload.name, load=load) for load in LOADS[workload.name])


def first_points(case: Case) -> list[Point]:
    """Every policy at the common budget with every seed, and at every budget with the first; the bound."""
    budgets = [(seed, COMMON_BUDGET) for seed in SEEDS]
    budgets += [(SEEDS[0], budget) for budget in BUDGETS if budget != COMMON_BUDGET]
    return [
        *(_point(case, LOWER_BOUND, seed, COMMON_BUDGET) for seed in SEEDS),
        *(_point(case, policy, seed, budget) for policy in POLICIES for seed, budget in budgets),
    ]


def second_points(case: Case, found: Callable[[Point], Figures]) -> list[Point]:
    """Every policy at its best budget with the other seeds."""
    points = []
    for policy in POLICIES:
        budget = best_budget(case, policy, found)
        if budget != COMMON_BUDGET:
            points += [_point(case, policy, seed, budget) for seed in SEEDS[1:]]
    return points


def best_budget(case: Case, policy: str, found: Callable[[Point], Figures]) -> int:
    """The budget of the least mean TTFT with the first seed; an unstable one only if all are."""

    def rank(budget: int) -> tuple[bool, float]:
        figures = found(_point(case, policy, SEEDS[0], budget))
        return not figures["stable"], figures["ttft_s"]["mean"]

    return min(BUDGETS, key=rank)


def points_of(case: Case, policy: str, budget: int) -> list[Point]:
    """One point per seed."""
    return [_point(case, policy, seed, budget) for seed in SEEDS]


def _point(case: Case, policy: str, seed: int, budget: int) -> Point:
    return Point(workload=case.workload, load=case.load, seed=seed, policy=policy, chunk_budget_tokens=budget)
