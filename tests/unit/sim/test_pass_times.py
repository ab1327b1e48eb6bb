"""Gaps between tokens, counted per pass, against a list of every gap of every request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
