"""`hortator report`: policies simulated on the same requests, as one page to look at.

What is drawn and how is in `hortator.sim.report`; here are options, processes and files.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hortator.api.duration import format_duration, parse_duration
from hortator.api.v1alpha1 import LLMService
from hortator.cli.bench import result
from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.simulate import (
    check_prefill_only,
    left_out,
    load_manifest,
    parse_policies,
    progress_bar,
    read_recorded,
)
from hortator.cli.study_pool import T, Task, run_all, simulate_one
from hortator.cli.workload_options import MAX_LOAD, WorkloadOptions, make_workload
from hortator.sim.arrivals import ArrivalMode
from hortator.sim.load import LoadedTrace
from hortator.sim.report.collect import watch
from hortator.sim.report.data import PolicyRun, Report, Role, SweepPoint
from hortator.sim.report.figure import standalone
from hortator.sim.report.page import figures, headline, page
from hortator.sim.report.words import NBSP
from hortator.sim.simulate import Study, ttft_lower_bound
from hortator.sim.traces import Trace

MAX_LOADS = 20
MIN_WINDOW_S, MAX_WINDOW_S = 0.1, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """As given on the command line."""

    file: Path
    policies: str
    loads: str
    trace: Path | None = None
    workload: WorkloadOptions
    """Its load is not used."""
    window: str
    prefill_only: bool = False
    seed: int = 0
    out: Path
    svg: Path | None = None


def run(options: ReportOptions) -> None:
    """Simulate every policy at every load, write the page and, where asked for, every figure as a file.

    Raises:
        CommandError: a file or an option is wrong.
    """
    service = load_manifest(options.file)
    policies = parse_policies(options.policies)
    loads = parse_loads(options.loads)
    window_s = _window_s(options.window)
    each = [options.workload.at(load) for load in loads]
    arrivals = [one.checked(has_trace=options.trace is not None) for one in each]
    check_prefill_only(service, prefill_only=options.prefill_only)
    _check_places(options)
    trace = None
    if options.trace is not None:
        trace = read_recorded(
            service, options.trace, file=options.file, seed=options.seed, options=options.workload
        )
    requests = None if trace is None else trace.requests
    studies = [
        Study(
            service=service,
            workload=make_workload(service, requests, one, arrivals=mode, seed=options.seed),
            seed=options.seed,
            prefill_only=options.prefill_only,
        )
        for one, mode in zip(each, arrivals, strict=True)
    ]
    console = stderr()
    for study in studies:
        console.print(
            f"{service.metadata.name}: {len(study.workload.requests)} requests over "
            f"{study.workload.wall_s / 60:.1f} virtual minutes at load {study.workload.load:g}"
        )
    if trace is not None and (said := left_out(trace)):
        console.print(f"{trace.path}: {said}", markup=False)
    with progress_bar(len(policies) * len(loads), "runs", console) as advance:
        runs, others = _simulate(studies, policies, window_s=window_s, advance=advance)
    report = _report(options, studies, tuple(runs.values()), others, trace=trace)
    _write(report, options)
    print(headline(report).replace(NBSP, " "))


def parse_loads(text: str) -> tuple[float, ...]:
    """From `0.7` or `0.7,0.85`; the first is the one that is shown in full."""
    allowed = f"allowed: above 0, at most {MAX_LOAD:g}; several with commas between them, at most {MAX_LOADS}"
    loads = []
    for part in text.split(","):
        try:
            load = float(part)
        except ValueError:
            raise CommandError(f"--load: got {part.strip()!r} ({allowed})") from None
        if not 0 < load <= MAX_LOAD:
            raise CommandError(f"--load: got {load:g} ({allowed})")
        loads.append(load)
    if len(set(loads)) > MAX_LOADS:
        raise CommandError(f"--load: got {len(set(loads))} loads ({allowed})")
    return tuple(dict.fromkeys(loads))


def _window_s(text: str) -> float:
    try:
        window_s = parse_duration(text)
    except ValueError as error:
        raise CommandError(f"--window: {error}") from None
    if not MIN_WINDOW_S <= window_s <= MAX_WINDOW_S:
        raise CommandError(
            f"--window: got {text} "
            f"(allowed: {format_duration(MIN_WINDOW_S)} to {format_duration(MAX_WINDOW_S)})"
        )
    return window_s


def _check_places(options: ReportOptions) -> None:
    """A run of minutes must not end in a file that cannot be written."""
    out = options.out
    if out.is_dir() or not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        raise CommandError(
            f"--out {out}: not a file that can be written (allowed: a file in a folder that is there)"
        )
    if options.svg is None:
        return
    try:
        options.svg.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--svg {options.svg}: {error.strerror} (allowed: a folder)") from None
    if not os.access(options.svg, os.W_OK):
        raise CommandError(f"--svg {options.svg}: cannot be written (allowed: a folder)")


def _simulate(
    studies: Sequence[Study], policies: Sequence[str], *, window_s: float, advance: Callable[[], None]
) -> tuple[Mapping[str, PolicyRun], list[Mapping[str, Mapping[str, Any]]]]:
    """The first study watched, the others for their figures only."""
    first, *others = studies
    watched = _run(partial(watch, window_s=window_s), first, policies, advance)
    return watched, [_run(partial(simulate_one, rows=None), study, policies, advance) for study in others]


def _run(
    task: Task[Study, T], study: Study, policies: Sequence[str], advance: Callable[[], None]
) -> Mapping[str, T]:
    """A single policy runs in this process."""
    if len(policies) > 1:
        return asyncio.run(run_all(task, study, policies, on_done=advance))
    done = {policy: task(study, policy) for policy in policies}
    advance()
    return done


def _report(
    options: ReportOptions,
    studies: Sequence[Study],
    runs: Sequence[PolicyRun],
    others: Sequence[Mapping[str, Mapping[str, Any]]],
    *,
    trace: Trace | None,
) -> Report:
    study = studies[0]
    revision, is_modified = result.commit()
    figures_by_load = [{run.policy: run.figures for run in runs}, *others]
    bounds = [ttft_lower_bound(each) for each in studies]
    return Report(
        service=study.service.metadata.name,
        roles=tuple(_roles(study.service)),
        prefill_only=study.prefill_only,
        workload=_words(study.workload, trace),
        num_requests=len(study.workload.requests),
        run_s=study.workload.wall_s,
        seed=study.seed,
        runs=runs,
        sweep=[
            SweepPoint(
                load=each.workload.load, figures=found, bound_s=None if bound is None else bound.mean_s
            )
            for each, found, bound in zip(studies, figures_by_load, bounds, strict=True)
        ],
        command=command(options),
        version=version("hortator"),
        commit=revision,
        is_modified=is_modified,
    )


def _roles(service: LLMService) -> Iterator[Role]:
    for role in service.spec.roles:
        yield Role(
            name=role.name,
            num_groups=role.replicas * service.spec.replicas,
            ranks_per_group=role.parallelism.attention_dp,
            chunk_budget_tokens=0 if role.name == "Decode" else role.chunk_budget_tokens,
        )


def _words(workload: LoadedTrace, trace: Trace | None) -> str:
    lengths = f"{workload.lengths} lengths" if trace is None else Path(trace.path).name
    return f"{workload.arrivals.mode.value}, {lengths}"


def command(options: ReportOptions) -> str:
    """What to type for the same page; where it goes does not change it."""
    workload = options.workload
    words = [
        "hortator",
        "report",
        "-f",
        str(options.file),
        "--policy",
        ",".join(parse_policies(options.policies)),
    ]
    for option, value in (
        ("--trace", options.trace),
        ("--load", ",".join(f"{load:g}" for load in parse_loads(options.loads))),
        ("--arrivals", None if workload.arrivals == ArrivalMode.POISSON else workload.arrivals),
        ("--burstiness", workload.burstiness),
        ("--period", workload.period),
        ("--peak-to-mean", workload.peak_to_mean),
        ("--lengths", workload.lengths),
        ("--minutes", f"{workload.minutes:g}"),
        ("--seed", options.seed),
        ("--window", options.window),
    ):
        if value is not None:
            words += [option, str(value)]
    words += ["--skip-bad"] if workload.skip_bad else []
    words += ["--prefill-only"] if options.prefill_only else []
    return shlex.join([*words, "-o", "report.html"])


def _write(report: Report, options: ReportOptions) -> None:
    console = stderr()
    text = page(report)
    try:
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--out {options.out}: {error.strerror}") from None
    console.print(f"{options.out}: {len(text.encode()) / 1000:,.0f} kB", markup=False)
    if options.svg is None:
        return
    drawn = figures(report)
    for figure in drawn:
        path = options.svg / f"{figure.name}.svg"
        try:
            path.write_text(f"{standalone(figure)}\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"--svg {path}: {error.strerror}") from None
    console.print(f"{options.svg}: {len(drawn)} figures", markup=False)
