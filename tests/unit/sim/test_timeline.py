"""The timeline watches passes and adds them up; the waiting of requests is a mean over time."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from hortator.scheduler.core.model import GroupSpec, Phase
from hortator.sim.report.collect import mean_numbers
from hortator.sim.timeline import NUM_BINS, Timeline, Window, middle_window

NAN = float("nan")


@dataclass
class Load:
    pass_prefill_tokens: int
    pass_decode_tokens: int = 0


class AModel:
    """The running pass of a group."""

    def __init__(self, *tokens, decode=0):
        self.ranks = [Load(n) for n in tokens]
        self._loads = [Load(n, decode) for n in tokens]

    def loads(self, *, of_pass):
        assert of_pass
        return tuple(self._loads)


def a_spec(group_id="prefill-0"):
    return GroupSpec(
        group_id=group_id,
        phase=Phase.PREFILL,
        dp_size=2,
        chunk_budget_tokens=100,
        chunked_prefill=True,
        kv_blocks_total=100,
        max_batch_size=8,
    )


def a_timeline(**changed):
    values = {"groups": {"prefill-0": 2}, "window": Window(start_s=10.0, end_s=14.0), "run_s": 120.0}
    return Timeline(**(values | changed))


def test_the_window_is_in_the_middle_and_never_longer_than_the_run():
    assert middle_window(1200.0, 4.0) == Window(start_s=598.0, end_s=602.0)
    assert middle_window(3.0, 4.0) == Window(start_s=0.0, end_s=3.0)


@pytest.mark.parametrize(
    ("started_at", "is_kept"),
    [(8.9, False), (9.0, False), (9.1, True), (12.0, True), (13.9, True), (14.0, False)],
)
def test_passes_that_touch_the_window_are_kept(started_at, is_kept):
    timeline = a_timeline()
    timeline.on_pass(started_at, a_spec(), AModel(100, 50), 1.0)
    assert bool(timeline.passes) is is_kept


def test_a_kept_pass_has_the_tokens_of_every_rank():
    timeline = a_timeline()
    timeline.on_pass(11.0, a_spec(), AModel(100, 50, decode=3), 1.5)
    (kept,) = timeline.passes
    assert (kept.group_id, kept.started_at, kept.duration_s) == ("prefill-0", 11.0, 1.5)
    assert (kept.prefill_tokens, kept.decode_tokens, kept.tokens) == ((100, 50), (3, 3), (103, 53))


def test_groups_that_take_no_arrivals_are_left_out():
    timeline = a_timeline()
    timeline.on_pass(11.0, a_spec("decode-0"), AModel(100, 50), 1.0)
    assert not timeline.passes
    assert timeline.rank_time().filled_s == 0.0


def test_rank_time_is_filled_by_share_of_the_fullest_and_adds_up_to_all_ranks():
    timeline = a_timeline()
    timeline.on_pass(0.0, a_spec(), AModel(100, 50), 2.0)
    timeline.on_pass(3.0, a_spec(), AModel(0, 0, decode=4), 1.0)
    time = timeline.rank_time()
    assert (time.filled_s, time.bubble_s, time.decode_only_s) == (3.0, 1.0, 2.0)
    assert time.idle_s == pytest.approx(240.0 - 6.0)


def test_what_comes_after_the_arrivals_is_not_counted():
    timeline = a_timeline()
    timeline.on_pass(119.5, a_spec(), AModel(100, 100), 1.0)
    timeline.on_pass(120.0, a_spec(), AModel(100, 100), 1.0)
    assert timeline.rank_time().filled_s == pytest.approx(1.0)


def test_balance_is_the_mean_of_the_passes_that_start_in_a_bin():
    timeline = a_timeline()
    timeline.on_pass(0.1, a_spec(), AModel(100, 50), 0.2)
    timeline.on_pass(0.5, a_spec(), AModel(100, 100), 0.2)
    timeline.on_pass(119.9, a_spec(), AModel(0, 10), 0.2)
    balance = timeline.balance()
    assert len(balance) == NUM_BINS
    assert balance[0] == pytest.approx(0.875)
    assert balance[-1] == pytest.approx(0.5)
    assert np.isnan(balance[1:-1]).all()


def test_an_interval_counts_for_the_share_of_a_bin_that_it_covers():
    edges = np.array([0.0, 1.0, 2.0, 3.0])
    starts, ends = np.array([0.5, 1.25]), np.array([1.5, 1.75])
    assert mean_numbers(starts, ends, edges) == pytest.approx([0.5, 1.0, 0.0])


def test_what_never_began_never_counts_and_what_never_ended_counts_for_ever():
    edges = np.array([0.0, 1.0, 2.0])
    assert mean_numbers(np.array([NAN, 0.5]), np.array([NAN, NAN]), edges) == pytest.approx([0.5, 1.0])


def test_many_intervals_are_counted_as_one_by_one():
    rng = np.random.default_rng(5)
    starts = rng.uniform(-1.0, 10.0, 200)
    ends = starts + rng.exponential(1.0, 200)
    edges = np.linspace(0.0, 10.0, 21)
    one_by_one = [
        sum(max(0.0, min(end, high) - max(start, low)) for start, end in zip(starts, ends, strict=True))
        / (high - low)
        for low, high in pairwise(edges)
    ]
    assert mean_numbers(starts, ends, edges) == pytest.approx(one_by_one)


def test_without_requests_nothing_waits():
    assert mean_numbers(np.zeros(0), np.zeros(0), np.array([0.0, 1.0, 2.0])) == (0.0, 0.0)
