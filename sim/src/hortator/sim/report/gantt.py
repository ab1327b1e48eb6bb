"""Ranks over time: every pass of a few seconds, and how much of it every rank waits for the fullest.

One row per DP rank, EP group under EP group. A pass is a hatched box over all rows of its group, and on each
row a bar as long as that rank's share of the fullest rank's tokens: what stays hatched is a bubble. Where
there is no box the group is idle. A pass that began before the window is drawn from the window's begin.
"""

from __future__ import annotations

from hortator.sim.report.runs import PolicyRun
from hortator.sim.report.svg import Frame, picture, round_ticks, seconds, tag, text, title
from hortator.sim.timeline import PassShape

ROW = 5.0
GROUP_GAP = 8.0


def gantt(run: PolicyRun, colour: str) -> str:
    """The figure of one policy."""
    groups = sorted({shape.group_id for shape in run.passes})
    ranks = {shape.group_id: len(shape.prefill_tokens) for shape in run.passes}
    tops: dict[str, float] = {}
    y = 22.0
    for group in groups:
        tops[group] = y
        y += ROW * ranks[group] + GROUP_GAP
    begin, end = run.window_s
    frame = Frame(left=86.0, top=22.0, width=1014.0, height=max(10.0, y - GROUP_GAP - 22.0))
    across = frame.across(begin, end)
    hatch = f"hatch-{run.policy}"
    pattern = tag(
        "pattern",
        tag("rect", width=6, height=6, fill=colour, opacity=0.1),
        tag("path", d="M0 6L6 0", stroke=colour, stroke_width=1, opacity=0.45),
        id=hatch,
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
    )
    parts = [tag("defs", pattern), text(run.policy, frame.left, 14, class_="name")]
    for group in groups:
        height = ROW * ranks[group]
        middle = tops[group] + height / 2 + 4
        parts.append(text(group, frame.left - 8, middle, text_anchor="end", class_="small"))
        parts.append(
            tag(
                "rect",
                x=frame.left,
                y=tops[group],
                width=frame.width,
                height=height,
                fill="none",
                class_="axis",
            )
        )
    for shape in run.passes:
        left = across(max(begin, shape.started_at))
        right = across(min(end, shape.started_at + shape.duration_s))
        if right > left:
            parts.append(
                _pass(
                    shape,
                    left=left,
                    right=right,
                    top=tops[shape.group_id],
                    pixels_per_s=frame.width / (end - begin),
                    colour=colour,
                    hatch=hatch,
                )
            )
    for tick in round_ticks(0.0, end - begin, most=8):
        x = across(begin + tick)
        parts.append(text(f"{tick:g} s", x, frame.bottom + 16, text_anchor="middle", class_="small"))
    label = f"{run.policy}: ranks per pass over {end - begin:g} s; hatched: waiting for the fullest rank"
    return picture(frame.right + 16, frame.bottom + 24, *parts, label=label)


def _pass(
    shape: PassShape,
    *,
    left: float,
    right: float,
    top: float,
    pixels_per_s: float,
    colour: str,
    hatch: str,
) -> str:
    fullest = max(shape.prefill_tokens)
    bars = []
    for rank, tokens in enumerate(shape.prefill_tokens):
        share = tokens / fullest if fullest else 0.0
        width = min(right - left, pixels_per_s * shape.duration_s * share)
        if width > 0:
            bars.append(f"M{left:.1f} {top + ROW * rank + 0.5:.1f}h{width:.1f}v{ROW - 1:.1f}h{-width:.1f}z")
    balance = sum(shape.prefill_tokens) / len(shape.prefill_tokens) / fullest if fullest else 0.0
    said = (
        f"{shape.group_id}: pass of {seconds(shape.duration_s)}, "
        f"{sum(shape.prefill_tokens):,} prompt tokens, "
        f"fullest rank {fullest:,}, balance {100 * balance:.0f} %"
    )
    if shape.num_decodes:
        said += f", {shape.num_decodes} sequences decode"
    box = tag(
        "rect",
        x=left,
        y=top,
        width=right - left,
        height=ROW * len(shape.prefill_tokens),
        fill=f"url(#{hatch})",
        stroke=colour,
        stroke_width=0.8,
    )
    return tag("g", title(said), box, tag("path", d="".join(bars), fill=colour) if bars else "")
