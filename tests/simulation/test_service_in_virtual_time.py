"""Schedules of faults over a whole service in virtual time; every seed that once broke a promise is kept.

`PYTHONPATH=tests:e2e python -m virtual --trials 3000 --seed 1` tries more (`--siege`, `--unled`: of other kinds).
"""

from __future__ import annotations

import random

import pytest
from chaos.load import Load

from hortator.client import resuming
from virtual import siege, trial, unled
from virtual.stack import virtual_service

NUM_BUNCHES, BUNCH = 6, 6
FOUND = (4253, 4390, 4577, 4609)
"""4253, 4390, 4577: a client came back while nobody led. The next leader heard of its newer call first, and took
the older one for the newer: the living call was told that it had been taken over.
4609: the only scheduler was told to stop, and newcomers were refused instead of waiting for the next one."""


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


@pytest.mark.safety
@pytest.mark.parametrize("seed", FOUND[:3])
def test_a_client_that_knows_nothing_of_leaders_never_hears_of_a_change(seed, monkeypatch):
    """Gateways settle it among themselves: also without the client library's second try."""
    monkeypatch.setattr(resuming, "_TAKEN_OVER", "not tried again")
    outcome = trial.run(seed)
    assert not outcome.problems, failures(outcome)


@pytest.mark.safety
def test_a_client_gets_on_though_no_gateway_lives_for_long():
    """12: each gateway died while nobody ran the request, and the next began it again at its first token. In a
    minute none came as far as its client had been: nothing was lost, and nothing came."""
    outcome = siege.run(12)
    assert not outcome.problems, failures(outcome)
    assert outcome.num_requests > 300
    assert outcome.num_restarts > 60
    assert outcome.longest_wait_s < 40


def test_a_seed_decides_everything():
    one, again = trial.run(7), trial.run(7)
    assert one.schedule
    assert one == again


@pytest.mark.safety
def test_a_client_comes_back_to_the_gateway_that_it_had_left_when_the_next_one_dies():
    """The first had fewer tokens than it brings, and its request there had been followed by that of the second."""
    rng = random.Random(12)
    with virtual_service(12) as stack:
        trial.build(stack, rng)
        first, second = stack.of("gateway")
        load = Load(stack.endpoints, seed=1, num_clients=6)
        stack.world.run(until=1.3)
        client = stack.world.start("client", "", lambda _: load.run())
        link = stack.network.link("client", first.host)

        def mend():
            link.is_open = True

        stack.world.at(2.0, lambda: link.cut(for_good=True))
        stack.world.at(2.4, mend)
        stack.world.at(2.5, second.process.die)
        stack.world.run(until=2.6)
        load.is_over = True
        assert stack.world.run(until=60.0, done=lambda: client.is_dead)
        assert load.problems + stack.world.problems == []
        assert load.num_moved
        stack.is_over = True


@pytest.mark.safety
@pytest.mark.parametrize("seed", range(2000, 2006))
def test_gateways_place_what_has_no_key_while_nobody_leads(seed):
    outcome = unled.run(seed)
    assert not outcome.problems, failures(outcome)
    assert outcome.num_requests > 50


@pytest.mark.safety
@pytest.mark.parametrize(
    "seed", [pytest.param(1, id="prefill and decode apart"), pytest.param(2, id="together")]
)
def test_with_no_scheduler_for_ten_seconds_first_tokens_come_all_the_same(seed):
    outcome = unled.run_without_the_only_scheduler(seed)
    assert not outcome.problems, failures(outcome)
    assert outcome.num_requests > 100
    assert outcome.longest_wait_s < 1.0
