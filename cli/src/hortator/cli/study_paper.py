"""`hortator study paper`: the paper's table and the capacities, written as `paper.json` and `paper.md`.

As in `hortator study`, jobs run in as many processes as there are cores, each is kept as soon as it is there
(a line of JSON in a file named after the commit), and from a tree with changes nothing is kept or reused.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hortator.api.files import load_llmservice
from hortator.cli.bench import result
from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.study_pool import ctrl_c_held_back, end_with_parent
from hortator.sim.study import paper_page, paper_points, paper_rows
from hortator.sim.study.paper_plan import SETUPS, Job, Setup, jobs
from hortator.sim.traces import read_trace
from hortator.sim.workload import TraceRequest

CLUSTERS = Path("benchmarks/sim/clusters")
JSON_NAME = "paper.json"
PAGE_NAME = "paper.md"

Figures = Mapping[str, Any]


def run(
    *,
    out: Path,
    traces: Path | None,
    work: Path,
    scale: float = 1.0,
    only: Sequence[str] = (),
    setups: Sequence[Setup] = SETUPS,
) -> None:
    """Simulate what is missing, then write `paper.json` and `paper.md` into `out`.

    Args:
        out: where the results go.
        traces: folder with the public traces; None leaves out the setups that need one.
        work: where finished jobs are kept.
        scale: of all run times; under 1 is for a first look.
        only: names of setups; none: all.
        setups: what there is to choose from.

    Raises:
        CommandError: not in a checkout, an unknown setup, or a folder that cannot be used.
    """
    names = [setup.name for setup in setups]
    for name in only:
        if name not in names:
            raise CommandError(f"--only: got {name!r} (allowed: {', '.join(names)})")
    if not CLUSTERS.is_dir():
        raise CommandError(f"{CLUSTERS}: not found; run this in the root of a Hortator checkout")
    if traces is not None and not traces.is_dir():
        raise CommandError(f"--traces {traces}: not a folder")
    revision, is_modified = result.commit()
    console = stderr()
    chosen = []
    for setup in setups:
        if only and setup.name not in only:
            continue
        trace = setup.workload.trace
        if trace and (traces is None or not (traces / trace).exists()):
            console.print(f"left out: {setup.name} needs {trace} in the folder of --traces", markup=False)
        else:
            chosen.append(setup)
    kept = None if is_modified else work / f"paper-{revision[:12]}-{scale:g}.jsonl"
    known = _read(kept)
    wanted = [job for setup in chosen for job in jobs(setup)]
    _simulate([job for job in wanted if job not in known], chosen, known, kept, traces=traces, scale=scale)
    document = {
        "study": "paper",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": revision,
        "is_modified": is_modified,
        "machine": result.machine(),
        "settings": {
            "scale": scale,
            "setups": {setup.name: paper_points.describe(setup) for setup in chosen},
        },
        "rows": [row for setup in chosen for row in paper_rows.rows(setup, known.__getitem__)],
        "jobs": {job.key(): known[job] for job in sorted(wanted)},
    }
    result.write(document, out / JSON_NAME)
    (out / PAGE_NAME).write_text(paper_page.page(document))
    console.print(f"{out / JSON_NAME}, {out / PAGE_NAME}", markup=False)


def _read(kept: Path | None) -> dict[Job, Figures]:
    if kept is None or not kept.exists():
        return {}
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    return {Job(**line["job"]): line["figures"] for line in lines}


def _simulate(
    missing: Sequence[Job],
    setups: Sequence[Setup],
    known: dict[Job, Figures],
    kept: Path | None,
    *,
    traces: Path | None,
    scale: float,
) -> None:
    if not missing:
        return
    by_name = {setup.name: setup for setup in setups}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=stderr()) as progress,
        ProcessPoolExecutor(
            min(len(missing), len(os.sched_getaffinity(0))),
            multiprocessing.get_context("spawn"),
            end_with_parent,
        ) as pool,
    ):
        task = progress.add_task("points and capacities", total=len(missing))
        with ctrl_c_held_back():  # the processes start here
            futures = {pool.submit(_figures, job, by_name[job.setup], traces, scale): job for job in missing}
        try:
            for future in as_completed(futures):
                _keep(futures[future], future.result(), known, kept)
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _keep(job: Job, figures: Figures, known: dict[Job, Figures], kept: Path | None) -> None:
    known[job] = figures
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.open("a") as file:
            file.write(json.dumps({"job": asdict(job), "figures": figures}) + "\n")


def _figures(job: Job, setup: Setup, traces: Path | None, scale: float) -> Figures:
    service = load_llmservice(CLUSTERS / setup.cluster)
    requests = None if traces is None or not setup.workload.trace else _trace(traces / setup.workload.trace)
    return paper_points.figures_of(job, setup, service, requests, scale=scale)


@lru_cache(maxsize=1)
def _trace(path: Path) -> Sequence[TraceRequest]:
    return read_trace(path).requests
