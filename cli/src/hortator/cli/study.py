"""`hortator study` (`make study`): simulate every point of the study, summarise, write JSON and a page.

Points are simulated in as many processes as there are cores, and each is kept as soon as it is there (one
line of JSON in the work folder, in a file named after the commit): a study that was interrupted goes on
where it was. From a tree with changes nothing is kept or reused.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hortator.api.files import load_llmservice
from hortator.cli.bench import result
from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.study_pool import ctrl_c_held_back, end_with_parent
from hortator.cli.workload_options import MAX_LOAD
from hortator.sim.load import LoadedTrace
from hortator.sim.study import summary
from hortator.sim.study.plan import WORKLOADS, Plan
from hortator.sim.study.points import Point, Workload, figures_of, make
from hortator.sim.study.sensitivity import CasePoint
from hortator.sim.traces import read_trace

CLUSTER = Path("benchmarks/sim/clusters/prefill-4xEP16.yaml")
JSON_NAME = "study.json"
PAGE_NAME = "study.md"
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


Figures = dict[str, Any]


def run(*, plan: Plan, out: Path, traces: Path | None, work: Path, minutes: float) -> None:
    """Simulate what is missing, then write `study.json` and `study.md` into `out`.

    Raises:
        CommandError: not in a checkout, or a folder or a load cannot be used.
    """
    check_checkout(plan.loads)
    if traces is not None and not traces.is_dir():
        raise CommandError(f"--traces {traces}: not a folder")
    revision, is_modified = result.commit()
    console = stderr()
    workloads = [w for w in WORKLOADS if not w.trace or (traces is not None and (traces / w.trace).exists())]
    for left_out in [w for w in WORKLOADS if w not in workloads]:
        console.print(
            f"left out: {left_out.name} needs {left_out.trace} in the folder of --traces", markup=False
        )
    known = KnownPoints(None if is_modified else work / f"points-{revision[:12]}-{minutes:g}min.jsonl", Point)
    figures_at = partial(_figures, traces=traces, minutes=minutes)
    cases = [case for workload in workloads for case in plan.cases(workload)]
    first = [point for case in cases for point in plan.first_points(case)]
    simulate_points(first, known, figures_at, text="every policy, every budget")
    second = [point for case in cases for point in plan.second_points(case, known.figures.__getitem__)]
    simulate_points(second, known, figures_at, text="best budgets, other seeds")
    document = {
        "study": "prefill",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": revision,
        "is_modified": is_modified,
        "machine": result.machine(),
        "settings": {
            "cluster": str(CLUSTER),
            "prefill_only": True,
            "min_run_s": 60 * minutes,
            "seeds": list(plan.seeds),
            "workloads": {workload.name: workload.describe() for workload in workloads},
        },
        "rows": [row for case in cases for row in summary.rows(plan, case, known.figures.__getitem__)],
        "points": {point.key(): known.figures[point] for point in sorted({*first, *second})},
    }
    result.write(document, out / JSON_NAME)
    (out / PAGE_NAME).write_text(summary.page(document))
    console.print(f"{out / JSON_NAME}, {out / PAGE_NAME}", markup=False)


def check_checkout(loads: Iterable[float]) -> None:
    """Raise CommandError where there is no cluster, or a load cannot be simulated."""
    for load in loads:
        if not 0 < load <= MAX_LOAD:
            raise CommandError(f"--load: got {load:g} (allowed: above 0, at most {MAX_LOAD:g})")
    if not CLUSTER.exists():
        raise CommandError(f"{CLUSTER}: not found; run this in the root of a Hortator checkout")


P = TypeVar("P", Point, CasePoint)
"""A point of one of the studies."""


class KnownPoints(Generic[P]):
    """Figures by point, kept in a file."""

    def __init__(self, path: Path | None, kind: Callable[..., P]) -> None:
        self.figures: dict[P, Figures] = {}
        self._path = path
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text().splitlines():
                kept = json.loads(line)
                self.figures[kind(**kept["point"])] = kept["figures"]

    def add(self, point: P, figures: Figures) -> None:
        """Keep them."""
        self.figures[point] = figures
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"point": asdict(point), "figures": figures}) + "\n")


def simulate_points(
    points: Iterable[P], known: KnownPoints[P], figures_at: Callable[[P], Figures], *, text: str
) -> None:
    """Simulate those that are not known, in processes; `figures_at` is a module's function, or a partial."""
    missing = sorted(point for point in points if point not in known.figures)
    if not missing:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=stderr()) as progress,
        ProcessPoolExecutor(
            min(len(missing), len(os.sched_getaffinity(0))),
            multiprocessing.get_context("spawn"),
            end_with_parent,
        ) as pool,
    ):
        task = progress.add_task(text, total=len(missing))
        with ctrl_c_held_back():  # the processes start here
            futures = {pool.submit(figures_at, point): point for point in missing}
        try:
            for future in as_completed(futures):
                known.add(futures[future], future.result())
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


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
