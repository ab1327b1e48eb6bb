"""Which points the sensitivity study has: one thing after the other is not perfect, all else as before.

The reference is `prefill-4xEP16` with conversation lengths at load 0.7 and a chunk budget of 4,096 tokens. A
case changes one thing of it. Load keeps its meaning (a share of what the undisturbed engines can do), so a
slower engine is a busier one.

The *theory* cases show one thing alone: prompts that are all exactly one chunk budget long, so that every
pass takes about the same time T. A request given to an engine in the middle of a pass waits T/2 in the
mean; one that is held until the next of N engines is ready waits T/(2N).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hortator.api.v1alpha1 import LLMService
from hortator.sim.arrivals import RECORDED
from hortator.sim.disturbances import parse_disturbances
from hortator.sim.load import LoadedTrace
from hortator.sim.simulate import (
    Study,
    engine_seconds_for,
    generated_workload,
    simulate,
    trace_workload,
    with_entry_role,
    with_simulated,
)
from hortator.sim.study.plan import BASELINE, RIVAL
from hortator.sim.workload import Ints, generate, poisson_arrivals

LOAD = 0.7
THEORY_LOAD = 0.5
CHUNK_BUDGET = 4096
LARGE_BUDGET = 8192
NUM_GROUPS = 4
POLICIES = (RIVAL, "staggered", "staggered-plus")
ALL_POLICIES = (BASELINE, *POLICIES)
REFERENCE = "perfect"
REFERENCE_LARGE = "perfect-8192"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One cluster that is not perfect."""

    name: str
    about: str
    disturb: str = ""
    """As `hortator simulate --disturb` takes it."""
    num_groups: int = NUM_GROUPS
    chunk_budget_tokens: int = CHUNK_BUDGET
    chunked_prefill: bool = True
    expert_skew: float | None = None
    """None: the manifest's."""
    prompt_tokens: int = 0
    """Of every prompt; 0: conversation lengths."""
    policies: tuple[str, ...] = POLICIES

    @property
    def reference(self) -> str:
        """The case without what this one changes; empty: itself is one, or it is another cluster."""
        if self.name in {REFERENCE, REFERENCE_LARGE} or self.num_groups != NUM_GROUPS or self.prompt_tokens:
            return ""
        return REFERENCE if self.chunk_budget_tokens == CHUNK_BUDGET else REFERENCE_LARGE


CASES = (
    Case(name=REFERENCE, about="nothing is disturbed", policies=ALL_POLICIES),
    Case(name="engine-1.1", about="every pass takes 1.1 times as long", disturb="engine-factor=1.1"),
    Case(name="engine-1.21", about="every pass takes 1.21 times as long", disturb="engine-factor=1.21"),
    Case(
        name="latency-0.2ms",
        about="control-plane messages take 0.2 ms, half of it exponential",
        disturb="latency=0.2ms,jitter=50%",
    ),
    Case(name="latency-1ms", about="1 ms", disturb="latency=1ms,jitter=50%", policies=ALL_POLICIES),
    Case(name="latency-5ms", about="5 ms", disturb="latency=5ms,jitter=50%"),
    Case(name="latency-20ms", about="20 ms", disturb="latency=20ms,jitter=50%"),
    Case(
        name="stale-reports",
        about="workers' reports come 20 ms later than anything else",
        disturb="latency=1ms,jitter=50%,report-delay=20ms",
    ),
    Case(
        name="lost-reports",
        about="one report of a pass in twenty never comes",
        disturb="latency=1ms,jitter=50%,report-loss=5%",
    ),
    Case(
        name="wrong-lengths",
        about="announced lengths are wrong by 10 % (standard deviation)",
        disturb="length-error=10%",
    ),
    Case(
        name="deaths",
        about="an EP group dies every 5 minutes and is back after 30 s",
        disturb="latency=1ms,jitter=50%,loss-every=5m,away=30s",
    ),
    Case(name="expert-skew-2", about="the hottest expert rank gets 2.0 times the mean", expert_skew=2.0),
    Case(name="slow-rank-1.1", about="one rank of every group is 1.1 times slower", disturb="slow-rank=1.1"),
    Case(name="slow-rank-1.3", about="one rank of every group is 1.3 times slower", disturb="slow-rank=1.3"),
    Case(name="floor-0.5", about="what a pass takes whatever its size: half", disturb="floor-factor=0.5"),
    Case(name="floor-1.5", about="the same: one and a half", disturb="floor-factor=1.5"),
    Case(
        name="one-group",
        about="a single EP group: nothing to stagger; holding must cost nothing",
        num_groups=1,
        policies=ALL_POLICIES,
    ),
    Case(name=REFERENCE_LARGE, about="nothing is disturbed", chunk_budget_tokens=LARGE_BUDGET),
    Case(
        name="no-chunks",
        about="engines do not chunk prefill; longer prompts are refused",
        chunk_budget_tokens=LARGE_BUDGET,
        chunked_prefill=False,
    ),
)
THEORY = tuple(
    Case(
        name=f"theory-{num_groups}",
        about=f"{num_groups} EP groups, every prompt one chunk budget long",
        num_groups=num_groups,
        chunk_budget_tokens=LARGE_BUDGET,
        prompt_tokens=LARGE_BUDGET,
        policies=ALL_POLICIES,
    )
    for num_groups in (1, 2, 4, 8, 16)
)
BY_NAME = {case.name: case for case in (*CASES, *THEORY)}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CasePoint:
    """Everything that its figures depend on, beside the cluster."""

    case: str
    load: float
    seed: int
    policy: str

    def key(self) -> str:
        """As one text, the same in every process."""
        return "/".join(str(value) for value in asdict(self).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityPlan:
    """What is simulated."""

    seeds: tuple[int, ...] = (0, 1, 2)
    cases: tuple[Case, ...] = CASES
    theory: tuple[Case, ...] = THEORY
    loads: tuple[float, ...] = (LOAD,)
    """Of the cases; the theory has its own."""

    def rows(self) -> Iterator[tuple[Case, float]]:
        """Every case at every load, then the theory."""
        yield from ((case, load) for load in self.loads for case in self.cases)
        yield from ((case, THEORY_LOAD) for case in self.theory)

    def points(self) -> list[CasePoint]:
        """All of them."""
        return [
            point
            for case, load in self.rows()
            for policy in case.policies
            for point in self.points_of(case.name, load, policy)
        ]

    def points_of(self, case: str, load: float, policy: str) -> list[CasePoint]:
        """One point per seed."""
        return [CasePoint(case=case, load=load, seed=seed, policy=policy) for seed in self.seeds]


def service_of(case: Case, service: LLMService) -> LLMService:
    """The cluster of a case."""
    service = with_entry_role(
        service,
        replicas=case.num_groups,
        chunk_budget_tokens=case.chunk_budget_tokens,
        chunked_prefill=case.chunked_prefill,
    )
    return service if case.expert_skew is None else with_simulated(service, expert_skew=case.expert_skew)


def figures_of(point: CasePoint, service: LLMService, *, min_run_s: float) -> dict[str, Any]:
    """Simulate a point, prefill only."""
    case = BY_NAME[point.case]
    service = service_of(case, service)
    study = Study(
        service=service,
        workload=_workload_of(case, service, load=point.load, seed=point.seed, min_run_s=min_run_s),
        seed=point.seed,
        prefill_only=True,
        disturbances=parse_disturbances(case.disturb),
    )
    figures = simulate(study, point.policy)
    passes = int(str(figures["forward_passes"]))
    busy_s = float(str(figures["busy"])) * float(str(figures["virtual_s"])) * case.num_groups
    figures["pass_s"] = busy_s / max(1, passes)
    return figures


def _workload_of(case: Case, service: LLMService, *, load: float, seed: int, min_run_s: float) -> LoadedTrace:
    if not case.prompt_tokens:
        return _conversation(service.model_dump_json(), load, seed, min_run_s)
    engine_seconds = engine_seconds_for(service)(case.prompt_tokens)
    rate_per_s = load * case.num_groups / engine_seconds

    def lengths(rng: np.random.Generator, num_requests: int) -> tuple[Ints, Ints]:  # noqa: ARG001
        return np.full(num_requests, case.prompt_tokens), np.ones(num_requests, dtype=np.int64)

    requests = generate(
        lengths=lengths,
        arrivals=poisson_arrivals(rate_per_s=rate_per_s, duration_s=1.05 * min_run_s),
        seed=seed,
    )
    return trace_workload(service, requests, load=load, arrivals=RECORDED, seed=seed, min_run_s=min_run_s)


@lru_cache(maxsize=1)
def _conversation(service: str, load: float, seed: int, min_run_s: float) -> LoadedTrace:
    """Points of a case and a seed come one after the other and have the same requests."""
    return generated_workload(
        LLMService.model_validate_json(service), load=load, seed=seed, min_run_s=min_run_s
    )
