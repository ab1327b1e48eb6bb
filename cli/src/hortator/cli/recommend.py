"""`hortator recommend`: which chunk budget suits a service's prompts, tried in virtual time.

The chunk budget is the engine's (`max_num_tokens` of TensorRT-LLM): it is fixed when an engine starts, so the
scheduler cannot follow traffic with it, and it matters as much as the policy. A small one makes short passes
that short prompts wait little for, and cuts long prompts into many; a large one wastes less of every pass.

The budget with the least mean TTFT is taken, among those that are stable and have a p99 within P99_SLACK of
the least; near it the larger one, because it serves more when load grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from hortator.cli.bench import result
from hortator.cli.console import stderr, stdout
from hortator.cli.errors import CommandError
from hortator.cli.simulate import (
    SHORT,
    UNSTABLE,
    check_prefill_only,
    load_manifest,
    parse_policies,
    progress_bar,
    read_recorded,
)
from hortator.cli.study_pool import run_all
from hortator.cli.workload_options import WorkloadOptions, make_workload, workload_document
from hortator.sim.load import MIN_RUN_S, LoadedTrace
from hortator.sim.simulate import Study, entry_role, simulate, with_entry_role

BUDGETS = (1024, 2048, 4096, 8192, 16384)
P99_SLACK = 1.1
NEAR = 1.02
"""Means within this factor are equal: one run cannot tell them apart."""

Figures = Mapping[str, Any]


def run(
    *,
    file: Path,
    policy: str | None,
    budgets: Sequence[int] | None,
    trace: Path | None,
    options: WorkloadOptions,
    prefill_only: bool,
    seed: int,
    json_file: Path | None,
) -> None:
    """Simulate the manifest's cluster at every budget, print the table and what to write where.

    Raises:
        CommandError: a file or an option is wrong, or no budget is stable.
    """
    service = load_manifest(file)
    names = parse_policies(policy or service.spec.scheduler.policy)
    if len(names) != 1:
        raise CommandError(f"--policy: got {policy!r} (allowed: one policy)")
    tried = _checked(budgets or BUDGETS)
    arrivals = options.checked(has_trace=trace is not None)
    recorded = None if trace is None else read_recorded(service, trace, file=file, seed=seed, options=options)
    requests = None if recorded is None else recorded.requests
    workload = make_workload(service, requests, options, arrivals=arrivals, seed=seed)
    check_prefill_only(service, prefill_only=prefill_only)
    study = Study(service=service, workload=workload, seed=seed, prefill_only=prefill_only)
    with progress_bar(len(tried), "chunk budgets", stderr()) as advance:
        found = asyncio.run(
            run_all(partial(_figures_at, names[0]), study, [str(budget) for budget in tried], on_done=advance)
        )
    figures = {int(budget): figure for budget, figure in found.items()}
    best = recommended(figures)
    if json_file is None or str(json_file) != "-":
        stdout().print(_table(figures, best))
        stdout().print(_words(best, figures, workload, now=entry_role(service).chunk_budget_tokens))
    document = {
        "service": service.metadata.name,
        "policy": names[0],
        "seed": seed,
        "prefill_only": prefill_only,
        **workload_document(workload),
        "machine": result.machine(),
        "chunk_budget_tokens": {"now": entry_role(service).chunk_budget_tokens, "recommended": best},
        "budgets": {str(budget): dict(figure) for budget, figure in figures.items()},
    }
    result.write(document, json_file)


def _figures_at(policy: str, study: Study, budget: str) -> dict[str, object]:
    """In a process of the pool; the budget is the name of what is done there."""
    service = with_entry_role(study.service, chunk_budget_tokens=int(budget))
    return simulate(replace(study, service=service), policy)


def _checked(budgets: Sequence[int]) -> tuple[int, ...]:
    for budget in budgets:
        if not 64 <= budget <= 131_072:
            raise CommandError(f"--budget: got {budget} (allowed: 64 to 131072 tokens)")
    return tuple(sorted(set(budgets)))


def recommended(figures: Mapping[int, Figures]) -> int | None:
    """The budget to take; None: the service is not stable at any. See the module docstring."""
    stable = {budget: figure["ttft_s"] for budget, figure in figures.items() if figure["stable"]}
    if not stable:
        return None
    most_p99 = P99_SLACK * min(ttft["p99"] for ttft in stable.values())
    fit = {budget: ttft["mean"] for budget, ttft in stable.items() if ttft["p99"] <= most_p99}
    least = min(fit.values())
    return max(budget for budget, mean in fit.items() if mean <= NEAR * least)


def _words(best: int | None, figures: Mapping[int, Figures], workload: LoadedTrace, *, now: int) -> str:
    if best is None:
        return (
            f"No chunk budget serves load {workload.load:g}: the queue grows at each. Add groups, or take a "
            "policy that packs better."
        )
    if best == now:
        return f"The manifest's chunkBudgetTokens: {now} is the one to take."
    words = f"Take chunkBudgetTokens: {best}"
    if now in figures and figures[now]["stable"]:
        gain = 1.0 - figures[best]["ttft_s"]["mean"] / figures[now]["ttft_s"]["mean"]
        words += f": mean TTFT {100 * gain:.0f} % below the manifest's {now}"
    elif now in figures:
        words += f": the manifest's {now} does not serve this load"
    return f"{words}. The engines must be started again for it."


def _table(figures: Mapping[int, Figures], best: int | None) -> Table:
    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("chunk budget", "TTFT mean", "p50", "p99 (ms)", "chunk util.", "rejected"):
        out.add_column(header, justify="right", no_wrap=True)
    out.add_column("")
    for budget, figure in figures.items():
        ttft = figure["ttft_s"]
        marks = ["<- take this"] if budget == best else []
        marks += [] if figure["stable"] else [f"[red]{UNSTABLE}[/red]"]
        out.add_row(
            f"{budget:,}",
            *(f"{1000 * ttft[name]:.0f}" for name in ("mean", "p50", "p99")),
            f"{100 * figure['chunk_utilization']:.0f} %",
            str(figure["rejected"]),
            " ".join(marks),
        )
    if any(figure["short"] for figure in figures.values()):
        out.caption = (
            f"{SHORT}: a first look; runs to decide by have {MIN_RUN_S / 60:g} virtual minutes or more"
        )
        out.caption_justify = "left"
    return out
