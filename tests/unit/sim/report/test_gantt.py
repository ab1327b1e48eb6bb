"""Ranks over time: a bubble is as wide as it was long."""

import re

import pytest

from doubles.report_data import BUDGET, a_pass, a_run, parsed
from hortator.sim.report.figure import inline
from hortator.sim.report.gantt import (
    LEFT,
    MAX_BOXES,
    MAX_ROWS,
    RIGHT,
    WIDTH,
    drawn_groups,
    drawn_window,
    gantt,
    rank_bars,
    totals_in,
)
from hortator.sim.timeline import Window

WINDOW = Window(start_s=10.0, end_s=14.0)
SECOND = (WIDTH - LEFT - RIGHT) / 4.0
"""Pixels of a second in that window."""
HALF_PIXEL_DIGIT = 0.011
"""Coordinates have two decimals."""


def boxes(run, window=WINDOW):
    """Every drawn box by what fills it: (x, y, width), from the top, then from the left."""
    svg = parsed(inline(gantt(run, 0, window=window)))
    found = {}
    for path in svg.iter("{http://www.w3.org/2000/svg}path"):
        if path.get("class") == "stripe":
            continue
        paint = "bubble" if path.get("fill", "").startswith("url(#") else path.get("class")
        found[paint] = sorted(
            (float(y), float(x), float(width))
            for x, y, width in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v", path.get("d"))
        )
    return {paint: [(x, y, width) for y, x, width in drawn] for paint, drawn in found.items()}


def test_each_rank_is_filled_for_its_share_of_the_fullest_and_the_rest_is_bubble():
    drawn = boxes(a_run(passes=[a_pass(6000, 3000, 0, started_at=11.0, duration_s=2.0)]))
    bubbles = drawn["bubble"]
    assert [width for _, _, width in bubbles] == pytest.approx(
        [1.0 * SECOND, 2.0 * SECOND], abs=HALF_PIXEL_DIGIT
    )
    assert bubbles[0][0] == pytest.approx(LEFT + 2.0 * SECOND, abs=HALF_PIXEL_DIGIT)
    assert bubbles[1][0] == pytest.approx(LEFT + 1.0 * SECOND, abs=HALF_PIXEL_DIGIT)
    (fullest,) = drawn["w5"]
    assert fullest[2] == pytest.approx(2.0 * SECOND, abs=HALF_PIXEL_DIGIT)
    (half,) = drawn["w3"]
    assert half[2] == pytest.approx(1.0 * SECOND, abs=HALF_PIXEL_DIGIT)


def test_ranks_are_rows_in_their_order():
    drawn = boxes(a_run(passes=[a_pass(6000, 3000, 0)]))
    top = drawn["w5"][0][1]
    row = drawn["w3"][0][1] - top
    assert row > 0
    assert [y for _, y, _ in drawn["bubble"]] == pytest.approx([top + row, top + 2 * row])


def test_groups_are_below_each_other():
    run = a_run(
        groups={"prefill-0": 2, "prefill-1": 2},
        passes=[a_pass(6000, 6000), a_pass(6000, 6000, group_id="prefill-1")],
    )
    ys = [y for _, y, _ in boxes(run)["w5"]]
    assert len(ys) == 4
    assert ys[2] - ys[1] > ys[1] - ys[0] == pytest.approx(ys[3] - ys[2])


def test_a_pass_with_even_ranks_has_no_bubble():
    assert "bubble" not in boxes(a_run(passes=[a_pass(500, 500, 500)]))


def test_nothing_is_drawn_where_no_pass_runs():
    drawn = boxes(a_run(passes=[a_pass(1, 1, 1, started_at=10.0), a_pass(1, 1, 1, started_at=12.0)]))
    assert {x for x, _, _ in drawn["w0"]} == {LEFT, round(LEFT + 2 * SECOND, 2)}
    assert all(width == pytest.approx(SECOND, abs=HALF_PIXEL_DIGIT) for _, _, width in drawn["w0"])


def test_what_is_outside_of_the_window_is_cut_off():
    run = a_run(passes=[a_pass(6000, 3000, 0, started_at=9.5), a_pass(6000, 3000, 0, started_at=13.5)])
    for drawn in boxes(run).values():
        assert all(x >= LEFT and x + width <= WIDTH - RIGHT + HALF_PIXEL_DIGIT for x, _, width in drawn)
    assert sum(width for _, _, width in boxes(run)["w5"]) == pytest.approx(SECOND, abs=2 * HALF_PIXEL_DIGIT)


def test_more_tokens_are_a_stronger_shade_and_the_budget_is_the_strongest():
    shades = [
        max(boxes(a_run(passes=[a_pass(tokens, tokens, tokens)])))
        for tokens in (1, BUDGET // 2, BUDGET - 1, BUDGET)
    ]
    assert shades == ["w0", "w3", "w5", "w5"]


def test_in_a_pass_without_prefill_a_rank_decodes_or_idles_and_nothing_is_bubble():
    run = a_run(passes=[a_pass(0, 0, 0, decode_tokens=(8, 4, 0))])
    drawn = boxes(run)
    assert [width for _, _, width in drawn["decode"]] == pytest.approx([SECOND, SECOND], abs=HALF_PIXEL_DIGIT)
    assert set(drawn) == {"decode"}
    totals = totals_in(run, WINDOW)
    assert (totals.filled, totals.bubble, totals.decode_only) == (0.0, 0.0, 0.25)
    assert "25 % in passes without prefill" in gantt(run, 0, window=WINDOW).caption.replace("\u00a0", " ")


def test_decodes_beside_prefill_fill_their_rank_as_well():
    first, second = rank_bars(a_pass(6000, 2990, decode_tokens=(0, 10)))
    assert (first.bubble_s, second.filled_s) == (0.0, 0.5)


def test_the_numbers_below_a_figure_are_those_of_what_is_drawn():
    totals = totals_in(a_run(passes=[a_pass(6000, 3000, 0, started_at=9.0, duration_s=2.0)]), WINDOW)
    # In the window: a second of the fullest, nothing of the half-filled, three seconds in all of 12.
    assert totals.num_passes == 1
    assert totals.filled == pytest.approx(1 / 12)
    assert totals.bubble == pytest.approx(2 / 12)
    assert totals.idle == pytest.approx(9 / 12)


def test_a_window_with_too_much_in_it_is_made_shorter_around_its_middle_for_every_policy():
    many = [a_pass(1, 1, 1, started_at=10.0 + index / 1000, duration_s=0.001) for index in range(4000)]
    busy = a_run("busy", passes=many)
    assert 3 * len(many) > MAX_BOXES
    window = drawn_window([a_run("calm"), busy])
    assert window.start_s + window.end_s == pytest.approx(24.0)
    assert 0.0 < window.duration_s < 4.0
    assert sum(len(drawn) for drawn in boxes(busy, window).values()) <= MAX_BOXES


def test_of_many_groups_the_first_are_drawn_and_the_figure_says_so():
    run = a_run(groups={f"prefill-{index}": 16 for index in range(63)}, passes=[])
    assert sum(drawn_groups(run).values()) == MAX_ROWS
    assert "(8 of 63 groups are drawn)" in gantt(run, 0, window=WINDOW).caption


def test_a_group_larger_than_the_figure_is_drawn_all_the_same():
    assert drawn_groups(a_run(groups={"prefill-0": 4 * MAX_ROWS}, passes=[])) == {"prefill-0": 4 * MAX_ROWS}


def test_a_pass_says_when_it_was_and_what_it_lost():
    (title,) = parsed(inline(gantt(a_run(), 0, window=WINDOW))).iter("{http://www.w3.org/2000/svg}title")
    assert title.text.replace("\u00a0", " ").splitlines() == [
        "staggered, prefill-0", "10.000 s, 1.00 s", "fullest rank 6,000 tokens, mean 3,000", "bubble 50 %",
    ]  # fmt: skip
