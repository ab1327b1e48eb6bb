"""Prompts of several passes on ranks, and what their chunks cost."""

import pytest

from hortator.scheduler.core.occupants import Occupants, Rest

PAIR_COST = 1e-4


@pytest.fixture
def occupants():
    return Occupants(chunk_budget_tokens=1000, attention_pair_cost=PAIR_COST)


def test_the_chunks_of_a_prompt_cost_together_what_the_prompt_costs(occupants):
    """n (1 + c n), however it is cut."""
    chunks = [(1000, 0), (1000, 1000), (500, 2000)]
    whole = 2500 * (1 + PAIR_COST * 2500)
    assert sum(occupants.chunk_cost(tokens, done) for tokens, done in chunks) == pytest.approx(whole)


def test_later_chunks_cost_more(occupants):
    """3 000 of 5 000 tokens are left: 2 000 were computed before the next chunk."""
    occupants.seat(1, "long", 5000, 5000)
    assert occupants.next_cost([0, 5000]) == pytest.approx(1000 * 1.1)
    assert occupants.next_cost([0, 3000]) == pytest.approx(1000 * (1 + PAIR_COST * 5000))


def test_what_a_cache_holds_was_computed_before(occupants):
    """Of 5 000 tokens 2 000 are cached: attention still looks at them."""
    occupants.seat(0, "long", 5000, 3000)
    assert occupants.done([3000, 0]) == {0: 2000}


def test_a_prompt_of_one_pass_is_no_occupant(occupants):
    """Its rank is free after it."""
    occupants.seat(0, "short", 900, 900)
    assert occupants.done([400, 0]) == {}
    assert occupants.rest([400, 0]) == Rest(0, 0.0)


def test_the_rest_is_that_of_the_rank_which_needs_longest(occupants):
    """Three passes, the last two of them behind 2 000 computed tokens and more."""
    occupants.seat(0, "long", 5000, 5000)
    occupants.seat(1, "other", 1500, 1500)
    assert occupants.rest([3000, 1500]) == Rest(3, pytest.approx(3000 * (1 + PAIR_COST * (2 * 2000 + 3000))))


@pytest.mark.parametrize("end", ["left", "idle"])
def test_an_occupant_that_is_gone_counts_no_more(occupants, end):
    """It left the group, or its rank has nothing to run; others come after it."""
    occupants.seat(0, "long", 5000, 5000)
    if end == "left":
        occupants.leave("long")
    else:
        occupants.forget_idle([0, 0])
    assert occupants.next_cost([500, 0]) == pytest.approx(500 * (1 + PAIR_COST * 500))


def test_nothing_to_run_costs_nothing(occupants):
    """No leftovers."""
    assert occupants.next_cost([0, 0]) == 0.0
