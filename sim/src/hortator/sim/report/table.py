"""The table of policies, with the best of every column marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hortator.sim.report import words
from hortator.sim.report.data import Report
from hortator.sim.report.markup import Markup, element
from hortator.sim.report.style import series

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A figure of every policy."""

    header: tuple[str, str]
    """Name and unit."""
    value: Callable[[Figures], float]
    text: words.Text
    best: Callable[[Sequence[float]], float] | None = None
    """min or max, where one of them is better whatever else is there."""
    hint: str = ""


COLUMNS = (
    Column(
        header=("TTFT mean", "ms"), value=lambda f: f["ttft_s"]["mean"], text=words.milliseconds, best=min
    ),
    Column(header=("p50", "ms"), value=lambda f: f["ttft_s"]["p50"], text=words.milliseconds, best=min),
    Column(header=("p99", "ms"), value=lambda f: f["ttft_s"]["p99"], text=words.milliseconds, best=min),
    Column(
        header=("tokens/s", "prompts"),
        value=lambda f: f["prefill_tokens_per_s"],
        text=words.compact,
        hint="Prompt tokens prefilled per virtual second; equal where every policy keeps up with the load",
    ),
    Column(
        header=("utilization", "of chunks"),
        value=lambda f: f["chunk_utilization"],
        text=words.percent,
        hint="Prefill tokens run over chunk budget times ranks, of passes with prefill",
    ),
    Column(
        header=("balance", "mean/max"),
        value=lambda f: f["balance_ratio"],
        text=words.percent,
        best=max,
        hint="Prefill tokens of the mean rank over those of the fullest, mean over passes",
    ),
    Column(
        header=("bubble", "of rank-time"),
        value=lambda f: f["bubble_ratio"],
        text=words.percent,
        best=min,
        hint="Share of rank-time inside prefill passes spent waiting for the fullest rank",
    ),
    Column(
        header=("hold", "ms, mean"),
        value=lambda f: f["hold_s"]["mean"],
        text=words.milliseconds,
        hint="Arrival to dispatch: in the scheduler",
    ),
    Column(
        header=("in-engine queue", "ms, mean"),
        value=lambda f: f["engine_queue_s"]["mean"],
        text=words.milliseconds,
        hint="Dispatch to the first pass that runs the request",
    ),
)


def policy_table(report: Report) -> Markup:
    """One row per policy."""
    best = report.best
    lowest = best.figures["ttft_s"]["mean"] if best is not None else 0.0
    tops = {column: _top(column, report) for column in COLUMNS if column.best is not None}
    rows = [
        element(
            "tr",
            element(
                "td",
                element("span", "", class_=f"chip {series(index)}"),
                run.policy,
                *_marks(run.figures, is_best=run is best and len(report.runs) > 1),
            ),
            *_cells(run.figures, lowest, tops),
            class_="best" if run is best and len(report.runs) > 1 else None,
        )
        for index, run in enumerate(report.runs)
    ]
    head = [element("th", "policy", scope="col"), *map(_header, COLUMNS)]
    head.insert(4, element("th", "vs best", element("br"), "mean", scope="col"))
    return element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        aria_label="Figures of every policy",
    )


def _header(column: Column) -> Markup:
    name, unit = column.header
    return element("th", name, element("br"), unit, scope="col", title=column.hint or None)


def _top(column: Column, report: Report) -> str | None:
    """The best text of the column, unless all are the same."""
    values = [column.value(run.figures) for run in report.runs if run.figures["completed"]]
    if column.best is None or len({column.text(value) for value in values}) < 2:
        return None
    return column.text(column.best(values))


def _cells(figures: Figures, lowest: float, tops: Mapping[Column, str | None]) -> list[Markup]:
    if not figures["completed"]:
        return [element("td", "–") for _ in range(len(COLUMNS) + 1)]
    cells = []
    for column in COLUMNS:
        text = column.text(column.value(figures))
        cells.append(element("td", text, class_="top" if text == tops.get(column) else None))
    times = f"{figures['ttft_s']['mean'] / lowest:.2f} ×" if lowest else ""
    cells.insert(3, element("td", times))
    return cells


def _marks(figures: Figures, *, is_best: bool) -> list[Markup]:
    marks = []
    if is_best:
        marks.append(("best", "Lowest mean TTFT of the policies that keep up"))
    if not figures["stable"]:
        marks.append(("unstable", "The queue kept growing: figures depend on the length of the run"))
    if figures["rejected"]:
        rejected = figures["rejected"]
        marks.append((f"{words.count(rejected)} rejected", "Requests that the scheduler refused"))
    return [element("span", text, class_="mark", title=hint) for text, hint in marks]
