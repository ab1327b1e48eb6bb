"""Aggregated topology: prefill and decode in the same passes, a request stays where it was placed."""

import pytest

from hortator.scheduler.core.events import RequestFinished
from hortator.scheduler.core.model import Phase


@pytest.fixture
def s(machine):
    """One group of two ranks; a chunk budget of 512 tokens."""
    scenario = machine(decode_reservation=True)
    scenario.join("a0", phase=Phase.AGGREGATED, chunk_budget_tokens=512)
    return scenario


def test_a_request_is_placed_once_for_its_whole_life(s, dispatched):
    """No decode placement, and no decode reservation."""
    (batch,) = dispatched(s.arrive("r", 64, now=0.0, max_output_tokens=128))
    assert (batch.phase, batch.group_id) == (Phase.AGGREGATED, "a0")
    s.run_pass("a0", start=0.1, end=0.2, batch_size=(1, 0), kv_blocks_used=(3, 0))
    assert s.machine.requests["r"].group_id == "a0"
    s.at(1.0, RequestFinished(request_id="r", num_output_tokens=100))
    assert s.machine.requests == {}
    assert s.group("a0").in_flight == {}


def test_kv_is_counted_for_the_prompt_and_the_expected_output(s):
    """64 + 1 + 128 tokens: 4 blocks."""
    s.arrive("r", 64, now=0.0, max_output_tokens=128)
    assert s.group("a0").kv_used == [4, 0]


def test_prefills_join_all_ranks_at_a_pass_boundary(s, members):
    """While decodes run: held during the pass, admitted together at its end."""
    s.start_pass("a0", now=0.0, batch_size=(3, 3))
    for i in range(4):
        assert s.arrive(f"r{i}", 200, now=0.01) == []
    assert members(s.end_pass("a0", now=0.05, batch_size=(3, 3))) == [["r0", "r1", "r2", "r3"]]
    assert sorted(s.where.values()) == [("a0", 0), ("a0", 0), ("a0", 1), ("a0", 1)]


@pytest.mark.parametrize("policy", ["staggered", "staggered-plus"])
def test_few_tokens_are_held_to_spare_the_running_decodes(machine, members, policy):
    """Under min_fill: until I = (T_hat + L_hat) / N after the last release, and at most max_hold."""
    s = machine(policy=policy)
    s.join("a0", phase=Phase.AGGREGATED, chunk_budget_tokens=512)
    for i in range(6):
        s.run_pass("a0", start=i * 0.05, end=i * 0.05 + 0.05, ran=(64, 64), batch_size=(3, 3))
    assert members(s.arrive("first", 64, now=0.3)) == [["first"]]
    s.start_pass("a0", now=0.3)
    s.arrive("second", 64, now=0.302)
    assert members(s.end_pass("a0", now=0.32, batch_size=(3, 3))) == []
    wakeup = s.machine.next_wakeup()
    assert 0.32 < wakeup < 0.36
    assert members(s.tick(wakeup)) == [["second"]]


def test_decodes_leave_less_of_the_chunk_budget_for_prefill(machine, members):
    """512 - 12 decode tokens hold one prompt of 300, not two of them."""
    s = machine(min_fill=0.0)
    s.join("a0", phase=Phase.AGGREGATED, dp_size=1, chunk_budget_tokens=512, max_batch_size=64)
    s.start_pass("a0", now=0.0)
    s.arrive("x", 300, now=0.01)
    s.arrive("y", 201, now=0.01)
    s.arrive("z", 200, now=0.01)
    assert members(s.end_pass("a0", now=0.05, batch_size=(12,))) == [["x", "z"]]


def test_a_prompt_that_decodes_leave_no_whole_pass_for_is_not_stuck(machine):
    """508 tokens fit the chunk budget, but not beside 12 decodes: it is chunked over two passes."""
    s = machine(min_fill=0.0)
    s.join("a0", phase=Phase.AGGREGATED, dp_size=1, chunk_budget_tokens=512, max_batch_size=64)
    s.report("a0", now=0.0, batch_size=(12,))
    s.arrive("r", 508, now=0.1)
    assert s.where == {"r": ("a0", 0)}


def test_a_prompt_whose_expected_output_would_not_fit_is_placed_on_an_empty_rank(machine):
    """A guess of the output must not make a request wait for ever: 100 blocks hold 6400 tokens."""
    s = machine()
    s.join("a0", phase=Phase.AGGREGATED, dp_size=1, kv_blocks_total=100)
    s.arrive("r", 6300, now=0.1, max_output_tokens=4096)
    assert s.where == {"r": ("a0", 0)}
    assert s.group("a0").kv_used == [100]
