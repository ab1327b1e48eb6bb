"""Load of a rank = the last report + what was dispatched after it; and when a group is ready."""

import pytest

from hortator.scheduler.core.model import Phase, RankLoads


def _report(group, seq, prefill, batch=(0, 0), kv=(0, 0)):
    group.apply_report(RankLoads(prefill_load_tokens=prefill, batch_size=batch, kv_blocks_used=kv), seq)


def test_a_dispatch_counts_until_a_report_includes_it(a_group_state):
    """Neither twice nor not at all."""
    group = a_group_state()
    assert group.record_dispatch(((0, 300, 5), (0, 100, 2)), 1.0) == 1
    assert group.record_dispatch(((1, 50, 1),), 1.1) == 2
    assert (group.load_tokens, group.batch_size, group.kv_used) == ([400, 50], [2, 1], [7, 1])
    _report(group, 1, (400, 0), (2, 0), (7, 0))  # contains the first, not the second
    assert (group.load_tokens, group.batch_size, group.kv_used) == ([400, 50], [2, 1], [7, 1])
    assert group.num_unreported == 1
    _report(group, 2, (0, 50), (2, 1), (7, 1))
    assert (group.load_tokens, group.batch_size, group.kv_used) == ([0, 50], [2, 1], [7, 1])
    assert group.num_unreported == 0


def test_a_report_from_before_any_dispatch_hides_nothing(a_group_state):
    """Sequence 0: everything dispatched comes on top."""
    group = a_group_state()
    group.record_dispatch(((1, 300, 5),), 1.0)
    _report(group, 0, (10, 20))
    assert group.load_tokens == [10, 320]


def test_a_group_is_ready_only_when_it_has_reported(a_group, machine):
    """Joined and silent: nothing may be placed."""
    s = machine()
    s.join(reported=False)
    assert not s.group().placeable
    s.report(now=0.0)
    assert s.group().placeable
    assert s.group().is_ready


def test_a_dispatch_makes_a_group_unready_until_it_is_reported(a_group_state):
    """Work on its way belongs to the next pass: more of it would come too late or split the batch."""
    group = a_group_state()
    group.record_dispatch(((0, 300, 5),), 1.0)
    assert not group.is_ready
    assert not group.is_quiescent
    _report(group, 1, (300, 0))
    assert group.is_ready


@pytest.mark.parametrize(("lead", "is_ready"), [(0, False), (1, True)])
def test_the_admission_lead_says_whether_a_running_group_is_ready(a_group_state, lead, is_ready):
    """With a lead the engine fetches the next batch while a pass runs."""
    group = a_group_state(admission_lead_passes=lead)
    group.start_pass(1.0, None)
    assert group.is_ready is is_ready


def test_without_a_lead_all_load_counts_against_the_chunk_budget(a_group_state):
    """A_d = chunk budget - in-flight; negative where a prompt takes several passes."""
    group = a_group_state(prefill_load_tokens=(200, 1500))
    assert group.free_tokens() == [800, -500]


def test_with_a_lead_what_runs_now_is_gone_by_the_next_pass(a_group_state):
    """Rank 0: 200 all run now. Rank 1: 1500, of which 1000 run now and 500 stay."""
    group = a_group_state(prefill_load_tokens=(200, 1500), admission_lead_passes=1)
    assert group.free_tokens() == [800, -500]
    group.start_pass(1.0, None)
    assert group.free_tokens() == [1000, 500]


def test_an_aggregated_rank_spends_a_token_of_its_budget_per_running_sequence(a_group_state):
    """Budget per rank and pass = chunk - decode tokens."""
    group = a_group_state(phase=Phase.AGGREGATED, prefill_load_tokens=(200, 0), batch_size=(3, 7))
    assert group.free_tokens() == [797, 993]


def test_a_pass_leaves_over_what_exceeds_the_chunk_budget(a_group_state):
    """In-engine queueing: load beyond the running pass."""
    group = a_group_state(prefill_load_tokens=(200, 2500))
    assert group.queued_tokens() == [200, 2500]
    group.start_pass(1.0, None)
    assert group.queued_tokens() == [0, 1500]


def test_a_pass_does_not_run_what_was_still_on_its_way(a_group_state):
    """Dispatched but not in the report of the pass's start: it queues behind the pass."""
    group = a_group_state()
    group.record_dispatch(((0, 300, 5),), 1.0)
    group.record_dispatch(((0, 400, 6),), 1.1)
    _report(group, 1, (300, 0))
    group.start_pass(1.2, None)
    assert group.queued_tokens() == [400, 0]


def test_a_pass_takes_off_no_more_than_the_rank_still_reports(a_group_state):
    """Rank 1's prompt of the running pass was taken out: 900 tokens less are no 900 tokens of room."""
    group = a_group_state(prefill_load_tokens=(200, 900), admission_lead_passes=1)
    group.start_pass(1.0, None)
    group.record_dispatch(((1, 100, 2),), 1.1)
    _report(group, 0, (200, 0))
    assert group.queued_tokens() == [0, 100]
    assert group.free_tokens() == [1000, 900]


def test_the_residual_of_a_pass_counts_down_to_zero(a_group_state):
    """From the predicted time; an overdue pass has none left."""
    group = a_group_state()
    assert group.residual_s(1.0) == 0.0
    group.start_pass(1.0, 0.5)
    assert group.residual_s(1.2) == pytest.approx(0.3)
    assert group.residual_s(9.0) == 0.0


def test_a_pass_without_prediction_is_predicted_from_its_fullest_rank(a_group_state):
    """At most a chunk budget of it."""
    group = a_group_state(prefill_load_tokens=(200, 2500))
    group.start_pass(0.0, None)
    assert group.residual_s(0.0) == pytest.approx(group.estimator.predict_s(1000))


def test_free_kv_blocks_count_use_and_promises(a_group_state):
    """Total - used - reserved."""
    group = a_group_state(kv_blocks_used=(30, 0))
    group.reserved_blocks[1] = 10
    assert group.free_kv_blocks() == [70, 90]


def test_blocks_are_rounded_up(a_group_state):
    """64 tokens per block."""
    group = a_group_state()
    assert [group.blocks_for(n) for n in (1, 64, 65)] == [1, 1, 2]


def test_a_guess_of_the_output_never_asks_for_more_than_a_rank_has(a_group_state):
    """6300 + 5000 tokens would be 177 blocks of 100; the prompt alone needs 99."""
    group = a_group_state()
    assert group.blocks_for_sequence(6300, 5000) == 100
    assert group.blocks_for_sequence(640, 64) == 11
    assert group.blocks_for_sequence(6500, 1) == 102  # the prompt itself is too long: no excuse


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({}, 6399),  # 100 blocks x 64 tokens, less the first output token
        ({"max_sequence_tokens": 4000}, 3999),
        ({"chunked_prefill": False}, 1000),
        ({"chunked_prefill": False, "phase": Phase.DECODE}, 6399),
    ],
)
def test_the_longest_prompt_follows_from_what_the_group_declares(a_group_state, fields, longest):
    """Sequence limit, KV blocks of one rank, and one chunk budget where the engine cannot chunk."""
    assert a_group_state(**fields).longest_prompt == longest


def test_a_new_leadership_counts_dispatches_from_one_and_trusts_no_old_report(a_group_state):
    """Nothing is placed before the worker has reported again."""
    group = a_group_state()
    group.record_dispatch(((0, 300, 5),), 1.0)
    group.forget_dispatches()
    assert not group.placeable
    _report(group, 0, (300, 0))
    assert group.placeable
    assert group.record_dispatch(((0, 1, 1),), 2.0) == 1
