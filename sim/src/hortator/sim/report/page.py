"""The page: headline, table and figures in one HTML file that asks for nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from hortator.sim.report import curves
from hortator.sim.report.gantt import gantt
from hortator.sim.report.runs import PolicyRun
from hortator.sim.report.svg import COLOURS, seconds

CSS = """
:root{--ink:#1d232b;--paper:#fff;--soft:#5b6672;--line:#b8c0c8;--best:#e7f4ee;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--paper:#14181d;--soft:#9aa5b1;--line:#4a545e;
--best:#173428}}
body{margin:0 auto;max-width:1140px;padding:32px 24px 80px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:30px;margin:0 0 4px}h2{font-size:21px;margin:44px 0 4px}
p{margin:4px 0 12px;max-width:72ch;color:var(--soft)}svg{width:100%;height:auto;display:block}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin-top:16px}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
td.best{background:var(--best);font-weight:600}i{display:inline-block;width:12px;height:12px;margin-right:8px}
@media print{body{max-width:none}h2{break-after:avoid}svg{break-inside:avoid}}
"""

Column = tuple[str, str, str | None, bool]
"""Heading, figure, part of it, whether less is better."""
COLUMNS: tuple[Column, ...] = (
    ("TTFT mean", "ttft_s", "mean", True),
    ("p50", "ttft_s", "p50", True),
    ("p99", "ttft_s", "p99", True),
    ("held", "hold_s", "mean", True),
    ("queued in engine", "engine_queue_s", "mean", True),
    ("prompt tokens/s", "prefill_tokens_per_s", None, False),
    ("chunk utilization", "chunk_utilization", None, False),
    ("balance", "balance_ratio", None, False),
    ("bubbles", "bubble_ratio", None, True),
)
UNMARKED = frozenset({"hold_s", "engine_queue_s", "prefill_tokens_per_s", "chunk_utilization"})
"""Neither more nor less of them is better by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What was simulated, in words."""

    service: str
    workload: str
    seed: int
    num_requests: int
    virtual_minutes: float
    version: str
    commit: str = ""


def figures(runs: Sequence[PolicyRun]) -> dict[str, str]:
    """Every figure as SVG, by name. Runs of several loads: all but the sweep are of the first one."""
    first = [run for run in runs if run.load == runs[0].load]
    colours = colours_of(first)
    found = {
        "ttft-distribution": curves.ttft_distribution(first, colours),
        "mean-waits": curves.mean_waits(first, colours),
        **{f"gantt-{run.policy}": gantt(run, colours[run.policy]) for run in first if run.passes},
        "balance-over-time": curves.balance_over_time(first, colours),
        "queue-over-time": curves.queue_over_time(first, colours),
    }
    if len({run.load for run in runs}) > 1:
        for which in ("mean", "p99"):
            found[f"load-{which}"] = curves.load_sweep(runs, colours, which=which)
    return found


def colours_of(runs: Sequence[PolicyRun]) -> dict[str, str]:
    """A colour for every policy."""
    return {run.policy: COLOURS[index % len(COLOURS)] for index, run in enumerate(runs)}


def page(headline: Headline, runs: Sequence[PolicyRun]) -> str:
    """The whole HTML document."""
    found = figures(runs)
    first = [run for run in runs if run.load == runs[0].load]
    gantts = "".join(svg for name, svg in found.items() if name.startswith("gantt-"))
    sections = [
        _section(
            "Time to first token",
            "Which share of the requests has its first token within so long. Further left is better.",
            found["ttft-distribution"],
        ),
        _section(
            "Where it is spent",
            "The mean of the same, by where the request is: held by the scheduler, queued inside the engine "
            "where nobody can reorder it, or in the passes that compute its prompt.",
            found["mean-waits"],
        ),
        _section(
            "Ranks, pass by pass",
            "A row is a DP rank, a box is a forward pass of an EP group, a bar is what the rank has to do in "
            "it. A pass lasts as long as its fullest rank: everything hatched is a GPU that waits.",
            gantts,
        ),
        _section(
            "Balance over time",
            "Mean over fullest rank of every pass, averaged over neighbouring passes.",
            found["balance-over-time"],
        ),
        _section(
            "The scheduler's queue", "Requests held. Immediate policies hold none.", found["queue-over-time"]
        ),
    ]
    if "load-mean" in found:
        sections.append(
            _section(
                "Against load", "The same policies at several loads.", found["load-mean"] + found["load-p99"]
            )
        )
    named = escape(f"{headline.service}: policies compared")
    about = (
        f"{headline.workload}, load {first[0].load:g}, {headline.num_requests:,} requests over "
        f"{headline.virtual_minutes:.1f} virtual minutes, seed {headline.seed}. Engines are a cost model of "
        f"DeepSeek-V3 on H800. Hortator {headline.version}"
    )
    if headline.commit:
        about += f", commit {headline.commit[:12]}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{named}</title><style>{CSS}</style></head><body>"
        f"<h1>{named}</h1><p>{escape(about)}.</p>{_table(first)}{''.join(sections)}</body></html>\n"
    )


def _section(heading: str, words: str, svg: str) -> str:
    return f"<h2>{escape(heading)}</h2><p>{escape(words)}</p>{svg}"


def _table(runs: Sequence[PolicyRun]) -> str:
    colours = colours_of(runs)
    head = "".join(f"<th>{escape(heading)}</th>" for heading, *_ in COLUMNS)
    best = {column: _best(column, runs) for column in COLUMNS if column[1] not in UNMARKED}
    rows = []
    for run in runs:
        name = escape(run.policy) + ("" if run.figures["stable"] else " (UNSTABLE)")
        cells = [f'<td><i style="background:{colours[run.policy]}"></i>{name}</td>']
        for column in COLUMNS:
            value = _figure(column, run.figures)
            mark = ' class="best"' if len(runs) > 1 and best.get(column) == value else ""
            cells.append(f"<td{mark}>{_written(column, value)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th>policy</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _best(column: Column, runs: Sequence[PolicyRun]) -> float:
    values = [_figure(column, run.figures) for run in runs]
    return min(values) if column[3] else max(values)


def _figure(column: Column, found: Mapping[str, object]) -> float:
    _, name, part, _ = column
    value = found[name]
    return float(value[part] if part is not None and isinstance(value, Mapping) else str(value))


def _written(column: Column, value: float) -> str:
    if column[1].endswith("_per_s"):
        return f"{value:,.0f}"
    return seconds(value) if column[1].endswith("_s") else f"{100 * value:.0f} %"
