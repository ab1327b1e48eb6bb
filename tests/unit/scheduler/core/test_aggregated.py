"""Aggregated topology: prefill and decode in the same passes, a request stays where it was placed."""

import pytest

from hortator.scheduler.core.events import RequestFinished
from hortator.scheduler.core.model import LatencyClass, Phase


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
def test_newcomers_are_held_until_together_they_waited_as_long_as_they_would_delay_the_others(
    machine, members, policy
):
    """Passes of 40 ms, 56 ms with prefill; 8 of 16 slots run: harm 16 ms x 8 x 0.5 / 0.5 / weight 4 = 32 ms.

    Two that have waited 16 ms each are admitted, at a pass boundary 10 ms after they came they are not.
    """
    s = machine(policy=policy, first_token_weight=4.0)
    s.join("a0", phase=Phase.AGGREGATED, chunk_budget_tokens=512, max_batch_size=8)
    for i in range(20):
        ran, took = ((8, 8), 0.056) if i % 2 else ((0, 0), 0.040)
        s.run_pass("a0", start=float(i), end=i + took, ran=ran, batch_size=(4, 4))
    assert s.group("a0").mixed_passes.extra_s == pytest.approx(0.016)
    s.start_pass("a0", now=20.0, batch_size=(4, 4))
    s.arrive("a", 30, now=20.03)
    s.arrive("b", 30, now=20.03)
    assert members(s.end_pass("a0", now=20.04, batch_size=(4, 4))) == []
    assert s.machine.next_wakeup() == pytest.approx(20.046)
    (batch,) = members(s.tick(20.0461))
    assert sorted(batch) == ["a", "b"]


def test_nobody_is_held_on_an_empty_group(machine, members):
    """Nothing runs that a longer pass could delay."""
    s = machine()
    s.join("a0", phase=Phase.AGGREGATED)
    assert members(s.arrive("r", 30, now=1.0)) == [["r"]]


def test_a_full_set_of_newcomers_is_admitted_at_once(machine, members):
    """Two per rank; three are held."""
    s = machine(first_token_weight=0.001)
    s.join("a0", phase=Phase.AGGREGATED, chunk_budget_tokens=4096, max_batch_size=16)
    s.report("a0", now=0.5, batch_size=(8, 8))
    for i in range(3):
        assert s.arrive(f"r{i}", 30, now=1.0) == []
    assert members(s.arrive("r3", 30, now=1.0)) == [["r0", "r1", "r2", "r3"]]


def test_newcomers_without_a_slot_do_not_make_those_that_have_one_go_alone(machine, members):
    """One slot is free and many wait: the one that could go is held as if it were alone."""
    s = machine(first_token_weight=0.001)
    s.join("a0", phase=Phase.AGGREGATED, chunk_budget_tokens=4096, max_batch_size=8)
    s.report("a0", now=0.5, batch_size=(8, 8))
    for i in range(10):
        s.arrive(f"r{i}", 30, now=1.0)
    assert members(s.report("a0", now=1.1, batch_size=(7, 8))) == []
    assert members(s.report("a0", now=1.2, batch_size=(6, 6))) == [["r0", "r1", "r2", "r3"]]


def test_the_hold_for_others_ends_with_max_hold(machine, members):
    """2 s by default."""
    s = machine(first_token_weight=0.001)
    s.join("a0", phase=Phase.AGGREGATED, max_batch_size=8)
    s.report("a0", now=0.5, batch_size=(4, 4))
    assert s.arrive("r", 30, now=1.0) == []
    assert members(s.tick(2.99)) == []
    assert members(s.tick(3.0)) == [["r"]]


def test_immediate_least_delay_spreads_over_ranks_that_have_nothing_to_prefill(machine):
    """Of equally empty ranks the one with the fewest requests."""
    s = machine(policy="immediate-least-delay")
    s.join("a0", phase=Phase.AGGREGATED)
    s.report("a0", now=0.5, batch_size=(5, 2))
    s.arrive("r", 30, now=1.0)
    assert s.where == {"r": ("a0", 1)}


def test_a_critical_request_does_not_queue_for_a_slot_beside_a_rank_that_has_one(machine):
    """It bypasses the hold, and goes where fewest requests are."""
    s = machine(first_token_weight=0.001)
    s.join("a0", phase=Phase.AGGREGATED, max_batch_size=8)
    s.report("a0", now=0.5, batch_size=(8, 2))
    s.arrive("r", 30, now=1.0, latency_class=LatencyClass.CRITICAL)
    assert s.where == {"r": ("a0", 1)}


def test_fixed_batch_spreads_over_groups_and_ranks_that_have_nothing_to_prefill(machine):
    """Of equals the one with the fewest requests."""
    s = machine(policy="fixed-batch")
    for group, batch in (("a0", (5, 5)), ("a1", (3, 2))):
        s.join(group, phase=Phase.AGGREGATED)
        s.report(group, now=0.5, batch_size=batch)
    s.arrive("r", 30, now=1.0)
    s.tick(1.01)
    assert s.where == {"r": ("a1", 1)}


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
