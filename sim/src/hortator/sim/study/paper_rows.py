"""What the jobs of the paper's table say: one row per setup, policy and chunk budget.

Ratios are taken seed by seed to the baseline at the same budget (all policies of a seed see the same
requests), then averaged, with the bootstrap's interval over seeds where there are several. Throughput at
capacity is what was offered there: the limits were kept and nothing grew, so it was served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from hortator.sim.study.bootstrap import interval
from hortator.sim.study.paper_plan import POINT, SEARCH, Job, Setup
from hortator.sim.study.plan import BASELINE

Figures = Mapping[str, Any]
Found = Callable[[Job], Figures]
Row = dict[str, Any]


def rows(setup: Setup, found: Found) -> Iterator[Row]:
    """Every budget, every policy in the setup's order; the baseline is one of them."""
    for budget in setup.budgets:
        for policy in setup.policies:
            row: Row = {"setup": setup.name, "policy": policy, "chunk_budget_tokens": budget}
            if setup.load:
                row["point"] = _point(
                    *(_runs(setup, found, POINT, name, budget, setup.seeds) for name in (policy, BASELINE))
                )
            if setup.search is not None:
                seeds = setup.search.seeds
                row["capacity"] = _capacity(
                    *(_runs(setup, found, SEARCH, name, budget, seeds) for name in (policy, BASELINE))
                )
            yield row


def _runs(
    setup: Setup, found: Found, kind: str, policy: str, budget: int, seeds: Sequence[int]
) -> list[Figures]:
    return [
        found(Job(setup=setup.name, kind=kind, policy=policy, chunk_budget_tokens=budget, seed=seed))
        for seed in seeds
    ]


def _point(runs: Sequence[Figures], baseline: Sequence[Figures]) -> Row:
    row: Row = {
        "requests": sum(run["requests"] for run in runs),
        "rejected": sum(run["rejected"] for run in runs),
        "stable": all(run["stable"] for run in runs),
    }
    for name in ("ttft_s", "first_gap_s", "itl_s", "e2e_s"):
        for which in ("mean", "p50", "p99"):
            row[f"{name[:-2]}_{which}_s"] = fmean(run[name][which] for run in runs)
    row["hold_mean_s"] = fmean(run["hold_s"]["mean"] for run in runs)
    row["engine_queue_mean_s"] = fmean(run["engine_queue_s"]["mean"] for run in runs)
    for name in (
        "engine_queue_depth",
        "chunk_utilization",
        "balance_ratio",
        "output_tokens_per_s",
        "prefill_tokens_per_s",
    ):
        row[name] = fmean(run[name] for run in runs)
    row["ttft_to_baseline"] = _ratio(_each(runs, "ttft_s", "mean"), _each(baseline, "ttft_s", "mean"))
    row["p99_to_baseline"] = _ratio(_each(runs, "ttft_s", "p99"), _each(baseline, "ttft_s", "p99"))
    row["itl_to_baseline"] = _ratio(_each(runs, "itl_s", "mean"), _each(baseline, "itl_s", "mean"))
    return row


def _capacity(runs: Sequence[Figures], baseline: Sequence[Figures]) -> Row:
    if any(run["load"] is None for run in runs):
        return {"load": None}
    row: Row = {
        "load": fmean(run["load"] for run in runs),
        "is_at_top": any(run["is_at_top"] for run in runs),
        "requests_per_s": fmean(run["offered_rps"] for run in runs),
        "output_tokens_per_s": fmean(run["offered_output_tokens_per_s"] for run in runs),
        "prompt_tokens_per_s": fmean(run["offered_prompt_tokens_per_s"] for run in runs),
        "ttft_p99_s": fmean(run["ttft_s"]["p99"] for run in runs),
        "itl_p99_s": fmean(run["itl_s"]["p99"] for run in runs),
        "chunk_utilization": fmean(run["chunk_utilization"] for run in runs),
        "engine_queue_depth": fmean(run["engine_queue_depth"] for run in runs),
        "to_baseline": None,
    }
    if all(run["load"] is not None for run in baseline):
        row["to_baseline"] = _ratio([run["load"] for run in runs], [run["load"] for run in baseline])
    return row


def _each(runs: Sequence[Figures], name: str, which: str) -> list[float]:
    return [run[name][which] for run in runs]


def _ratio(values: Sequence[float], others: Sequence[float]) -> dict[str, float] | None:
    if not all(others):
        return None  # of ITL without decode
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    low, high = interval(ratios)
    return {"mean": fmean(ratios), "low": low, "high": high}
