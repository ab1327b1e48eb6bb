"""The books say what a pass should bring, and follow the engine where it does otherwise."""

import pytest

from hortator.worker.engine import RequestMode
from hortator.worker.engines.trtllm.group_books import GroupBooks
from hortator.worker.engines.trtllm.rank_books import Entry, RankLimits, State


def books(*, lead=0, chunked=True, blocks=100, batch=8):
    limits = RankLimits(
        chunk_budget_tokens=64,
        chunked_prefill=chunked,
        max_batch_size=batch,
        kv_blocks_total=blocks,
        tokens_per_block=16,
    )
    return GroupBooks(2, limits, lead_passes=lead)


def an_entry(prompt=20, *, rank=0, output=10, mode=RequestMode.AGGREGATED, batch=0):
    return Entry(
        dp_rank=rank,
        mode=mode,
        num_prefill_tokens=prompt,
        num_blocks=-(-(prompt + output) // 16),
        batch=batch,
    )


def prefills(group):
    return [load.pass_prefill_tokens for load in group.loads(of_pass=True)]


def test_a_pass_is_complete_when_everybody_has_brought_a_token():
    group, one, two = books(), an_entry(20), an_entry(30, rank=1)
    group.submit([one, two])
    assert group.open()
    group.arrived(one, 1)
    assert not group.is_complete
    group.arrived(two, 1)
    assert group.is_complete
    group.close(is_seen_by_tokens=True)
    assert prefills(group) == [20, 30]
    assert [load.prefill_load_tokens for load in group.loads()] == [0, 0]


def test_what_the_engine_left_out_of_a_pass_waits_again_and_its_batch_counts_as_split():
    group = books()
    entries = [an_entry(20, batch=7) for _ in range(3)]
    group.submit(entries)
    group.open()
    group.arrived(entries[0], 1)
    group.close(is_seen_by_tokens=True)
    assert prefills(group) == [20, 0]
    assert [entry.state for entry in entries] == [State.DECODING, State.WAITING, State.WAITING]
    assert group.loads()[0].num_waiting == 2
    assert group.loads()[0].kv_blocks_used == entries[0].num_blocks
    assert group.num_split_batches == 1
    assert group.open()
    assert group.loads(of_pass=True)[0].pass_prefill_tokens == 40


def test_a_token_that_comes_before_its_turn_is_believed():
    group = books(batch=1)
    first, second = an_entry(20), an_entry(30)
    group.submit([first, second])
    group.open()
    group.arrived(first, 1)
    group.arrived(second, 1)
    group.close(is_seen_by_tokens=True)
    assert prefills(group) == [50, 0]
    assert second.state is State.DECODING


def test_a_prompt_in_pieces_is_behind_until_its_last_piece_runs():
    group, long = books(), an_entry(150)
    group.submit([long])
    group.open()
    for pieces in (64, 64):
        assert group.is_behind(long)
        assert not group.is_complete  # it brings no token
        group.close(is_seen_by_tokens=False)
        assert prefills(group) == [pieces, 0]
        group.open()
    assert not group.is_behind(long)
    group.arrived(long, 1)
    group.close(is_seen_by_tokens=True)
    assert prefills(group) == [22, 0]


def test_with_a_lead_what_comes_during_a_pass_runs_in_the_one_after_the_next():
    group, first, late = books(lead=1), an_entry(20), an_entry(30)
    group.submit([first])
    group.open()
    group.submit([late])
    group.arrived(first, 1)
    group.close(is_seen_by_tokens=True)
    group.open()
    assert late.state is State.WAITING
    group.arrived(first, 1)
    group.close(is_seen_by_tokens=True)
    group.open()
    assert late.state is State.PREFILLING


@pytest.mark.parametrize("mode", [RequestMode.AGGREGATED, RequestMode.DECODE_ONLY])
def test_an_aborted_request_is_not_waited_for_and_leaves_nothing(mode):
    group, other, gone = books(), an_entry(20), an_entry(30, mode=mode)
    group.submit([other, gone])
    group.open()
    group.abort(gone)
    group.arrived(other, 1)
    assert group.is_complete
    group.close(is_seen_by_tokens=True)
    group.drop(gone)
    group.drop(other)
    assert group.is_empty
    assert [load.kv_blocks_used for load in group.loads()] == [0, 0]
    assert [load.prefill_load_tokens for load in group.loads()] == [0, 0]


def test_an_indivisible_prompt_waits_for_a_pass_of_its_own():
    group = books(chunked=False)
    group.submit([an_entry(40), an_entry(40)])
    group.open()
    assert prefills(group) == [40, 0]


def test_leased_blocks_count_until_they_are_dropped():
    group, entry = books(blocks=3), an_entry(40, output=0)
    group.submit([entry])
    group.open()
    group.arrived(entry, 1)
    group.drop(entry, keep_kv=True)
    group.close(is_seen_by_tokens=True)
    blocked = an_entry(20, output=0)
    group.submit([blocked])
    assert not group.open()
    group.drop(entry)
    assert group.open()
