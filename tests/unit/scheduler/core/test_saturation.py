"""What to scale on: how much of what the groups can do is asked of them, and what a newcomer would wait."""

import pytest

from hortator.scheduler.core.demand import Demand
from hortator.scheduler.core.events import LeaderChanged
from hortator.scheduler.core.model import Phase
from hortator.scheduler.core.saturation import predicted_ttft_s, saturations
from hortator.scheduler.core.waiting import WaitingQueue

PASS_S = 0.5
RATE = 2 * 1000 / PASS_S
"""Tokens per second of a group of two ranks whose full passes of 1000 tokens each take half a second."""


def _train(group, *, ran=(1000, 1000), num_passes=400):
    for _ in range(num_passes):
        group.learn_pass(ran, PASS_S)
    return group


def _ask(fleet, tokens_per_s, *, until=60.0, prompt=100):
    """Prompts of 100 tokens, evenly, up to a moment."""
    num = round(tokens_per_s * until / prompt)
    for i in range(num):
        fleet.demand.observe_asked(prompt, float(prompt), until * i / num)


@pytest.fixture
def fleet(a_fleet, a_group_state):
    return a_fleet(_train(a_group_state("p0")))


@pytest.mark.parametrize("load", [0.1, 0.5, 0.85, 1.3])
def test_saturation_is_what_arrives_over_what_full_passes_do(fleet, load):
    """Tokens per second over 4000 tokens per second, also where they are too many."""
    _ask(fleet, load * RATE)
    assert saturations(fleet, WaitingQueue(), 60.0) == {Phase.PREFILL: pytest.approx(load, rel=0.03)}


def test_what_waits_is_to_be_done_within_a_minute(fleet, a_request):
    """60 s x 400 tokens/s wait: a tenth more."""
    _ask(fleet, 0.5 * RATE)
    waiting = WaitingQueue()
    for _ in range(24):
        waiting.add(a_request(1000))
    assert saturations(fleet, waiting, 60.0)[Phase.PREFILL] == pytest.approx(0.6, rel=0.03)


def test_what_waits_in_the_engines_counts_as_well(fleet, a_request):
    """24000 tokens beyond the running pass."""
    _ask(fleet, 0.5 * RATE)
    fleet.groups["p0"].load_tokens = [12000, 12000]
    assert saturations(fleet, WaitingQueue(), 60.0)[Phase.PREFILL] == pytest.approx(0.6, rel=0.03)


def test_a_cluster_that_nobody_asks_for_anything_is_idle_and_not_unknown(a_fleet, a_group_state):
    """Its groups have never run a pass."""
    fleet = a_fleet(a_group_state("p0"))
    fleet.demand = Demand(0.0)
    assert saturations(fleet, WaitingQueue(), 9.0) == {}
    assert saturations(fleet, WaitingQueue(), 11.0) == {Phase.PREFILL: 0.0}


def test_what_a_prefix_cache_has_is_not_asked_again(fleet):
    """Of each prompt a quarter is computed."""
    _ask(fleet, 0.8 * RATE)
    fleet.demand.observe_placed(1000, 250, 59.0)
    assert saturations(fleet, WaitingQueue(), 60.0)[Phase.PREFILL] == pytest.approx(0.2, rel=0.03)


def test_long_prompts_cost_more_than_their_tokens(fleet):
    """Attention doubles what a token costs, so a full pass of 2000 tokens takes as long as one of 4000."""
    for i in range(60):
        fleet.demand.observe_asked(2000, 4000.0, float(i))
    rate = 2 * 1000 / fleet.groups["p0"].estimator.predict_s(2000)
    assert saturations(fleet, WaitingQueue(), 60.0)[Phase.PREFILL] == pytest.approx(2000 / rate, rel=0.03)
    assert rate < 0.9 * RATE


def test_passes_that_were_half_empty_promise_less_than_the_fullest_rank_says(a_fleet, a_group_state):
    """The other rank had nothing, so half of what the experts would do for it is still to come."""
    _train(group := a_group_state("p0"), ran=(1000, 0))
    fleet = a_fleet(group)
    _ask(fleet, 0.5 * RATE)
    full_s = group.estimator.predict_s(1000 / (1 - 0.5 * 0.5))
    assert full_s > PASS_S
    assert saturations(fleet, WaitingQueue(), 60.0)[Phase.PREFILL] == pytest.approx(
        0.5 * full_s / PASS_S, rel=0.03
    )


def test_a_group_that_has_just_joined_counts_as_much_as_the_others(a_fleet, a_group_state):
    fleet = a_fleet(_train(a_group_state("p0")), a_group_state("p1"))
    _ask(fleet, RATE)
    assert saturations(fleet, WaitingQueue(), 60.0)[Phase.PREFILL] == pytest.approx(0.5, rel=0.03)


def test_a_group_that_drains_has_no_capacity(a_fleet, a_group_state):
    fleet = a_fleet(_train(a_group_state("p0")), _train(a_group_state("p1")))
    _ask(fleet, RATE)
    fleet.groups["p1"].draining = True
    assert saturations(fleet, WaitingQueue(), 60.0)[Phase.PREFILL] == pytest.approx(1.0, rel=0.03)


def test_nothing_is_said_before_enough_is_known(a_fleet, a_group_state):
    """No trained group, no group that takes work, too short a look at arrivals: none of it reads as idle."""
    waiting = WaitingQueue()
    untrained = a_fleet(a_group_state("p0"))
    _ask(untrained, RATE)
    assert saturations(untrained, waiting, 60.0) == {}
    assert predicted_ttft_s(untrained, waiting, 60.0) is None
    gone = a_fleet(_train(a_group_state("p0")))
    gone.groups["p0"].suspect = True
    _ask(gone, RATE)
    assert saturations(gone, waiting, 60.0) == {}
    early = a_fleet(_train(a_group_state("p0")))
    _ask(early, RATE, until=9.0)
    assert saturations(early, waiting, 9.0) == {}
    assert predicted_ttft_s(early, waiting, 9.0) is None


def test_a_new_leader_counts_from_when_it_took_the_lead(fleet):
    """15 s of it are not taken for a minute."""
    fleet.demand = Demand(0.0)
    _ask(fleet, 0.7 * RATE, until=15.0)
    assert saturations(fleet, WaitingQueue(), 15.0)[Phase.PREFILL] == pytest.approx(0.7, rel=0.03)


def test_decode_is_as_full_as_its_kv_blocks_or_its_batch_slots(a_fleet, a_group_state, a_request):
    """200 blocks and 16 slots: 60 used and 20 promised of them; then 12 requests; then a queue that needs 300."""
    group = a_group_state("d0", phase=Phase.DECODE, kv_blocks_used=(30, 30))
    group.reserve_kv(0, 20)
    fleet = a_fleet(group)
    assert saturations(fleet, WaitingQueue(), 0.0) == {Phase.DECODE: pytest.approx(80 / 200)}
    group.batch_size = [6, 6]
    assert saturations(fleet, WaitingQueue(), 0.0) == {Phase.DECODE: pytest.approx(12 / 16)}
    waiting = WaitingQueue()
    for _ in range(16):
        waiting.add(a_request(64 * 20 - 256))  # 256 tokens of output are expected: 20 blocks each
    assert saturations(fleet, waiting, 0.0) == {Phase.DECODE: pytest.approx((80 + 320) / 200)}


def test_a_newcomer_waits_for_the_queue_the_running_pass_and_its_own(fleet, a_request):
    """Idle: a pass of its own. Then the rest of a pass, one in company, and two passes' worth of queue."""
    _ask(fleet, 0.5 * RATE)
    group, waiting = fleet.groups["p0"], WaitingQueue()
    alone_s = group.estimator.predict_s(100)
    assert predicted_ttft_s(fleet, waiting, 60.0) == pytest.approx(alone_s)
    group.start_pass(60.0, predicted_s=PASS_S)
    assert predicted_ttft_s(fleet, waiting, 60.2) == pytest.approx(0.3 + PASS_S, rel=0.03)
    for _ in range(4):
        waiting.add(a_request(1000, now=60.2))
    assert predicted_ttft_s(fleet, waiting, 60.2) == pytest.approx(0.3 + 2 * PASS_S + PASS_S, rel=0.03)
    assert predicted_ttft_s(fleet, waiting, 69.2) == pytest.approx(9.0)  # the oldest has waited for it


def test_the_machine_counts_what_it_refuses_and_says_nothing_as_a_standby(machine):
    """A queue of one request; the rest is refused, and was asked for."""
    cluster = machine(max_waiting_requests=1, policy="immediate-least-tokens", attention_pair_cost=0.0)
    cluster.join()
    _train(cluster.group())
    cluster.group().draining = True
    for i in range(80):
        cluster.arrive(f"r{i}", 1000, now=i * 0.25)
    assert cluster.machine.snapshot(20.0).num_waiting == 1
    cluster.group().draining = False
    snapshot = cluster.machine.snapshot(20.0)
    assert snapshot.saturation[Phase.PREFILL] == pytest.approx(1.0, rel=0.05)  # 80 x 1000 tokens in 20 s
    assert snapshot.predicted_ttft_s is not None
    cluster.at(20.0, LeaderChanged(epoch=0))
    cluster.report(now=20.0)
    standby = cluster.machine.snapshot(40.0)
    assert standby.saturation == {}
    assert standby.predicted_ttft_s is None
