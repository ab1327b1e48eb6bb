"""An engine that holds prompts back by itself until all its ranks have some."""

import pytest

from hortator.worker.engine import RequestMode
from hortator.worker.engines.simulated.context_wait import ContextWait
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_model import GroupConfig, GroupModel, GroupRequest


def answers(wait, number, **states):
    state = {"all_have_prompts": False, "all_have_decodes": True, "all_have_slots": True, **states}
    return [wait.lets_go(**state) for _ in range(number)]


def test_prompts_wait_for_the_other_ranks_until_the_time_out():
    wait = ContextWait(timeout_iters=3, batching_wait_iters=0)
    assert answers(wait, 7) == [False, False, True, False, False, True, False]


def test_once_all_ranks_have_prompts_it_waits_for_more():
    wait = ContextWait(timeout_iters=50, batching_wait_iters=2)
    assert answers(wait, 4, all_have_prompts=True) == [False, False, True, False]


def test_all_ranks_having_prompts_ends_the_first_wait_at_once_without_a_second():
    wait = ContextWait(timeout_iters=50, batching_wait_iters=0)
    assert answers(wait, 2) == [False, False]
    assert answers(wait, 1, all_have_prompts=True) == [True]


def test_a_rank_with_nothing_to_decode_ends_every_wait():
    wait = ContextWait(timeout_iters=50, batching_wait_iters=10)
    assert answers(wait, 2, all_have_decodes=False) == [True, True]
    assert answers(wait, 2, all_have_decodes=False, all_have_prompts=True) == [True, True]


def test_a_full_rank_counts_as_one_that_has_none():
    wait = ContextWait(timeout_iters=2, batching_wait_iters=0)
    assert answers(wait, 2, all_have_prompts=True, all_have_slots=False) == [False, True]


def a_group(**options):
    config = GroupConfig(
        dp_size=2, chunk_budget_tokens=1024, kv_blocks_total=1000, tokens_per_block=16, **options
    )
    return GroupModel(config, PassCost(dp_size=2))


def submit(model, name, rank, output=50):
    model.submit([GroupRequest(name, rank, RequestMode.AGGREGATED, 100, output)], 0.0)


def first_tokens(model, num_passes):
    found = {}
    for index in range(num_passes):
        assert model.start_pass(0.0) is not None
        found.update({request.request_id: index for request in model.end_pass().first_tokens})
    return found


@pytest.mark.parametrize(("timeout_iters", "expected"), [(0, 0), (4, 3)])
def test_a_group_runs_decodes_while_a_lone_prompt_waits(timeout_iters, expected):
    model = a_group(context_timeout_iters=timeout_iters)
    submit(model, "a", 0)
    submit(model, "b", 1)
    assert first_tokens(model, 1) == {"a": 0, "b": 0}  # nothing to decode: they start at once
    submit(model, "c", 0)
    assert first_tokens(model, 6) == {"c": expected}
    model.check_invariants()


def test_a_prompt_on_every_rank_lets_all_go():
    model = a_group(context_timeout_iters=50)
    submit(model, "a", 0)
    submit(model, "b", 1)
    first_tokens(model, 1)
    submit(model, "c", 0)
    assert first_tokens(model, 2) == {}
    submit(model, "d", 1)
    assert first_tokens(model, 1) == {"c": 0, "d": 0}


@pytest.mark.parametrize("name", ["context_timeout_iters", "batching_wait_iters"])
def test_a_negative_wait_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} cannot be negative"):
        a_group(**{name: -1})
