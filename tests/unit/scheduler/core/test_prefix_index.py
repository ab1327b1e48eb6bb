"""Which ranks hold the head of a prompt."""

import pytest

from hortator.scheduler.core.model import BlocksChanged
from hortator.scheduler.core.prefix_index import PrefixIndex


@pytest.fixture
def index():
    """Rank 0 holds blocks 1 2 3, rank 1 holds 1 2, rank 2 holds 1 and 3 but not 2."""
    made = PrefixIndex()
    made.apply(
        [
            BlocksChanged(dp_rank=0, stored=(1, 2, 3)),
            BlocksChanged(dp_rank=1, stored=(1, 2)),
            BlocksChanged(dp_rank=2, stored=(1, 3)),
        ]
    )
    return made


def test_longest_matches_come_first(index):
    """(blocks held, bit set of ranks): a deeper match is a subset of the shallower."""
    assert index.match((1, 2, 3, 4)) == [(3, 0b001), (2, 0b011), (1, 0b111)]


def test_a_hole_in_the_chain_ends_a_ranks_match(index):
    """Rank 2 has block 3 but not block 2 before it."""
    assert index.match((2, 3)) == [(2, 0b001), (1, 0b011)]
    assert index.match((1, 3)) == [(2, 0b101), (1, 0b111)]


def test_an_unknown_first_block_matches_nothing(index):
    """However many later blocks are known."""
    assert index.match((9, 1, 2)) == []
    assert index.match(()) == []


def test_removed_blocks_no_longer_match(index):
    """And a block that no rank holds is forgotten."""
    index.apply([BlocksChanged(dp_rank=0, removed=(3,)), BlocksChanged(dp_rank=2, removed=(3,))])
    assert index.match((1, 2, 3)) == [(2, 0b011), (1, 0b111)]
    assert len(index) == 2


def test_removing_what_was_never_stored_changes_nothing(index):
    """Reports may repeat themselves."""
    index.apply([BlocksChanged(dp_rank=1, removed=(3, 77))])
    assert index.match((1, 2, 3)) == [(3, 0b001), (2, 0b011), (1, 0b111)]


def test_a_block_replaced_in_one_report_is_held(index):
    """Removed and stored again between two reports: stored wins."""
    index.apply([BlocksChanged(dp_rank=1, removed=(2,), stored=(2,))])
    assert index.match((1, 2))[0] == (2, 0b011)
