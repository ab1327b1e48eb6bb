"""`hortator study` (`make study`): simulate every point of the study, summarise, write JSON and a page.

It goes on where it was interrupted (see `study_points`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path

from hortator.api.files import load_llmservice
from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.study_points import Figures, KnownPoints, simulate_points, write
from hortator.cli.workload_options import MAX_LOAD
from hortator.sim.load import LoadedTrace
from hortator.sim.study import summary
from hortator.sim.study.plan import WORKLOADS, Plan
from hortator.sim.study.points import Point, Workload, figures_of, make
from hortator.sim.traces import read_trace

CLUSTER = Path("benchmarks/sim/clusters/prefill-4xEP16.yaml")
KEPT = (
    "requests",
    "completed",
    "rejected",
    "stable",
    "ttft_s",
    "hold_s",
    "engine_queue_s",
    "engine_queue_depth",
    "chunk_utilization",
    "balance_ratio",
    "bubble_ratio",
    "busy",
    "prefill_tokens_per_s",
    "virtual_s",
)
"""Of the figures of a point."""


def run(*, plan: Plan, out: Path, traces: Path | None, work: Path, minutes: float) -> None:
    """Simulate what is missing, then write `study.json` and `study.md` into `out`.

    Raises:
        CommandError: not in a checkout, or a folder or a load cannot be used.
    """
    check_checkout(plan.loads)
    if traces is not None and not traces.is_dir():
        raise CommandError(f"--traces {traces}: not a folder")
    console = stderr()
    workloads = [w for w in WORKLOADS if not w.trace or (traces is not None and (traces / w.trace).exists())]
    for left_out in [w for w in WORKLOADS if w not in workloads]:
        console.print(
            f"left out: {left_out.name} needs {left_out.trace} in the folder of --traces", markup=False
        )
    known = KnownPoints(Point, work=work, name=f"points-{minutes:g}min")
    figures_at = partial(_figures, traces=traces, minutes=minutes)
    cases = [case for workload in workloads for case in plan.cases(workload)]
    first = [point for case in cases for point in plan.first_points(case)]
    simulate_points(first, known, figures_at, text="every policy, every budget")
    second = [point for case in cases for point in plan.second_points(case, known.figures.__getitem__)]
    simulate_points(second, known, figures_at, text="best budgets, other seeds")
    write(
        "prefill",
        known,
        out=out,
        settings={
            "cluster": str(CLUSTER),
            "prefill_only": True,
            "min_run_s": 60 * minutes,
            "seeds": list(plan.seeds),
            "workloads": {workload.name: workload.describe() for workload in workloads},
        },
        rows=[row for case in cases for row in summary.rows(plan, case, known.figures.__getitem__)],
        points={*first, *second},
        page=summary.page,
        file_name="study",
    )


def check_checkout(loads: Iterable[float]) -> None:
    """Raise CommandError where there is no cluster, or a load cannot be simulated."""
    for load in loads:
        if not 0 < load <= MAX_LOAD:
            raise CommandError(f"--load: got {load:g} (allowed: above 0, at most {MAX_LOAD:g})")
    if not CLUSTER.exists():
        raise CommandError(f"{CLUSTER}: not found; run this in the root of a Hortator checkout")


def _figures(point: Point, *, traces: Path | None, minutes: float) -> Figures:
    workload = next(w for w in WORKLOADS if w.name == point.workload)
    figures = figures_of(
        point,
        load_llmservice(CLUSTER),
        _workload(workload, point.load, point.seed, traces, minutes),
    )
    return {name: figures[name] for name in KEPT if name in figures}


@lru_cache(maxsize=1)
def _workload(workload: Workload, load: float, seed: int, traces: Path | None, minutes: float) -> LoadedTrace:
    """Points come in order of workload, load and seed, so the last one is often the next."""
    requests = None if traces is None or not workload.trace else read_trace(traces / workload.trace).requests
    service = load_llmservice(CLUSTER)
    return make(workload, service, requests, load=load, seed=seed, min_run_s=60 * minutes)
