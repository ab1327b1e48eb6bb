"""`hortator simulate`: the scheduler core in virtual time over the cluster that a manifest describes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hortator.api.files import ManifestError, load_llmservice
from hortator.api.v1alpha1 import LLMService
from hortator.cli.bench import result
from hortator.cli.console import stderr, stdout
from hortator.cli.errors import CommandError
from hortator.cli.study_pool import simulate_all, simulate_one
from hortator.cli.workload_options import WorkloadOptions, make_workload, workload_document
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.sim.disturbances import Disturbances, parse_disturbances
from hortator.sim.load import MIN_RUN_S
from hortator.sim.lower_bound import LowerBound
from hortator.sim.rows import join_rows
from hortator.sim.simulate import Study, ttft_lower_bound
from hortator.sim.slo import Slo, parse_slo
from hortator.sim.traces import Trace, TraceError, read_trace

UNSTABLE = "UNSTABLE"
SHORT = "SHORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Several policies over one workload."""

    study: Study
    figures: Mapping[str, Mapping[str, Any]]
    """By policy, in the order asked for."""
    bound: LowerBound | None = None
    """Of the mean TTFT, where one is known."""

    @property
    def figures_with_gap(self) -> dict[str, dict[str, Any]]:
        """The figures, and how many times the bound each mean TTFT is, where every request has one."""
        return {
            policy: {**found, "gap": found["ttft_s"]["mean"] / self.bound.mean_s}
            if self.bound is not None and 0 < found["completed"] == found["requests"]
            else dict(found)
            for policy, found in self.figures.items()
        }

    def document(self, trace: Trace | None = None) -> dict[str, Any]:
        """The JSON object of the results; `trace`: what was read, absent where requests were made up."""
        return {
            "service": self.study.service.metadata.name,
            "seed": self.study.seed,
            "prefill_only": self.study.prefill_only,
            **workload_document(self.study.workload),
            "trace": None if trace is None else _trace_document(trace),
            **({"disturbances": given} if (given := self.study.disturbances.given()) else {}),
            "machine": result.machine(),
            **({} if self.bound is None else {"lower_bound": _bound_document(self.bound)}),
            "policies": self.figures_with_gap,
        }


def run(
    *,
    file: Path,
    policies: str,
    trace: Path | None,
    options: WorkloadOptions,
    prefill_only: bool,
    seed: int,
    slo: str,
    disturb: str = "",
    requests_file: Path | None,
    json_file: Path | None,
) -> None:
    """Simulate, print the table, write the JSON and the rows of requests.

    Raises:
        CommandError: a file or an option is wrong.
    """
    service = load_manifest(file)
    names = parse_policies(policies)
    arrivals = options.checked(has_trace=trace is not None)
    limits = _slo(slo, prefill_only=prefill_only)
    disturbances = _disturbances(disturb)
    recorded = None if trace is None else read_recorded(service, trace, file=file, seed=seed, options=options)
    requests = None if recorded is None else recorded.requests
    workload = make_workload(service, requests, options, arrivals=arrivals, seed=seed)
    check_prefill_only(service, prefill_only=prefill_only)
    study = Study(
        service=service,
        workload=workload,
        seed=seed,
        prefill_only=prefill_only,
        slo=limits,
        disturbances=disturbances,
    )
    console = stderr()
    console.print(
        f"{service.metadata.name}: {len(workload.requests)} requests over {workload.wall_s / 60:.1f} virtual "
        f"minutes at load {workload.load:g}, {study.num_entry_groups} groups take arrivals"
    )
    if recorded is not None and (said := left_out(recorded)):
        console.print(f"{recorded.path}: {said}", markup=False)
    with _rows(requests_file, names) as rows:
        comparison = replace(compare(study, names, console=console, rows=rows), bound=ttft_lower_bound(study))
    if json_file is None or str(json_file) != "-":
        stdout().print(table(comparison.figures_with_gap))
        if options.tenants is not None:
            stdout().print(tenants_table(comparison.figures))
        if comparison.bound is not None:
            stdout().print(f"no scheduler has a mean TTFT under {1000 * comparison.bound.mean_s:.0f} ms here")
    result.write(comparison.document(recorded), json_file)


def compare(
    study: Study, policies: Sequence[str], *, console: Console, rows: Path | None = None
) -> Comparison:
    """`compare_in_pool` for a program without a loop; a single policy runs in this process."""
    if len(policies) > 1:
        return asyncio.run(compare_in_pool(study, policies, console=console, rows=rows))
    with progress_bar(len(policies), "policies", console) as advance:
        figures = {}
        for policy in policies:
            figures[policy] = simulate_one(study, policy, rows=rows)
            advance()
    return Comparison(study=study, figures=figures)


async def compare_in_pool(
    study: Study, policies: Sequence[str], *, console: Console, rows: Path | None = None
) -> Comparison:
    """Run every policy over the workload, as many at a time as there are cores, with a progress bar.

    Main thread only. Cancelled, it leaves no process.
    """
    with progress_bar(len(policies), "policies", console) as advance:
        figures = await simulate_all(study, policies, rows=rows, on_done=advance)
    return Comparison(study=study, figures=figures)


def check_prefill_only(service: LLMService, *, prefill_only: bool) -> None:
    """Raise CommandError where there is no decode to leave out."""
    if prefill_only and service.spec.topology != "PrefillDecode":
        raise CommandError("--prefill-only: the topology is Aggregated (allowed with PrefillDecode)")


def _slo(text: str, *, prefill_only: bool) -> Slo:
    try:
        slo = parse_slo(text) if text else Slo()
    except ValueError as error:
        raise CommandError(f"--slo: {error}") from None
    others = slo.limits().keys() - {"ttft"}
    if prefill_only and others:
        raise CommandError(
            f"--slo: {min(others)}: requests end with their first token (allowed with --prefill-only: ttft)"
        )
    return slo


def _disturbances(text: str) -> Disturbances:
    try:
        return parse_disturbances(text)
    except ValueError as error:
        raise CommandError(f"--disturb: {error}") from None


@contextmanager
def _rows(file: Path | None, policies: Sequence[str]) -> Iterator[Path | None]:
    """The folder for rows while policies run; the file is written when all have."""
    if file is None:
        yield None
        return
    if file.is_dir() or not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise CommandError(f"--requests {file}: not a file that can be written")
    with TemporaryDirectory(prefix="hortator-rows-") as folder:
        yield Path(folder)
        try:
            join_rows(file, Path(folder), policies)
        except OSError as error:
            raise CommandError(f"--requests {file}: {error.strerror}") from None


@contextmanager
def progress_bar(total: int, what: str, console: Console) -> Iterator[Callable[[], None]]:
    """Gives the function that says that one more is simulated."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"simulating {total} {what}", total=total)
        yield lambda: progress.advance(task)


def table(figures: Mapping[str, Mapping[str, Any]], *, title: str | None = None) -> Table:
    """The comparison as a table; TTFT in milliseconds."""
    best = min((f["ttft_s"]["mean"] for f in figures.values() if f["completed"]), default=0.0)
    out = Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    out.add_column("policy", no_wrap=True)
    for header in (
        "TTFT mean",
        "p50",
        "p99 (ms)",
        "vs best",
        "tokens/s in",
        "chunk util.",
        "balance",
        "rejected",
    ):
        out.add_column(header, justify="right", no_wrap=True)
    has_gap = any("gap" in figure for figure in figures.values())
    if has_gap:
        out.add_column("gap", justify="right", no_wrap=True)
    has_slo = any("goodput_rps" in figure for figure in figures.values())
    if has_slo:
        out.add_column("goodput", justify="right", no_wrap=True)
    out.add_column("")
    for name, figure in figures.items():
        ttft = figure["ttft_s"]
        out.add_row(
            name,
            f"{1000 * ttft['mean']:.0f}",
            f"{1000 * ttft['p50']:.0f}",
            f"{1000 * ttft['p99']:.0f}",
            f"{ttft['mean'] / best:.2f} x" if best else "",
            f"{figure['prefill_tokens_per_s']:,.0f}",
            f"{100 * figure['chunk_utilization']:.0f} %",
            f"{100 * figure['balance_ratio']:.0f} %",
            str(figure["rejected"]),
            *([f"{figure['gap']:.2f} x" if "gap" in figure else ""] if has_gap else []),
            *([f"{figure['goodput_rps']:.1f}/s {100 * figure['slo_attainment']:.0f} %"] if has_slo else []),
            " ".join(_marks(figure)),
        )
    if any(figure["short"] for figure in figures.values()):
        out.caption = (
            f"{SHORT}: a first look; figures to quote run {MIN_RUN_S / 60:g} virtual minutes or more"
        )
    return out


def tenants_table(figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """TTFT of every tenant in milliseconds; the first is the one that floods."""
    out = Table(title="by tenant", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    out.add_column("policy", no_wrap=True)
    out.add_column("tenant", no_wrap=True)
    for header in ("TTFT mean", "p50", "p99 (ms)", "requests", "rejected"):
        out.add_column(header, justify="right", no_wrap=True)
    for policy, figure in figures.items():
        for name, found in figure["tenants"].items():
            ttft = [f"{1000 * found['ttft_s'][key]:.0f}" for key in ("mean", "p50", "p99")]
            out.add_row(policy, name, *ttft, str(found["requests"]), str(found["rejected"]))
    return out


def _marks(figure: Mapping[str, Any]) -> Iterator[str]:
    if not figure["stable"]:
        yield f"[red]{UNSTABLE}[/red]"
    if figure["short"]:
        yield SHORT


def load_manifest(file: Path) -> LLMService:
    """The LLMService of a file. Raises CommandError, one line per problem."""
    try:
        return load_llmservice(file)
    except ManifestError as error:
        raise CommandError(error.lines) from None


def parse_policies(text: str) -> tuple[str, ...]:
    """Names from `a,b` or `all`. Raises CommandError for an unknown one."""
    names = tuple(POLICY_NAMES) if text == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in POLICY_NAMES:
            raise CommandError(f"--policy: got {name!r} (allowed: all, {', '.join(POLICY_NAMES)})")
    return tuple(dict.fromkeys(names))


def read_recorded(
    service: LLMService, trace: Path, *, file: Path, seed: int, options: WorkloadOptions
) -> Trace:
    """The trace of a file. Raises CommandError when it cannot be read or does not fit the service."""
    try:
        recorded = read_trace(trace, skip_bad=options.skip_bad, seed=seed)
    except TraceError as error:
        raise CommandError(str(error)) from None
    _check_blocks(service, recorded, file=file)
    return recorded


def left_out(trace: Trace) -> str:
    """What is in the file and is not simulated; empty: nothing."""
    parts = []
    if trace.num_bad_lines:
        parts.append(f"{trace.num_bad_lines} bad {_plural('line', trace.num_bad_lines)} skipped")
    if trace.num_failed:
        parts.append(
            f"{trace.num_failed} failed {_plural('request', trace.num_failed)} (no output tokens) left out"
        )
    return ", ".join(parts)


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"


def _bound_document(bound: LowerBound) -> dict[str, float]:
    return {
        "ttft_mean_s": bound.mean_s,
        "solo_s": bound.mean_solo_s,
        "relaxed_s": bound.mean_relaxed_s,
        "rent_s": bound.mean_rent_s,
    }


def _trace_document(trace: Trace) -> dict[str, Any]:
    return {
        "file": trace.path,
        "format": trace.format.value,
        "requests": len(trace.requests),
        "bad_lines": trace.num_bad_lines,
        "failed_requests": trace.num_failed,
    }


def _check_blocks(service: LLMService, trace: Trace, *, file: Path) -> None:
    """The manifest's KV blocks must cut the blocks whose contents the trace knows into equal parts."""
    for request in trace.requests:
        if request.prefix_block_ids:
            block_tokens = request.prefix_block_tokens
            break
    else:
        return
    for index, role in enumerate(service.spec.roles):
        if block_tokens % role.tokens_per_block:
            sizes = [size for size in range(1, block_tokens + 1) if block_tokens % size == 0]
            raise CommandError(
                f"{file}: spec.roles[{index}].tokensPerBlock: got {role.tokens_per_block} "
                f"(allowed with {trace.path}, whose blocks have {block_tokens} tokens: "
                f"{', '.join(map(str, sizes))})"
            )
