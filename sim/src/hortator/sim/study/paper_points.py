"""What a job of the paper's table simulates, and which of its figures are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from hortator.api.v1alpha1 import LLMService
from hortator.sim.arrivals import POISSON, ArrivalMode
from hortator.sim.disturbances import parse_disturbances
from hortator.sim.load import LoadedTrace
from hortator.sim.simulate import Study, simulate, with_entry_role
from hortator.sim.study.capacity import search
from hortator.sim.study.paper_plan import ENGINES, SEARCH, Job, Setup
from hortator.sim.study.points import Workload, make
from hortator.sim.workload import TraceRequest

KEPT = (
    "requests",
    "rejected",
    "stable",
    "ttft_s",
    "first_gap_s",
    "itl_s",
    "tpot_s",
    "e2e_s",
    "hold_s",
    "engine_queue_s",
    "engine_queue_depth",
    "chunk_utilization",
    "balance_ratio",
    "busy",
    "prefill_tokens_per_s",
    "output_tokens_per_s",
    "virtual_s",
)
MIN_RUN_S = 5.0
"""No run is made shorter, however little time there is."""


def figures_of(
    job: Job,
    setup: Setup,
    service: LLMService,
    requests: Sequence[TraceRequest] | None,
    *,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Simulate a job; `requests` are those of the setup's trace, None: generated; `scale`: of all run times.

    Of a search: `load` (None: not even the lowest of the grid keeps the limits), `is_at_top`, `tried`, and
    the kept figures at that load.
    """
    service = with_entry_role(service, chunk_budget_tokens=job.chunk_budget_tokens)
    policy, _, engine = job.policy.partition("+")

    def run(workload: Workload, load: float, run_s: float) -> dict[str, Any]:
        study = Study(
            service=service,
            workload=_within(
                make(workload, service, requests, load=load, seed=job.seed, min_run_s=run_s), run_s
            ),
            seed=job.seed,
            prefill_only=setup.prefill_only,
            disturbances=parse_disturbances(ENGINES[engine]),
        )
        figures = simulate(study, policy)
        kept = {name: figures[name] for name in KEPT}
        kept["offered_rps"] = len(study.workload.requests) / study.workload.wall_s
        kept["offered_output_tokens_per_s"] = (
            sum(request.num_output_tokens for request in study.workload.requests) / study.workload.wall_s
        )
        kept["offered_prompt_tokens_per_s"] = (
            sum(request.num_prompt_tokens for request in study.workload.requests) / study.workload.wall_s
        )
        return kept

    if job.kind != SEARCH:
        return run(_scaled(setup.workload, scale), setup.load, max(MIN_RUN_S, scale * setup.run_s))
    if setup.search is None:
        raise ValueError(f"setup {setup.name!r} has no search")
    how = setup.search
    steady = setup.workload if setup.workload.trace else replace(setup.workload, arrivals=POISSON)
    found = search(how.grid, how.limits, lambda load: run(steady, load, max(MIN_RUN_S, scale * how.run_s)))
    tried = {f"{load:g}": is_kept for load, is_kept in sorted(found.tried.items())}
    return {**(found.figures or {}), "load": found.load, "is_at_top": found.is_at_top, "tried": tried}


def _scaled(workload: Workload, scale: float) -> Workload:
    """Days become shorter with the run, so that it is still whole ones."""
    arrivals = workload.arrivals
    if arrivals.mode is not ArrivalMode.DIURNAL:
        return workload
    period_s = max(MIN_RUN_S, scale * arrivals.period_s)
    return replace(workload, arrivals=replace(arrivals, period_s=period_s))


def _within(workload: LoadedTrace, run_s: float) -> LoadedTrace:
    """A trace that is longer than the run is cut at its end: its first part, at that part's own rate."""
    if workload.lengths is not None or workload.wall_s <= run_s:
        return workload
    requests = tuple(request for request in workload.requests if request.arrived_at < run_s)
    return replace(workload, requests=requests, wall_s=run_s)


def describe(setup: Setup) -> dict[str, Any]:
    """The setup as plain values, for the results file."""
    plain: dict[str, Any] = {
        "about": setup.about,
        "cluster": setup.cluster,
        "workload": setup.workload.describe(),
        "arrivals": setup.workload.arrivals.parameters(),
        "prefill_only": setup.prefill_only,
        "load": setup.load,
        "run_s": setup.run_s,
        "seeds": list(setup.seeds),
    }
    if setup.search is not None:
        plain["search"] = {
            "limits": setup.search.limits.describe(),
            "grid": asdict(setup.search.grid),
            "run_s": setup.search.run_s,
            "seeds": list(setup.search.seeds),
        }
    return plain
