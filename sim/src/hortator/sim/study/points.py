"""One simulated point of a study, and how its figures are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hortator.api.v1alpha1 import LLMService
from hortator.sim.arrivals import Arrivals
from hortator.sim.load import LoadedTrace
from hortator.sim.simulate import (
    Study,
    generated_workload,
    simulate,
    trace_workload,
    ttft_lower_bound,
    with_entry_role,
)
from hortator.sim.workload import TraceRequest

LOWER_BOUND = "lower-bound"
"""In place of a policy: what no policy can beat."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Point:
    """Everything that its figures depend on, beside cluster and traces."""

    workload: str
    """Name of a `Workload`."""
    load: float
    seed: int
    policy: str
    chunk_budget_tokens: int

    def key(self) -> str:
        """As one text, the same in every process."""
        return "/".join(str(value) for value in asdict(self).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Where the requests of a point come from: a trace, or generated lengths."""

    name: str
    arrivals: Arrivals
    lengths: str = ""
    """Name of generated lengths; empty: a trace."""
    trace: str = ""
    """File name of the trace."""
    loads: tuple[float, ...] = ()
    """Where it is simulated; empty: at those of the plan."""

    def describe(self) -> str:
        """For people."""
        source = f"{self.lengths} lengths (generated)" if self.lengths else self.trace
        return f"{source}, {self.arrivals.mode.value} arrivals"


def make(
    workload: Workload,
    service: LLMService,
    requests: Sequence[TraceRequest] | None,
    *,
    load: float,
    seed: int,
    min_run_s: float,
) -> LoadedTrace:
    """The requests of a point, from those of its trace (None: generated); for every policy and budget."""
    if requests is None:
        return generated_workload(
            service,
            load=load,
            lengths=workload.lengths,
            arrivals=workload.arrivals,
            seed=seed,
            min_run_s=min_run_s,
        )
    return trace_workload(
        service,
        requests,
        load=load,
        arrivals=workload.arrivals,
        seed=seed,
        min_run_s=min_run_s,
    )


def figures_of(point: Point, service: LLMService, workload: LoadedTrace) -> dict[str, Any]:
    """Simulate a prefill-only point; of the lower bound, only `ttft_s.mean`."""
    study = Study(
        service=with_entry_role(service, chunk_budget_tokens=point.chunk_budget_tokens),
        workload=workload,
        seed=point.seed,
        prefill_only=True,
    )
    if point.policy != LOWER_BOUND:
        return simulate(study, point.policy)
    bound = ttft_lower_bound(study)
    return {} if bound is None else {"ttft_s": {"mean": bound.mean_s}}
