"""What the points of the sensitivity study say: rows, and the page of them.

Ratios are taken seed by seed, then averaged; the interval is the bootstrap's over seeds. Every policy of a
case and a seed meets the same requests, deaths and wrong lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from hortator.sim.study.bootstrap import interval
from hortator.sim.study.plan import RIVAL
from hortator.sim.study.sensitivity import BY_NAME, Case, CasePoint, SensitivityPlan

Figures = Mapping[str, Any]
Found = Callable[[CasePoint], Figures]
Row = dict[str, Any]
OURS = "staggered-plus"


def rows(plan: SensitivityPlan, found: Found) -> list[Row]:
    """One per case, load and policy."""
    return [_row(plan, case, load, policy, found) for case, load in plan.rows() for policy in case.policies]


def _row(plan: SensitivityPlan, case: Case, load: float, policy: str, found: Found) -> Row:
    def runs_of(name: str, policy: str) -> list[Figures]:
        return [found(point) for point in plan.points_of(name, load, policy)]

    runs, rival = runs_of(case.name, policy), runs_of(case.name, RIVAL)
    has_reference = case.reference in {other.name for other in plan.cases}
    return {
        "case": case.name,
        "load": load,
        "policy": policy,
        "requests": sum(run["requests"] for run in runs),
        "rejected": sum(run["rejected"] for run in runs),
        "stable": all(run["stable"] for run in runs),
        "ttft_mean_s": fmean(run["ttft_s"]["mean"] for run in runs),
        "ttft_p50_s": fmean(run["ttft_s"]["p50"] for run in runs),
        "ttft_p99_s": fmean(run["ttft_s"]["p99"] for run in runs),
        "ttft_max_s": max(run["ttft_s"]["max"] for run in runs),
        "wait_s": _over_seeds([_wait_s(run) for run in runs]),
        "pass_s": fmean(run["pass_s"] for run in runs),
        "busy": fmean(run["busy"] for run in runs),
        "chunk_utilization": fmean(run["chunk_utilization"] for run in runs),
        "mean_to_rival": _ratio(runs, rival, "mean"),
        "p99_to_rival": _ratio(runs, rival, "p99"),
        "mean_to_perfect": _ratio(runs, runs_of(case.reference, policy), "mean")
        if has_reference and policy in BY_NAME[case.reference].policies
        else None,
    }


def _wait_s(run: Figures) -> float:
    """Arrival to the start of the first pass."""
    return float(run["hold_s"]["mean"] + run["engine_queue_s"]["mean"])


def _over_seeds(values: Sequence[float]) -> dict[str, float]:
    low, high = interval(values)
    return {"mean": fmean(values), "low": low, "high": high}


def _ratio(runs: Sequence[Figures], others: Sequence[Figures], which: str) -> dict[str, float]:
    return _over_seeds(
        [run["ttft_s"][which] / other["ttft_s"][which] for run, other in zip(runs, others, strict=True)]
    )


def page(document: Mapping[str, Any]) -> str:
    """The results as Markdown; the document is what the command writes."""
    settings = document["settings"]
    seeds = ", ".join(str(seed) for seed in settings["seeds"])
    about = (
        f"Made by `hortator study sensitivity` from commit {document['commit'][:12]}; do not edit. "
        f"`{settings['cluster']}`, conversation lengths (generated), poisson arrivals, prefill only, "
        f"at least {settings['min_run_s'] / 60:g} virtual minutes per point, seeds {seeds}. Figures are "
        "means over seeds, in brackets the 95 % interval of the bootstrap over seeds; ratios are taken seed "
        "by seed."
    )
    rival = (
        f"- *to rival*: `{RIVAL}` in the same case, at the same chunk budget (4,096 tokens unless the case "
        "says 8,192). Its own best budget at this load is smaller: `study.md` compares every policy at its "
        "best."
    )
    lines = [
        "# Sensitivity: the policies where the cluster is not perfect",
        "",
        about,
        "",
        rival,
        "- *to perfect*: the same policy where nothing is disturbed.",
        "- UNSTABLE: with some seed the queue kept growing; such figures say only that.",
    ]
    for load in settings["loads"]:
        found = [row for row in document["rows"] if row["load"] == load and _is_case(row)]
        lines += ["", f"## Load {load:g}", "", *_losses(found), "", *_table(found)]
    lines += ["", *_theory([row for row in document["rows"] if not _is_case(row)])]
    return "\n".join(lines) + "\n"


def _is_case(row: Row) -> bool:
    return not BY_NAME[row["case"]].prompt_tokens


def _losses(found: Sequence[Row]) -> Iterator[str]:
    """Where ours is not the best, or not sure to be; from the figures."""
    ours = [row for row in found if row["policy"] == OURS]
    yield f"Where `{OURS}` loses to `{RIVAL}`:"
    yield ""
    for what, name in (("mean TTFT", "mean_to_rival"), ("p99 TTFT", "p99_to_rival")):
        lost = [f"{row['case']} ({row[name]['mean']:.2f})" for row in ours if row[name]["high"] > 1.0]
        yield f"- {what}: {', '.join(lost) if lost else 'nowhere'}."
    hurt = sorted(
        (row for row in ours if row["mean_to_perfect"] is not None),
        key=lambda row: -float(row["mean_to_perfect"]["mean"]),
    )
    if hurt:
        worst = ", ".join(f"{row['case']} ({row['mean_to_perfect']['mean']:.2f})" for row in hurt[:3])
        yield f"- What costs it most of its own mean TTFT, in times of the perfect cluster's: {worst}."
    unstable = sorted({row["case"] for row in found if not row["stable"] and row["policy"] == OURS})
    if unstable:
        yield f"- UNSTABLE: {', '.join(unstable)}."


def _table(found: Sequence[Row]) -> Iterator[str]:
    yield (
        "| case | policy | TTFT mean s | p50 | p99 | max | mean to rival | p99 to rival | mean to perfect | "
        "busy | rejected |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    said = ""
    for row in found:
        about = f"**{row['case']}**: {BY_NAME[row['case']].about}" if row["case"] != said else ""
        said = row["case"]
        cells = [
            about,
            f"`{row['policy']}`",
            f"{row['ttft_mean_s']:.3f}" + ("" if row["stable"] else " UNSTABLE"),
            f"{row['ttft_p50_s']:.3f}",
            f"{row['ttft_p99_s']:.3f}",
            f"{row['ttft_max_s']:.2f}",
            _interval(row["mean_to_rival"]),
            _interval(row["p99_to_rival"]),
            "" if row["mean_to_perfect"] is None else _interval(row["mean_to_perfect"]),
            f"{100 * row['busy']:.0f} %",
            str(row["rejected"]),
        ]
        yield "| " + " | ".join(cells) + " |"


def _theory(found: Sequence[Row]) -> Iterator[str]:
    if not found:
        return
    yield "## T/2 against T/(2N)"
    yield ""
    yield (
        f"Every prompt is one chunk budget (8,192 tokens) long, load {found[0]['load']:g} per group. *wait*: "
        "from arrival to the start of the first pass (hold plus in-engine queue), mean; *T*: mean length of "
        "a pass. In theory wait / T is 1/2 where requests go to an engine at once, and 1/(2N) where they are "
        "held until one of N is ready."
    )
    yield ""
    yield "| N | policy | wait s | T s | wait / T | 1/2 | 1/(2N) | TTFT mean s |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found:
        num_groups = BY_NAME[row["case"]].num_groups
        wait, pass_s = row["wait_s"], row["pass_s"]
        cells = [
            str(num_groups),
            f"`{row['policy']}`",
            f"{wait['mean']:.3f} ({wait['low']:.3f}-{wait['high']:.3f})",
            f"{pass_s:.3f}",
            f"{wait['mean'] / pass_s:.3f}",
            "0.500",
            f"{0.5 / num_groups:.3f}",
            f"{row['ttft_mean_s']:.3f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def _interval(ratio: Mapping[str, float]) -> str:
    return f"{ratio['mean']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
