"""Where each immediate policy puts a request."""

import pytest

from hortator.scheduler.core.model import BlocksChanged
from hortator.scheduler.core.policies.immediate import least_delay, predicted_completion


def _two_groups(machine, policy, **settings):
    s = machine(policy=policy, **settings)
    s.join("p0")
    s.join("p1")
    return s


@pytest.mark.parametrize(
    "policy",
    [
        "immediate-round-robin",
        "immediate-least-requests",
        "immediate-weighted-requests",
        "immediate-least-tokens",
        "immediate-power-of-two",
        "immediate-least-delay",
    ],
)
def test_every_request_is_placed_on_arrival_even_on_busy_groups(machine, policy):
    """The engine queues what it cannot run."""
    s = _two_groups(machine, policy)
    for i in range(30):
        s.arrive(f"r{i}", 900, now=0.0)
    assert len(s.where) == 30
    assert len(s.machine.waiting) == 0
    assert s.machine.next_wakeup() is not None  # queue timeouts and the watchdog only


def test_round_robin_alternates_groups_then_ranks(machine):
    """p0/0, p1/0, p0/1, p1/1 and over."""
    s = _two_groups(machine, "immediate-round-robin")
    for i in range(5):
        s.arrive(f"r{i}")
    assert list(s.where.values()) == [("p0", 0), ("p1", 0), ("p0", 1), ("p1", 1), ("p0", 0)]


def test_least_requests_counts_reported_and_dispatched(machine):
    """p0 has 2 and 1, p1 has 1 and 1 requests: ties go to the earlier group and the lower rank."""
    s = _two_groups(machine, "immediate-least-requests")
    s.report("p0", now=0.0, batch_size=(2, 1))
    s.report("p1", now=0.0, batch_size=(1, 1))
    for i in range(4):
        s.arrive(f"r{i}")
    assert list(s.where.values()) == [("p0", 1), ("p1", 0), ("p1", 1), ("p0", 0)]


def test_weighted_requests_counts_those_that_no_pass_has_begun_with_four_times(machine):
    """p0: 5 and 5 running, p1: 3 and 6. Onto the 3, which is 7 then; then 5, 5, and the 6 before the 7 and 9s."""
    s = _two_groups(machine, "immediate-weighted-requests")
    s.start_pass("p0", now=0.0, batch_size=(5, 5))
    s.start_pass("p1", now=0.0, batch_size=(3, 6))
    for i in range(5):
        s.arrive(f"r{i}")
    assert list(s.where.values()) == [("p1", 0), ("p0", 0), ("p0", 1), ("p1", 1), ("p1", 0)]


def test_weighted_requests_counts_those_beyond_the_batch_slots_four_times(machine):
    """p0 has 4 slots a rank: 6 are 4 running and 2 waiting, which is 12; 11 running are fewer."""
    s = machine(policy="immediate-weighted-requests")
    s.join("p0", dp_size=1, max_batch_size=4)
    s.join("p1", dp_size=1, max_batch_size=100)
    s.start_pass("p0", now=0.0, batch_size=(6,))
    s.start_pass("p1", now=0.0, batch_size=(11,))
    s.arrive("a")
    assert s.where == {"a": ("p1", 0)}


def test_least_tokens_takes_the_rank_with_the_fewest_uncomputed_tokens(machine):
    """600, 300 | 200, 400: 250 more onto the 200, then 100 onto the 300."""
    s = _two_groups(machine, "immediate-least-tokens")
    s.report("p0", now=0.0, prefill_load_tokens=(600, 300))
    s.report("p1", now=0.0, prefill_load_tokens=(200, 400))
    s.arrive("a", 250)
    s.arrive("b", 100)
    assert s.where == {"a": ("p1", 0), "b": ("p0", 1)}


def test_least_tokens_does_not_count_what_the_running_pass_takes(machine):
    """p0 runs 900 tokens and leaves nothing over; p1 has 100 queued."""
    s = _two_groups(machine, "immediate-least-tokens")
    s.start_pass("p0", now=0.0, prefill_load_tokens=(900, 900))
    s.report("p1", now=0.0, prefill_load_tokens=(100, 100))
    s.arrive("a", 50)
    assert s.where["a"] == ("p0", 0)


def test_least_tokens_prefers_fewer_requests_among_equals(machine):
    """All ranks have no tokens left; p1/1 has the fewest requests."""
    s = _two_groups(machine, "immediate-least-tokens")
    s.report("p0", now=0.0, batch_size=(3, 2))
    s.report("p1", now=0.0, batch_size=(2, 1))
    s.arrive("a")
    assert s.where["a"] == ("p1", 1)


def test_power_of_two_never_takes_the_worse_of_its_two_draws(machine):
    """With one rank far fuller than the others, it is taken only when drawn twice: about 1 time in 16."""
    s = _two_groups(machine, "immediate-power-of-two")
    s.report("p0", now=0.0, prefill_load_tokens=(10**6, 0))
    for i in range(320):
        s.arrive(f"r{i}", 1)
    onto_full = sum(1 for where in s.where.values() if where == ("p0", 0))
    assert 5 <= onto_full <= 40


def test_power_of_two_draws_the_same_ranks_again_on_a_fresh_machine(machine):
    """The generator is seeded."""
    runs = []
    for _ in range(2):
        s = _two_groups(machine, "immediate-power-of-two")
        for i in range(40):
            s.arrive(f"r{i}", 10)
        runs.append(dict(s.where))
    assert runs[0] == runs[1]
    assert len(set(runs[0].values())) == 4


def test_least_delay_weighs_the_running_pass_against_a_second_pass(machine):
    """p0 ends its pass in 0.05 s; p1 is idle but full, so a request there takes two passes."""
    s = _two_groups(machine, "immediate-least-delay")
    s.start_pass("p0", now=0.0, prefill_load_tokens=(500, 500), predicted_s=0.05)
    s.report("p1", now=0.0, prefill_load_tokens=(1000, 1000))
    s.arrive("a", 100)
    assert s.where["a"] == ("p0", 0)


def test_least_delay_prefers_an_idle_group_to_a_running_one(machine):
    """No residual to wait for."""
    s = _two_groups(machine, "immediate-least-delay")
    s.start_pass("p0", now=0.0, prefill_load_tokens=(500, 500), predicted_s=0.3)
    s.arrive("a", 100)
    assert s.where["a"] == ("p1", 0)


def test_predicted_completion_is_residual_plus_whole_passes_plus_the_last(a_group_state, a_request):
    """1500 queued behind a pass that ends in 0.2 s, and 700 of our own: two full passes and one of 200."""
    group = a_group_state(prefill_load_tokens=(2500, 3500))
    group.start_pass(0.0, 0.2)
    at, rank = predicted_completion(group, a_request(700), 0.0)
    full, rest = (
        group.estimator.predict_s(1000),
        group.estimator.predict_s(500),
    )  # rank 1 has 500 left by then
    assert rank == 0
    assert at == pytest.approx(0.2 + 2 * full + rest)


def test_least_delay_ties_go_to_the_first_group(a_group_state, a_request):
    """Ties break by order of joining, so that a replay decides the same."""
    groups = [a_group_state("p0"), a_group_state("p1")]
    assert least_delay(groups, a_request(10), 0.0) == (groups[0], 0)


def test_prefix_hits_on_the_chosen_rank_shorten_the_work_counted(machine):
    """The rank is chosen blindly, but its cache is still used."""
    s = machine(policy="immediate-round-robin")
    s.join()
    s.report(now=0.0, blocks_changed=(BlocksChanged(dp_rank=0, stored=(1, 2)),))
    s.arrive("a", 200, block_hashes=(1, 2, 3))
    s.arrive("b", 200, block_hashes=(1, 2, 3))
    assert s.tokens == {"a": 200 - 128, "b": 200}


def test_a_group_that_can_never_hold_the_prompt_is_not_chosen(machine):
    """p0 holds 640 tokens per rank; 2000 go to p1 although it is busier."""
    s = machine(policy="immediate-least-tokens")
    s.join("p0", kv_blocks_total=10)
    s.join("p1")
    s.report("p1", now=0.0, prefill_load_tokens=(500, 500))
    s.arrive("a", 2000)
    assert s.where["a"] == ("p1", 0)
