"""Which blocks a new scheduler is told about."""

import pytest

from hortator.worker.engine import RankLoad
from hortator.worker.report import BlockIndex


@pytest.fixture
def index():
    return BlockIndex(3)


def _rank(dp_rank, stored=(), removed=()):
    return RankLoad(
        dp_rank=dp_rank,
        prefill_load_tokens=0,
        num_waiting=0,
        batch_size=0,
        kv_blocks_used=0,
        stored_blocks=stored,
        removed_blocks=removed,
    )


def _all(index):
    return [(dp_rank, sorted(hashes)) for dp_rank, hashes in index.all()]


def test_nothing_is_known_at_first(index):
    assert index.all() == []


def test_blocks_are_kept_per_rank_and_ranks_without_any_are_left_out(index):
    index.apply([_rank(2, stored=(7, 8)), _rank(0, stored=(7,)), _rank(1)])
    assert _all(index) == [(0, [7]), (2, [7, 8])]


def test_what_is_removed_is_gone_from_its_rank_only(index):
    index.apply([_rank(0, stored=(7, 8)), _rank(1, stored=(7,))])
    index.apply([_rank(0, removed=(7,))])
    assert _all(index) == [(0, [8]), (1, [7])]


def test_a_block_that_went_and_came_back_in_one_pass_is_there(index):
    """An engine leaves out what came and went, so both together mean: evicted, then computed again."""
    index.apply([_rank(0, stored=(7,))])
    index.apply([_rank(0, stored=(7,), removed=(7,))])
    assert _all(index) == [(0, [7])]


def test_a_block_that_nobody_knew_may_go(index):
    index.apply([_rank(0, removed=(7,))])
    assert index.all() == []
