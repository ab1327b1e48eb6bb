"""Schedules of faults over a whole service in virtual time; every seed that once broke a promise is kept.

`PYTHONPATH=tests:e2e python -m virtual --trials 3000 --seed 1` tries more.
"""

from __future__ import annotations

import pytest

from virtual import trial

NUM_BUNCHES, BUNCH = 6, 8
FOUND = {
    20: "a client came back to a gateway that it had left, with more tokens than that one had sent: refused; "
    "and then taken for somebody who had been followed by its own later self",
}


def failures(outcome: trial.Outcome) -> str:
    return "\n".join([f"seed {outcome.seed}: {outcome.shape}", *outcome.schedule, *outcome.problems])


@pytest.mark.safety
@pytest.mark.parametrize("bunch", range(NUM_BUNCHES))
def test_nothing_is_lost_whatever_dies(bunch):
    for seed in range(1000 + bunch * BUNCH, 1000 + (bunch + 1) * BUNCH):
        outcome = trial.run(seed)
        assert not outcome.problems, failures(outcome)
        assert outcome.num_requests
        assert outcome.num_ended + outcome.num_cancelled == outcome.num_requests


@pytest.mark.safety
@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_does_not_come_back(seed):
    outcome = trial.run(seed)
    assert not outcome.problems, failures(outcome)


def test_a_seed_decides_everything():
    one, again = trial.run(7), trial.run(7)
    assert one.schedule
    assert one == again
