"""Requests that are made as they are asked for are those that were made all at once."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from hortator.sim.arrivals import ArrivalMode, Arrivals, draw_times
from hortator.sim.streams import CHUNK_REQUESTS, GeneratedRequests, RetimedRequests
from hortator.sim.workload import LENGTHS, TraceRequest, generate, poisson_arrivals

GAMMA = Arrivals(mode=ArrivalMode.GAMMA)


def a_stream(lengths="conversation", *, seed=3, rate_per_s=50.0, duration_s=20.0):
    arrivals = poisson_arrivals(rate_per_s=rate_per_s, duration_s=duration_s)
    return GeneratedRequests.draw(lengths=LENGTHS[lengths], arrivals=arrivals, seed=seed)


def retimed(requests, *, num_tiles=1, **changes):
    fields = {"period_s": 10.0, "first_at": requests[0].arrived_at, "stretch": 0.5, "num_blocks": 100}
    return RetimedRequests(requests=requests, num_tiles=num_tiles, **(fields | changes))


class SlowSource:
    """A generator whose gaps are a third of what was asked for: one draw is not enough."""

    def __init__(self):
        self._rng = np.random.default_rng(0)

    def exponential(self, scale, size):
        return self._rng.exponential(scale / 3.0, size)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("duration_s", [0.2, 20.0, 2.5 * CHUNK_REQUESTS / 50.0])
def test_generated_requests_are_those_drawn_at_once(lengths, duration_s):
    """Some ten; a thousand; and two chunks and a half."""
    stream = a_stream(lengths, duration_s=duration_s)
    arrivals = poisson_arrivals(rate_per_s=50.0, duration_s=duration_s)
    at_once = generate(lengths=LENGTHS[lengths], arrivals=arrivals, seed=3)
    assert len(stream) == len(at_once) > 0
    assert tuple(stream) == at_once
    assert tuple(stream) == at_once  # as often as one likes


def test_the_first_requests_have_the_lengths_that_they_have_among_all():
    whole = a_stream()
    assert tuple(replace(whole, num_requests=100)) == tuple(whole)[:100]
    assert len(replace(whole, num_requests=100)) == 100


@pytest.mark.parametrize("num_at_once", [1, 7, 100, 1000])
def test_arrivals_are_the_same_bits_whatever_the_chunks(num_at_once):
    arrivals = poisson_arrivals(rate_per_s=10.0, duration_s=60.0)
    at_once = arrivals(np.random.default_rng(1))
    chunks = list(arrivals.chunks(np.random.default_rng(1), num_at_once))
    assert max(map(len, chunks)) <= num_at_once
    assert np.concatenate(chunks).tolist() == at_once.tolist()


@pytest.mark.parametrize("num_at_once", [7, 100, 10_000])
def test_where_one_draw_is_too_short_others_follow_it(num_at_once):
    """About 1 800 in the time of 600, drawn 724 at a time."""
    arrivals = poisson_arrivals(rate_per_s=10.0, duration_s=60.0)
    at_once = arrivals(SlowSource())
    assert len(at_once) == pytest.approx(1800, rel=0.1)
    assert at_once.tolist() == sorted(at_once)
    assert at_once[-1] < 60.0
    assert np.concatenate(list(arrivals.chunks(SlowSource(), num_at_once))).tolist() == at_once.tolist()


def test_some_of_a_stream_can_be_picked():
    stream = a_stream()
    everyone = tuple(stream)
    assert (stream[0], stream[17], stream[-1]) == (everyone[0], everyone[17], everyone[-1])
    assert stream[5:30:7] == everyone[5:30:7]
    with pytest.raises(IndexError):
        stream[len(everyone)]


@pytest.mark.parametrize("arrivals", [None, GAMMA], ids=["recorded", "drawn"])
def test_a_stream_travels_to_another_process_as_its_parameters(arrivals):
    stream = retimed(a_stream(), **({} if arrivals is None else {"arrivals": arrivals}))
    text = pickle.dumps(stream)
    assert len(text) < 2000
    there = pickle.loads(text)  # noqa: S301 - our own
    assert there == stream
    assert tuple(there) == tuple(stream)


@pytest.mark.parametrize("make", [tuple, lambda stream: stream], ids=["kept", "streamed"])
def test_recorded_times_are_stretched_and_moved_by_whole_tiles(make):
    base = make(a_stream(duration_s=2.0))
    num, first = len(base), base[0].arrived_at
    stream = retimed(base, num_tiles=3)
    assert len(stream) == 3 * num
    expected = [
        TraceRequest(
            arrived_at=(request.arrived_at - first) * 0.5 + tile * 10.0,
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=request.num_output_tokens,
        )
        for tile in range(3)
        for request in base
    ]
    assert list(stream) == expected


def test_drawn_times_replace_the_recorded_ones_and_no_length():
    base = tuple(a_stream(duration_s=2.0))
    stream = retimed(base, num_tiles=2, arrivals=GAMMA, seed=9)
    times = draw_times(GAMMA, np.random.default_rng(9), num_requests=2 * len(base), wall_s=20.0)
    assert [request.arrived_at for request in stream] == times.tolist()
    assert [request.num_prompt_tokens for request in stream] == 2 * [r.num_prompt_tokens for r in base]


def test_a_repetition_has_prefixes_of_its_own():
    base = tuple(
        TraceRequest(
            arrived_at=float(at),
            num_prompt_tokens=1024,
            num_output_tokens=1,
            prefix_block_ids=(0, at),
            prefix_block_tokens=512,
        )
        for at in range(3)
    )
    ids = [request.prefix_block_ids for request in retimed(base, num_tiles=2, num_blocks=3)]
    assert ids == [(0, 0), (0, 1), (0, 2), (3, 3), (3, 4), (3, 5)]
    assert {request.prefix_block_tokens for request in retimed(base, num_tiles=2, num_blocks=3)} == {512}
