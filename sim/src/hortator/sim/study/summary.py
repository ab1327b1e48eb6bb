"""What the points of a study say: one row per case, policy and chunk budget, and the table of them.

Ratios are taken seed by seed (every policy of a seed sees the same requests), then averaged; the interval is
the bootstrap's over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from hortator.sim.study.bootstrap import interval
from hortator.sim.study.plan import BASELINE, COMMON_BUDGET, RIVAL, Case, Figures, Found, Plan
from hortator.sim.study.points import LOWER_BOUND

Row = dict[str, Any]


def rows(plan: Plan, case: Case, found: Found) -> list[Row]:
    """Every policy at the common budget, then at its own best where that is another."""
    baseline = [found(point) for point in plan.points_of(case, BASELINE, COMMON_BUDGET)]
    rival = [found(point) for point in plan.points_of(case, RIVAL, plan.best_budget(case, RIVAL, found))]
    bound = [found(point) for point in plan.points_of(case, LOWER_BOUND, COMMON_BUDGET)]
    out = []
    for policy in plan.policies:
        best = plan.best_budget(case, policy, found)
        for budget in dict.fromkeys((COMMON_BUDGET, best)):
            runs = [found(point) for point in plan.points_of(case, policy, budget)]
            out.append(
                {
                    "workload": case.workload,
                    "load": case.load,
                    "policy": policy,
                    "chunk_budget_tokens": budget,
                    "is_best_budget": budget == best,
                    "requests": sum(run["requests"] for run in runs),
                    "rejected": sum(run["rejected"] for run in runs),
                    "stable": all(run["stable"] for run in runs),
                    "ttft_mean_s": fmean(run["ttft_s"]["mean"] for run in runs),
                    "ttft_p50_s": fmean(run["ttft_s"]["p50"] for run in runs),
                    "ttft_p99_s": fmean(run["ttft_s"]["p99"] for run in runs),
                    "ttft_max_s": max(run["ttft_s"]["max"] for run in runs),
                    "engine_queue_depth": fmean(run["engine_queue_depth"] for run in runs),
                    "chunk_utilization": fmean(run["chunk_utilization"] for run in runs),
                    "balance_ratio": fmean(run["balance_ratio"] for run in runs),
                    "prefill_tokens_per_s": fmean(run["prefill_tokens_per_s"] for run in runs),
                    "mean_to_baseline": _ratio(runs, baseline, "mean"),
                    "p99_to_baseline": _ratio(runs, baseline, "p99"),
                    "mean_to_rival": _ratio(runs, rival, "mean"),
                    "p99_to_rival": _ratio(runs, rival, "p99"),
                    "gap": _ratio(runs, bound, "mean") if all(bound) else None,
                }
            )
    return out


def _ratio(runs: Sequence[Figures], others: Sequence[Figures], which: str) -> dict[str, float]:
    ratios = [run["ttft_s"][which] / other["ttft_s"][which] for run, other in zip(runs, others, strict=True)]
    low, high = interval(ratios)
    return {"mean": fmean(ratios), "low": low, "high": high}


def page(document: Mapping[str, Any]) -> str:
    """The results as Markdown; the document is what the command writes."""
    seeds = ", ".join(str(seed) for seed in document["settings"]["seeds"])
    minutes = document["settings"]["min_run_s"] / 60
    about = (
        f"Made by `make study` from commit {document['commit'][:12]}; do not edit. Seeds {seeds}, "
        f"`{document['settings']['cluster']}`, prefill only, at least {minutes:g} virtual minutes per point. "
        "Figures are means over seeds, in brackets the 95 % interval of the bootstrap over seeds; ratios are "
        "taken seed by seed. Of recorded arrivals there is one run."
    )
    budget = (
        "- **budget**: bold where it is the policy's best of 1,024, 2,048, 4,096 and 8,192 tokens. UNSTABLE: "
        "with some seed the queue kept growing; such figures say only that."
    )
    lines = [
        "# The study: policies in virtual time",
        "",
        about,
        "",
        f"- *to baseline*: `{BASELINE}` at the common chunk budget of {COMMON_BUDGET:,}.",
        f"- *to rival*: `{RIVAL}` at its own best budget.",
        "- *gap*: mean TTFT over the lower bound that no scheduler can beat (`sim/lower_bound.py`).",
        budget,
    ]
    for workload, description in document["settings"]["workloads"].items():
        lines += ["", f"## {workload}: {description}", ""]
        lines += _table([row for row in document["rows"] if row["workload"] == workload])
    return "\n".join(lines) + "\n"


def _table(found: Sequence[Row]) -> Iterator[str]:
    yield (
        "| load | policy | budget | TTFT mean s | p50 | p99 | max | mean to baseline | p99 to baseline | "
        "mean to rival | p99 to rival | gap | chunk util. | engine queue |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in found:
        budget = f"{row['chunk_budget_tokens']:,}"
        cells = [
            f"{row['load']:g}",
            f"`{row['policy']}`",
            f"**{budget}**" if row["is_best_budget"] else budget,
            f"{row['ttft_mean_s']:.3f}" + ("" if row["stable"] else " UNSTABLE"),
            f"{row['ttft_p50_s']:.3f}",
            f"{row['ttft_p99_s']:.3f}",
            f"{row['ttft_max_s']:.2f}",
            *(_interval(row[name]) for name in ("mean_to_baseline", "p99_to_baseline")),
            *(_interval(row[name]) for name in ("mean_to_rival", "p99_to_rival")),
            "" if row["gap"] is None else f"{row['gap']['mean']:.2f}",
            f"{100 * row['chunk_utilization']:.0f} %",
            f"{row['engine_queue_depth']:.1f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def _interval(ratio: Mapping[str, float]) -> str:
    return f"{ratio['mean']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
