"""`hortator study paper`: the paper's table and the capacities; resumable as `study` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

from hortator.api.files import load_llmservice
from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.study_points import Figures, KnownPoints, simulate_points, write
from hortator.sim.study import paper_page, paper_points, paper_rows
from hortator.sim.study.paper_plan import SETUPS, Job, Setup, jobs
from hortator.sim.traces import read_trace
from hortator.sim.workload import TraceRequest

CLUSTERS = Path("benchmarks/sim/clusters")


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
    known = KnownPoints(Job, work=work, name=f"paper-{scale:g}")
    wanted = [job for setup in chosen for job in jobs(setup)]
    by_name = {setup.name: setup for setup in chosen}
    simulate_points(
        wanted,
        known,
        partial(_figures, setups=by_name, traces=traces, scale=scale),
        text="points and capacities",
    )
    write(
        "paper",
        known,
        out=out,
        settings={
            "scale": scale,
            "setups": {setup.name: paper_points.describe(setup) for setup in chosen},
        },
        rows=[row for setup in chosen for row in paper_rows.rows(setup, known.figures.__getitem__)],
        points=wanted,
        page=paper_page.page,
    )


def _figures(job: Job, *, setups: Mapping[str, Setup], traces: Path | None, scale: float) -> Figures:
    setup = setups[job.setup]
    service = load_llmservice(CLUSTERS / setup.cluster)
    requests = None if traces is None or not setup.workload.trace else _trace(traces / setup.workload.trace)
    return paper_points.figures_of(job, setup, service, requests, scale=scale)


@lru_cache(maxsize=1)
def _trace(path: Path) -> Sequence[TraceRequest]:
    return read_trace(path).requests
