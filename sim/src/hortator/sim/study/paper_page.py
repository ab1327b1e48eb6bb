"""The paper's table as Markdown: our figures beside the published claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hortator.sim.study.plan import BASELINE

Row = Mapping[str, Any]

POINT_COLUMNS = (
    "policy",
    "budget",
    "requests",
    "TTFT mean s",
    "p50",
    "TTFT p99",
    "TTFT to baseline",
    "p99 to baseline",
    "hold s",
    "first gap p99 s",
    "ITL mean ms",
    "ITL p99",
    "e2e mean s",
    "output tokens/s",
    "chunk util.",
    "balance",
    "engine queue",
)
CAPACITY_COLUMNS = (
    "policy",
    "budget",
    "load",
    "to baseline",
    "requests/s",
    "prompt tokens/s",
    "output tokens/s",
    "TTFT p99 s",
    "ITL p99 ms",
    "chunk util.",
    "engine queue",
)

CLAIMS = """\
| | published (arXiv 2512.16134, public abstract and reviews) | here |
|---|---|---|
| TTFT | -30 to -40 % | column *TTFT to baseline* |
| throughput | +15 to +20 % | column *to baseline* of the capacities |
| chunk utilization, immediate / fixed batch / staggered | 68 / 73 / 81 % | column *chunk util.* |
| p99, the same three | 1.8 / 1.5 / 1.1 s | column *TTFT p99* |
| in-engine queue depth | -30 % | column *engine queue* |
"""
WHY = """\
## Where ours differ, and why

- **Chunk utilization.** In (a) it is under 2 % for every policy: a rank has 8,192 tokens per pass and its
  prompts at most 64, so batch slots and the time of passes run out first, never the chunk budget. In (b), at
  equal load, a policy that waits less runs the *same* tokens in more and shorter passes, so its utilization
  is lower, not higher: high utilization at a load that is no limit is a queue in the engine.
- **In-engine queue.** Work goes to an engine that is ready, and only as much as its next pass takes, so it
  does not queue in there (about -100 %, not -30 %). The wait is in the scheduler (column *hold*), where it
  can be reordered.
- **TTFT in (a).** With prompts this short a TTFT is one pass (55 to 80 ms) and a wait of about one more.
  Groups that are ready one after another save some of the wait; a part of that is spent again on admitting
  several together, which shortens all other passes: that is where ITL and capacity come from.
- **p99.** Public sources do not say at what load the published ones are; ours are at the loads given.
- **Recorded traces.** p99 is what bursts leave there. `staggered-plus` lets the longest prompts of a burst
  wait, for up to `age_first_s` (5 s), so that all others go sooner: the mean falls most, and a limit on p99
  alone, of 5 s, is met at lower loads than by policies that keep the order of arrival. With long contexts the
  limit of 60 s is little more than a prompt of 120,000 tokens takes alone, and p99 is that of a handful of
  requests: capacities there say little.
- **Throughput.** Below every capacity all policies serve what is offered. It differs where limits on p99 TTFT
  and ITL are what ends it; those are the capacities.
"""


def page(document: Mapping[str, Any]) -> str:
    """The results file as a page."""
    scale = document["settings"]["scale"]
    first_look = (
        "" if scale == 1 else f" **A first look: all runs {scale:g} times as long as they should be.**"
    )
    about = (
        f"Made by `hortator study paper` from commit {document['commit'][:12]}; do not edit.{first_look} "
        "Figures are means over seeds, in brackets the 95 % interval of the bootstrap over seeds. Of a "
        f"recorded trace there is one run. *Baseline*: `{BASELINE}` at the same chunk budget. UNSTABLE: the "
        "queue kept growing. `immediate-weighted-requests` places as vLLM's own balancer does; "
        "`+engine-waits`: engines that hold prompts back by themselves until all ranks have some, as "
        "TensorRT-LLM can (`timeout_iters` 50, `batching_wait_iters` 10)."
    )
    lines = [
        "# The paper's table: policies on 64 simulated H800",
        "",
        about,
        "",
        CLAIMS,
        WHY,
    ]
    for name, setup in document["settings"]["setups"].items():
        found = [row for row in document["rows"] if row["setup"] == name]
        lines += [f"## {name}: {setup['about']}", "", f"`{setup['cluster']}`, {setup['workload']}.", ""]
        if setup["load"]:
            minutes, seeds = scale * setup["run_s"] / 60, len(setup["seeds"])
            lines += [
                f"At load {setup['load']:g}, {minutes:g} virtual minutes, {seeds} seed(s):",
                "",
                *_points(found),
                "",
            ]
        if "search" in setup:
            search = setup["search"]
            step = (search["grid"]["high"] / search["grid"]["low"]) ** (1 / (search["grid"]["num_loads"] - 1))
            capacity = (
                f"Capacity: the highest load with {search['limits']} (steps of {100 * (step - 1):.1f} %, "
                f"{scale * search['run_s'] / 60:g} virtual minutes per try, {len(search['seeds'])} seed(s)):"
            )
            lines += [
                capacity,
                "",
                *_capacities(found),
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _points(found: Sequence[Row]) -> Iterator[str]:
    yield from _head(POINT_COLUMNS)
    for row in found:
        point = row["point"]
        cells = [
            *_who(row),
            f"{point['requests']:,}" + (f" ({point['rejected']} rejected)" if point["rejected"] else ""),
            f"{point['ttft_mean_s']:.3f}" + ("" if point["stable"] else " UNSTABLE"),
            f"{point['ttft_p50_s']:.3f}",
            f"{point['ttft_p99_s']:.3f}",
            _interval(point["ttft_to_baseline"]),
            _interval(point["p99_to_baseline"]),
            f"{point['hold_mean_s']:.3f}",
            f"{point['first_gap_p99_s']:.3f}",
            f"{1000 * point['itl_mean_s']:.1f}",
            f"{1000 * point['itl_p99_s']:.1f}",
            f"{point['e2e_mean_s']:.2f}",
            f"{point['output_tokens_per_s']:,.0f}",
            f"{100 * point['chunk_utilization']:.1f} %",
            f"{point['balance_ratio']:.2f}",
            f"{point['engine_queue_depth']:.1f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def _capacities(found: Sequence[Row]) -> Iterator[str]:
    yield from _head(CAPACITY_COLUMNS)
    for row in found:
        capacity = row["capacity"]
        if capacity["load"] is None:
            yield (
                "| "
                + " | ".join([*_who(row), "below the lowest tried", *[""] * (len(CAPACITY_COLUMNS) - 3)])
                + " |"
            )
            continue
        cells = [
            *_who(row),
            (">= " if capacity["is_at_top"] else "") + f"{capacity['load']:.4g}",
            _interval(capacity["to_baseline"]),
            f"{capacity['requests_per_s']:.1f}",
            f"{capacity['prompt_tokens_per_s']:,.0f}",
            f"{capacity['output_tokens_per_s']:,.0f}",
            f"{capacity['ttft_p99_s']:.3f}",
            f"{1000 * capacity['itl_p99_s']:.1f}",
            f"{100 * capacity['chunk_utilization']:.1f} %",
            f"{capacity['engine_queue_depth']:.1f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"


def _who(row: Row) -> tuple[str, str]:
    return f"`{row['policy']}`", f"{row['chunk_budget_tokens']:,}"


def _interval(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    if ratio["low"] == ratio["high"]:
        return f"{ratio['mean']:.2f}"
    return f"{ratio['mean']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
