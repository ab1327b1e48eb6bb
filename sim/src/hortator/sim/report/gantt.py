"""Ranks over time: one row per DP rank, a box per forward pass, and in it what the rank worked and waited.

Within a pass a rank is drawn as filled for its share of the pass: its tokens over those of the fullest rank.
The rest is the bubble. (The modelled pass also grows with the square of prompt lengths; tokens are what a
scheduler balances, so tokens are what is drawn.) In a pass without prefill, whose time hardly follows
its tokens, a rank is drawn as busy if it decodes anything. Between passes a row is empty: the rank idles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hortator.sim.report import words
from hortator.sim.report.axes import Scale, x_axis
from hortator.sim.report.data import PolicyRun
from hortator.sim.report.figure import Figure, legend
from hortator.sim.report.hatch import fill_of, hatch
from hortator.sim.report.markup import Markup, element, join, number
from hortator.sim.report.style import NUM_SHADES, series
from hortator.sim.timeline import ObservedPass, Window

WIDTH, LEFT, RIGHT, BOTTOM = 1160.0, 92.0, 10.0, 44.0
GROUP_GAP = 7.0
ROWS_HEIGHT = 272.0
"""That rows share, within the limits of one row."""
MIN_ROW, MAX_ROW = 3.0, 10.0
MAX_ROWS = 128
MAX_BOXES = 6000
"""Of one figure: the window is made shorter until every policy has fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBar:
    """One rank in one pass."""

    dp_rank: int
    start_s: float
    filled_s: float
    bubble_s: float
    tokens: int

    @property
    def filled_until_s(self) -> float:
        """Where its bubble begins."""
        return self.start_s + self.filled_s

    @property
    def end_s(self) -> float:
        """Where its bubble ends, with the pass."""
        return self.filled_until_s + self.bubble_s


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTotals:
    """What is drawn, in numbers: shares of the rank-time of the window."""

    num_passes: int
    filled: float
    bubble: float
    decode_only: float
    """In passes without prefill."""
    idle: float


def rank_bars(observed: ObservedPass) -> list[RankBar]:
    """Every rank of the pass."""
    fullest = max(observed.tokens) or 1
    is_prefill = any(observed.prefill_tokens)
    bars = []
    for dp_rank, tokens in enumerate(observed.tokens):
        share = tokens / fullest if is_prefill else float(tokens > 0)
        filled_s = observed.duration_s * share
        bars.append(
            RankBar(
                dp_rank=dp_rank,
                start_s=observed.started_at,
                filled_s=filled_s,
                bubble_s=observed.duration_s - filled_s if is_prefill else 0.0,
                tokens=tokens,
            )
        )
    return bars


def drawn_window(runs: Sequence[PolicyRun]) -> Window:
    """The window of the runs, or the middle of it where that would be too much to draw."""
    window = runs[0].window
    while any(_num_boxes(run, window) > MAX_BOXES for run in runs):
        quarter_s = 0.25 * window.duration_s
        window = Window(start_s=window.start_s + quarter_s, end_s=window.end_s - quarter_s)
    return window


def drawn_groups(run: PolicyRun) -> dict[str, int]:
    """Ranks by group id, of the first groups that fit."""
    groups: dict[str, int] = {}
    for group_id, num_ranks in run.groups.items():
        if groups and sum(groups.values()) + num_ranks > MAX_ROWS:
            break
        groups[group_id] = num_ranks
    return groups


def totals_in(run: PolicyRun, window: Window) -> WindowTotals:
    """Over the groups that are drawn."""
    groups = drawn_groups(run)
    passes = _passes_in(run, window, groups)
    filled_s = bubble_s = decode_only_s = 0.0
    for observed in passes:
        if not any(observed.prefill_tokens):
            end_s = observed.started_at + observed.duration_s
            decode_only_s += len(observed.tokens) * _overlap(observed.started_at, end_s, window)
            continue
        for bar in rank_bars(observed):
            filled_s += _overlap(bar.start_s, bar.filled_until_s, window)
            bubble_s += _overlap(bar.filled_until_s, bar.end_s, window)
    total_s = window.duration_s * sum(groups.values())
    return WindowTotals(
        num_passes=len(passes),
        filled=filled_s / total_s,
        bubble=bubble_s / total_s,
        decode_only=decode_only_s / total_s,
        idle=max(0.0, 1.0 - (filled_s + bubble_s + decode_only_s) / total_s),
    )


def gantt(run: PolicyRun, index: int, *, window: Window) -> Figure:
    """The ranks of one policy within the window; `index` is the policy's place in the report."""
    groups = drawn_groups(run)
    row = min(MAX_ROW, max(MIN_ROW, ROWS_HEIGHT / sum(groups.values())))
    name = f"gantt-{run.policy}"
    keys, keys_height = _keys(run, fill_of(f"{name}-hatch"))
    tops = _tops(groups, row, keys_height + 6)
    bottom = keys_height + 6 + row * sum(groups.values()) + GROUP_GAP * (len(groups) - 1)
    x = Scale(low=window.start_s, high=window.end_s, start=LEFT, end=WIDTH - RIGHT)
    passes = _passes_in(run, window, groups)
    parts = [
        hatch(f"{name}-hatch"),
        keys,
        x_axis(x, top=keys_height + 6, bottom=bottom + 3, label="virtual time (s)", text=_second),
        *(_track(group_id, num_ranks, tops[group_id], row, x) for group_id, num_ranks in groups.items()),
        *_boxes(passes, tops, row, x, run, hatched=fill_of(f"{name}-hatch")),
        *(_outline(observed, tops[observed.group_id], row, x, run) for observed in passes),
        element("line", class_="cursor", x1=LEFT, x2=LEFT, y1=keys_height + 2, y2=bottom + 3),
    ]
    totals = totals_in(run, window)
    some = "" if len(groups) == len(run.groups) else f" ({len(groups)} of {len(run.groups)} groups are drawn)"
    decode = f"{words.percent(totals.decode_only)} in passes without prefill, " if totals.decode_only else ""
    return Figure(
        name=name,
        title=f"{run.policy}: DP ranks per forward pass",
        caption=f"{words.percent(totals.filled)} of rank-time filled, {words.percent(totals.bubble)} bubble, "
        f"{decode}{words.percent(totals.idle)} idle in these {words.round_duration(window.duration_s)}, "
        f"{totals.num_passes} forward passes{some}.",
        width=WIDTH,
        height=bottom + BOTTOM,
        body=element("g", join(*parts), class_=f"ranks {series(index)}"),
    )


def _keys(run: PolicyRun, hatched: str) -> tuple[Markup, float]:
    """What the colours mean; returns the drawing and its height."""
    from_, swatch = LEFT + 14, 22.0
    shades = [
        element("rect", class_=f"w{shade}", x=from_ + shade * swatch, y=2, width=swatch, height=12)
        for shade in range(NUM_SHADES)
    ]
    end = from_ + NUM_SHADES * swatch
    most = f"{words.count(run.chunk_budget_tokens)} tokens of a rank in a pass"
    keys = [(hatched, "bubble: waits for the fullest rank"), ("idle", "idle: no pass")]
    if any(not any(observed.prefill_tokens) for observed in run.passes):
        keys.insert(0, ("decode", "decode only"))
    drawn, height = legend(keys, x=end + 240, y=2, width=WIDTH - end - 240)
    return (
        join(
            element("text", "0", x=LEFT, y=12.5),
            *shades,
            element("text", most, x=end + 6, y=12.5),
            drawn,
        ),
        height,
    )


def _num_boxes(run: PolicyRun, window: Window) -> int:
    groups = drawn_groups(run)
    return sum(groups[observed.group_id] for observed in _passes_in(run, window, groups))


def _passes_in(run: PolicyRun, window: Window, groups: Mapping[str, int]) -> list[ObservedPass]:
    return [
        observed
        for observed in run.passes
        if observed.group_id in groups
        and observed.started_at < window.end_s
        and observed.started_at + observed.duration_s > window.start_s
    ]


def _overlap(start_s: float, end_s: float, window: Window) -> float:
    return max(0.0, min(end_s, window.end_s) - max(start_s, window.start_s))


def _tops(groups: Mapping[str, int], row: float, top: float) -> dict[str, float]:
    tops = {}
    for group_id, num_ranks in groups.items():
        tops[group_id] = top
        top += row * num_ranks + GROUP_GAP
    return tops


def _track(group_id: str, num_ranks: int, top: float, row: float, x: Scale) -> Markup:
    """A group's rows while nothing runs, and its name."""
    height = row * num_ranks
    return join(
        element("rect", class_="idle", x=x.start, y=top, width=x.end - x.start, height=height),
        element("text", group_id, class_="end", x=x.start - 8, y=top + 0.5 * height + 1),
        element(
            "text",
            words.plural(num_ranks, "rank"),
            class_="soft end",
            x=x.start - 8,
            y=top + 0.5 * height + 15,
        ),
    )


def _boxes(
    passes: Sequence[ObservedPass],
    tops: Mapping[str, float],
    row: float,
    x: Scale,
    run: PolicyRun,
    *,
    hatched: str,
) -> Iterator[Markup]:
    """One path per colour, so that thousands of boxes stay small."""
    drawn: dict[str, list[str]] = defaultdict(list)
    for observed in passes:
        is_prefill = any(observed.prefill_tokens)
        for bar in rank_bars(observed):
            y = tops[observed.group_id] + bar.dp_rank * row
            colour = _shade(bar.tokens, run.chunk_budget_tokens) if is_prefill else "decode"
            drawn[colour].append(_box(x(bar.start_s), x(bar.filled_until_s), y, row))
            drawn["bubble"].append(_box(x(bar.filled_until_s), x(bar.end_s), y, row))
    for colour in sorted(drawn):
        d = "".join(drawn[colour])
        if d and colour == "bubble":
            yield element("path", fill=hatched, d=d)
        elif d:
            yield element("path", class_=colour, d=d)


def _shade(tokens: int, budget: int) -> str:
    return f"w{min(NUM_SHADES - 1, NUM_SHADES * tokens // budget)}"


def _box(left: float, right: float, top: float, height: float) -> str:
    """A rectangle as part of a path; nothing where it would not be seen."""
    if right - left < 0.01:
        return ""
    width = number(right - left)
    return f"M{number(left)} {number(top)}h{width}v{number(height)}h-{width}z"


def _outline(observed: ObservedPass, top: float, row: float, x: Scale, run: PolicyRun) -> Markup:
    """The border of a pass, which says its figures when pointed at."""
    start, end = x(observed.started_at), x(observed.started_at + observed.duration_s)
    fullest = max(observed.tokens) or 1
    mean = sum(observed.tokens) / len(observed.tokens)
    says = (
        f"{run.policy}, {observed.group_id}\n"
        f"{observed.started_at:.3f} s, {words.duration(observed.duration_s)}\n"
        f"fullest rank {words.count(fullest)} tokens, mean {words.count(mean)}\n"
        f"bubble {words.percent(1.0 - mean / fullest)}"
    )
    return element(
        "rect",
        element("title", says),
        class_="hit",
        x=start,
        y=top,
        width=end - start,
        height=row * len(observed.tokens),
    )


def _second(value: float) -> str:
    return f"{value:,.10g}"
