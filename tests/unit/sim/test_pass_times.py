"""Gaps between tokens, counted per pass, against a list of every gap of every request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortator.sim.distribution import Distribution
from hortator.sim.pass_times import PassTimes

durations = st.lists(st.integers(1, 9), min_size=1, max_size=12)
spans = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=8)


@given(durations=durations, spans=spans, limit=st.integers(1, 9))
def test_gaps_are_those_of_every_token_of_every_request(durations, spans, limit):
    passes = PassTimes(itl_limit_s=float(limit))
    ends = [0.0]
    for duration in durations:
        ends.append(ends[-1] + duration)
        passes.end(ends[-1])
    every_gap: list[float] = []
    for first, num_gaps in spans:
        if first + num_gaps > len(durations):
            continue
        own = [ends[number] - ends[number - 1] for number in range(first + 1, first + num_gaps + 1)]
        assert passes.count(first, num_gaps) == sum(gap > limit for gap in own)
        every_gap += own
    gaps, times = passes.gaps()
    counted = [gap for gap, n in zip(gaps.tolist(), times.tolist(), strict=True) for _ in range(n)]
    assert sorted(counted) == sorted(every_gap)


def test_a_request_of_two_tokens_has_no_gap_but_its_first():
    passes = PassTimes()
    passes.end(1.0)
    assert passes.count(1, 0) == 0
    assert passes.count(1, -1) == 0
    assert passes.gaps()[1].tolist() == [0]


@given(
    durations=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    lengths=st.lists(st.integers(0, 12), min_size=30, max_size=30),
    settled=st.sets(st.integers(1, 30)),
    limit=st.integers(1, 9),
)
def test_settling_what_no_decode_reaches_back_to_changes_nothing(durations, lengths, settled, limit):
    """A request joins in every pass and ends so many passes later."""
    plain, short = PassTimes(itl_limit_s=float(limit)), PassTimes(itl_limit_s=float(limit))
    now, num_kept = 0.0, 0
    for number, duration in enumerate(durations, start=1):
        now += duration
        plain.end(now)
        short.end(now)
        assert short.num_ended == number
        for first, length in enumerate(lengths[:number], start=1):
            if first + length == number:
                assert short.end_of(first) == plain.end_of(first)
                assert short.count(first, length) == plain.count(first, length)
        if number in settled:
            live = [
                first for first, length in enumerate(lengths[:number], start=1) if first + length > number
            ]
            num_kept += short.settle(min(live, default=number))
    gaps, times = plain.gaps()
    short_gaps, short_times = short.gaps()
    assert short_gaps[short_times > 0].tolist() == gaps[times > 0].tolist()
    assert short_times[short_times > 0].tolist() == times[times > 0].tolist()
    sums = Distribution()
    short.sum_up(sums)
    assert int((short.gaps()[1] > 0).sum()) == int((times > 0).sum()) - num_kept
    sums.add(*short.gaps())
    assert sums.num == times.sum()


def test_passes_without_tokens_are_forgotten():
    """2 000 of a prefill group."""
    passes = PassTimes()
    for number in range(1, 2001):
        passes.end(float(number))
        if passes.has_many:
            assert passes.settle(number) == 0
    gaps, times = passes.gaps()
    assert len(gaps) == len(times) < 256
    assert passes.num_ended == 2000
    assert passes.end_of(2000) == 2000.0


def test_a_settled_pass_cannot_be_asked_for():
    passes = PassTimes()
    for number in range(1, 6):
        passes.end(float(number))
    passes.settle(3)
    assert passes.end_of(3) == 3.0
    assert passes.count(3, 2) == 0
    with pytest.raises(ValueError, match="pass 2 is settled"):
        passes.end_of(2)
    with pytest.raises(ValueError, match="pass 2 is settled"):
        passes.count(2, 1)
