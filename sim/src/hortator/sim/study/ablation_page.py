"""What the points of the ablation say: rows, and the page of them.

Ratios are taken seed by seed to the whole policy, then averaged; the interval is the bootstrap's over seeds.
An ingredient *pays* at a load if leaving it out makes mean or p99 TTFT surely longer there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from hortator.sim.study.ablation import BY_NAME, WHOLE, AblationPlan, AblationPoint, is_knob
from hortator.sim.study.bootstrap import interval

Figures = Mapping[str, Any]
Found = Callable[[AblationPoint], Figures]
Row = dict[str, Any]
SAME = 1.02
"""Within this factor two figures are the same."""
COLUMNS = ("load", "changed", "TTFT mean s", "p50", "p99", "max", "mean to whole", "p99 to whole", "busy")


def rows(plan: AblationPlan, found: Found) -> list[Row]:
    """One per load and variant."""
    return [_row(plan, load, variant.name, found) for load in plan.loads for variant in plan.variants]


def _row(plan: AblationPlan, load: float, variant: str, found: Found) -> Row:
    runs, whole = ([found(point) for point in plan.points_of(name, load)] for name in (variant, WHOLE))
    return {
        "load": load,
        "variant": variant,
        "requests": sum(run["requests"] for run in runs),
        "stable": all(run["stable"] for run in runs),
        "ttft_mean_s": fmean(run["ttft_s"]["mean"] for run in runs),
        "ttft_p50_s": fmean(run["ttft_s"]["p50"] for run in runs),
        "ttft_p99_s": fmean(run["ttft_s"]["p99"] for run in runs),
        "ttft_max_s": max(run["ttft_s"]["max"] for run in runs),
        "busy": fmean(run["busy"] for run in runs),
        "mean_to_whole": _ratio(runs, whole, "mean"),
        "p99_to_whole": _ratio(runs, whole, "p99"),
    }


def _ratio(runs: Sequence[Figures], others: Sequence[Figures], which: str) -> dict[str, float]:
    ratios = [run["ttft_s"][which] / other["ttft_s"][which] for run, other in zip(runs, others, strict=True)]
    low, high = interval(ratios)
    return {"mean": fmean(ratios), "low": low, "high": high}


def page(document: Mapping[str, Any]) -> str:
    """The results as Markdown; the document is what the command writes."""
    settings = document["settings"]
    seeds = ", ".join(str(seed) for seed in settings["seeds"])
    cluster, minutes = settings["cluster"], settings["min_run_s"] / 60
    about = (
        f"Made by `hortator study ablation` from commit {document['commit'][:12]}; do not edit. "
        f"`{cluster}`, conversation lengths (generated), poisson arrivals, prefill only, chunk budget "
        f"{settings['chunk_budget_tokens']:,}, at least {minutes:g} virtual minutes per point, seeds "
        f"{seeds}. Figures are means over seeds, in brackets the 95 % interval of the bootstrap over seeds; "
        "ratios are taken seed by seed to the whole policy. UNSTABLE: with some seed the queue kept growing; "
        "such figures say only that."
    )
    lines = ["# Ablation: `staggered-plus` with one ingredient less, or one knob elsewhere", "", about, ""]
    lines += [f"- `{name}`: {about}." for name, about in settings["variants"].items()]
    lines += ["", *_verdicts(document["rows"]), "", *_tuner(document["rows"]), "", *_table(document["rows"])]
    return "\n".join(lines) + "\n"


def _verdicts(found: Sequence[Row]) -> Iterator[str]:
    """Per ingredient where it pays, and where it costs something; from the figures."""
    yield "What leaving it out does (only where the interval does not hold 1):"
    yield ""
    for name in dict.fromkeys(row["variant"] for row in found if row["variant"] != WHOLE):
        words = []
        for what, key in (("mean", "mean_to_whole"), ("p99", "p99_to_whole")):
            parts = [
                f"{row[key]['mean']:.2f} at {row['load']:g}" + ("" if row["stable"] else " (unstable)")
                for row in found
                if row["variant"] == name and not row[key]["low"] <= 1.0 <= row[key]["high"]
            ]
            words.append(f"{what} {', '.join(parts) if parts else 'the same'}")
        yield f"- `{name}`: {'; '.join(words)}."


def _tuner(found: Sequence[Row]) -> Iterator[str]:
    """The best knob of every load, known beforehand: no tuner of these knobs does better."""
    yield (
        f"What a tuner could gain: the least mean TTFT of any knob at a load whose p99 is at most "
        f"{100 * (SAME - 1):.0f} % above the whole policy's, and the other way round:"
    )
    yield ""
    for load in dict.fromkeys(row["load"] for row in found):
        rows = [
            row
            for row in found
            if row["load"] == load and row["stable"] and (is_knob(row["variant"]) or row["variant"] == WHOLE)
        ]
        words = []
        for what, key, other in (
            ("mean", "mean_to_whole", "p99_to_whole"),
            ("p99", "p99_to_whole", "mean_to_whole"),
        ):
            fit = [row for row in rows if row[other]["mean"] <= SAME]
            best = min(fit, key=lambda row: float(row[key]["mean"]), default=None)
            if best is not None:
                words.append(f"{what} {_interval(best[key])} with `{best['variant']}`")
        yield f"- {load:g}: {'; '.join(words)}."


def _table(found: Sequence[Row]) -> Iterator[str]:
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|---" * len(COLUMNS) + "|"
    for row in found:
        cells = [
            f"{row['load']:g}",
            f"`{row['variant']}`" if row["variant"] != WHOLE else "nothing",
            f"{row['ttft_mean_s']:.3f}" + ("" if row["stable"] else " UNSTABLE"),
            f"{row['ttft_p50_s']:.3f}",
            f"{row['ttft_p99_s']:.3f}",
            f"{row['ttft_max_s']:.2f}",
            _interval(row["mean_to_whole"]),
            _interval(row["p99_to_whole"]),
            f"{100 * row['busy']:.0f} %",
        ]
        yield "| " + " | ".join(cells) + " |"


def _interval(ratio: Mapping[str, float]) -> str:
    return f"{ratio['mean']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def about_variants() -> dict[str, str]:
    """Name to what it leaves out."""
    return {name: variant.about for name, variant in BY_NAME.items() if name != WHOLE}
