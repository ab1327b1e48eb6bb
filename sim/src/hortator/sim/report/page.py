"""The page: what was simulated, who was best, and every figure. One file that needs nothing else.

It is HTML and well-formed XML at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hortator.sim.load import MIN_RUN_S
from hortator.sim.report import words
from hortator.sim.report.bars import rank_time, waits
from hortator.sim.report.data import Report
from hortator.sim.report.distribution import cdf, histogram
from hortator.sim.report.figure import Figure, inline
from hortator.sim.report.gantt import drawn_window, gantt
from hortator.sim.report.markup import Markup, element
from hortator.sim.report.over_time import balance, waiting
from hortator.sim.report.page_style import page_css
from hortator.sim.report.script import SCRIPT
from hortator.sim.report.style import figure_css, series
from hortator.sim.report.sweep import sweep
from hortator.sim.report.table import policy_table


def figures(report: Report) -> tuple[Figure, ...]:
    """Every figure of the page, in its order."""
    return (
        *_sweep(report),
        cdf(report.runs),
        histogram(report.runs),
        waits(report.runs),
        rank_time(report.runs),
        *_gantts(report),
        balance(report.runs, report.run_s),
        *waiting(report.runs, report.run_s),
    )


def page(report: Report) -> str:
    """The whole file."""
    document = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="generator", content=f"hortator {report.version}"),
            element("title", f"{report.service}: {words.listed(report.policies)}"),
            element("style", Markup(page_css() + "\n" + figure_css())),
        ),
        element(
            "body",
            element("main", *_content(report)),
            element("div", "", id="tip", role="tooltip"),
            element("script", Markup(SCRIPT)),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{document}\n"


def headline(report: Report) -> str:
    """The result in a sentence or two."""
    best = report.best
    if best is None:
        return "No request got its first token."
    ttft = best.figures["ttft_s"]
    mean, p99 = words.duration(ttft["mean"]), words.duration(ttft["p99"])
    means = {run.policy: run.figures["ttft_s"]["mean"] for run in report.runs if run.figures["completed"]}
    if len(means) == 1:
        text = f"{best.policy}: mean TTFT {mean}, p99 {p99}."
    else:
        of = " of the policies that keep up" if min(means.values()) < ttft["mean"] else ""
        text = f"{best.policy} has the lowest mean TTFT{of}: {mean} (p99 {p99})."
        worst = max(means, key=means.__getitem__)
        if means[worst] > ttft["mean"]:
            times = f"{means[worst] / ttft['mean']:.2f} times as long"
            text += f" {worst} takes {words.duration(means[worst])}, {times}."
    if bound_s := report.sweep[0].bound_s:
        text += f" No scheduler can go below {words.duration(bound_s)} here."
    return text


def _content(report: Report) -> Iterator[Markup]:
    yield element("h1", report.service)
    yield element("p", "Scheduling policies on the same requests, simulated in virtual time", class_="soft")
    yield element("p", *_lead(report), class_="lead")
    yield element("dl", *_facts(report), class_="facts")
    yield element("div", policy_table(report), class_="scroll")
    yield element("p", _note(report), class_="soft")
    yield _switches(report)
    if loads := _sweep(report):
        yield _section(
            "TTFT against load", f"Everything below is at load {report.load:g}.", loads, is_pair=True
        )
    yield _section(
        "Time to first token",
        "All counted requests.",
        (cdf(report.runs), histogram(report.runs)),
        is_pair=True,
    )
    yield _section(
        "Where time goes",
        "Left: a request's way to its first token. Right: what the DP ranks do meanwhile.",
        (waits(report.runs), rank_time(report.runs)),
        is_pair=True,
    )
    window = drawn_window(report.runs)
    yield element("h2", "DP ranks, pass by pass")
    yield element(
        "p",
        f"The same {words.round_duration(window.duration_s)} in the middle of the run for every policy, on "
        "the same time axis. One row per DP rank, group after group. A box is a forward pass: all ranks of a "
        "group start and end it together, so each waits (striped) for the one with the most tokens. "
        "The stronger the blue, the more tokens.",
    )
    for index, drawn in enumerate(_gantts(report)):
        heading = element("h3", element("span", "", class_=f"chip {series(index)}"), report.policies[index])
        yield element("div", heading, _figure(drawn), class_=f"of-{series(index)}")
    yield _section("Over the run", "What a mean hides.", (balance(report.runs, report.run_s),), is_pair=False)
    yield element("div", *map(_titled, waiting(report.runs, report.run_s)), class_="pair")
    yield _footer(report)


def _sweep(report: Report) -> tuple[Figure, ...]:
    return sweep(report.sweep) if len(report.sweep) > 1 else ()


def _gantts(report: Report) -> tuple[Figure, ...]:
    window = drawn_window(report.runs)
    return tuple(gantt(run, index, window=window) for index, run in enumerate(report.runs))


def _section(title: str, text: str, drawn: Sequence[Figure], *, is_pair: bool) -> Markup:
    return element(
        "section",
        element("h2", title),
        element("p", text, class_="soft"),
        element("div", *map(_titled, drawn), class_="pair" if is_pair else None),
    )


def _titled(figure: Figure) -> Markup:
    return element(
        "figure", element("h3", figure.title), inline(figure), element("figcaption", figure.caption)
    )


def _figure(figure: Figure) -> Markup:
    return element("figure", inline(figure), element("figcaption", figure.caption))


def _lead(report: Report) -> tuple[str, ...]:
    """The headline, the best policy in bold."""
    text, best = headline(report), report.best
    if best is None:
        return (text,)
    return element("strong", best.policy), text.removeprefix(best.policy)


def _facts(report: Report) -> Iterator[Markup]:
    for role in report.roles:
        groups = words.plural(role.num_groups, "EP group")
        size = f"{groups} × {words.plural(role.ranks_per_group, 'DP rank')}"
        if role.chunk_budget_tokens:
            budget = f"chunk budget {words.count(role.chunk_budget_tokens)} tokens"
            yield _fact(role.name.lower(), size, budget)
        else:
            yield _fact(role.name.lower(), "left out" if report.prefill_only else size, "")
    yield _fact("load", f"{report.load:g}", "of the prefill capacity")
    yield _fact(
        "requests", words.count(report.num_requests), f"{words.compact(report.num_requests / report.run_s)}/s"
    )
    yield _fact("arrivals", report.workload, "")
    yield _fact("virtual time", words.duration(report.run_s), "")
    yield _fact("seed", str(report.seed), "")


def _fact(name: str, value: str, detail: str) -> Markup:
    small = [" ", element("small", detail)] if detail else []
    return element("div", element("dt", name), element("dd", value, *small))


def _note(report: Report) -> str:
    note = "Bold: the best of a column."
    if report.runs[0].figures["short"]:
        note += f" A first look: figures to quote run {MIN_RUN_S / 60:g} virtual minutes or more."
    return note


def _switches(report: Report) -> Markup:
    buttons = [
        element(
            "button",
            element("span", "", class_=f"chip {series(index)}"),
            policy,
            type="button",
            value=series(index),
            aria_pressed="true",
        )
        for index, policy in enumerate(report.policies)
    ]
    return element("nav", element("span", "Show", class_="soft"), *buttons, aria_label="Policies shown")


def _footer(report: Report) -> Markup:
    commit = f", commit {report.commit[:12]}" if report.commit else ""
    changed = " with changes" if report.is_modified else ""
    return element(
        "footer",
        element("p", f"hortator {report.version}{commit}{changed}. The same page again:"),
        element("pre", element("code", report.command)),
        element(
            "p",
            "The scheduler is the one that serves; engines are modelled (H800 cost model). TTFT runs from "
            "arrival to the end of the pass that completes the prompt. Requests that arrive while the run "
            "warms up are simulated and not counted.",
        ),
    )
