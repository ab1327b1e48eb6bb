"""`hortator report`: policies compared as a page of pictures."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hortator.cli.bench import result
from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.simulate import load_manifest, parse_policies, read_recorded
from hortator.cli.study_pool import ctrl_c_held_back, end_with_parent
from hortator.cli.workload_options import WorkloadOptions, make_workload
from hortator.sim.report.page import Headline, figures, page
from hortator.sim.report.runs import PolicyRun, run_policy
from hortator.sim.simulate import Study

MAX_WINDOW_S = 120.0


def run(
    *,
    file: Path,
    policies: str,
    trace: Path | None,
    options: WorkloadOptions,
    loads: tuple[float, ...],
    prefill_only: bool,
    seed: int,
    window_s: float,
    out: Path,
    svg: Path | None,
) -> None:
    """Simulate every policy at every load, then write the page (and each figure, with `svg`).

    Raises:
        CommandError: a file or an option is wrong.
    """
    service = load_manifest(file)
    names = parse_policies(policies)
    if not 0 < window_s <= MAX_WINDOW_S:
        raise CommandError(f"--window: got {window_s:g} (allowed: above 0, at most {MAX_WINDOW_S:g} seconds)")
    if prefill_only and service.spec.topology != "PrefillDecode":
        raise CommandError("--prefill-only: the topology is Aggregated (allowed with PrefillDecode)")
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise CommandError(f"--out {out}: not a file that can be written")
    recorded = None if trace is None else read_recorded(service, trace, file=file, seed=seed, options=options)
    studies = []
    for load in loads:
        at_load = options.at(load)
        arrivals = at_load.checked(has_trace=trace is not None)
        requests = None if recorded is None else recorded.requests
        workload = make_workload(service, requests, at_load, arrivals=arrivals, seed=seed)
        studies.append(Study(service=service, workload=workload, seed=seed, prefill_only=prefill_only))
    runs = _simulate(studies, names, window_s=window_s)
    workload = studies[0].workload
    source = f"{workload.lengths} lengths" if recorded is None else Path(recorded.path).name
    headline = Headline(
        service=service.metadata.name,
        workload=f"{source}, {workload.arrivals.mode.value} arrivals",
        seed=seed,
        num_requests=len(workload.requests),
        virtual_minutes=workload.wall_s / 60.0,
        version=version("hortator"),
        commit=result.commit()[0],
    )
    try:
        out.write_text(page(headline, runs))
        if svg is not None:
            svg.mkdir(parents=True, exist_ok=True)
            for name, figure in figures(runs).items():
                (svg / f"{name}.svg").write_text(figure + "\n")
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from None
    stderr().print(f"{out}: {out.stat().st_size / 1024:,.0f} KiB", markup=False)


def _simulate(studies: list[Study], policies: tuple[str, ...], *, window_s: float) -> list[PolicyRun]:
    tasks = [(study, policy) for study in studies for policy in policies]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=stderr(), transient=True) as progress,
        ProcessPoolExecutor(
            min(len(tasks), len(os.sched_getaffinity(0))),
            multiprocessing.get_context("spawn"),
            end_with_parent,
        ) as pool,
    ):
        task = progress.add_task("simulating", total=len(tasks))
        with ctrl_c_held_back():  # the processes start here
            futures = [pool.submit(run_policy, study, policy, window_s=window_s) for study, policy in tasks]
        try:
            runs = []
            for future in futures:
                runs.append(future.result())
                progress.advance(task)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            if isinstance(error, ValueError):
                raise CommandError(str(error)) from None
            raise
    return runs
