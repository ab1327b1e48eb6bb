"""The KV block accounting of one DP rank."""

from hortator.worker.engines.torch_moe.kv_cache import BlockPool


def test_new_blocks_are_distinct_and_counted():
    pool = BlockPool(4)
    blocks = pool.take([], 3)
    assert len(set(blocks)) == 3
    assert (pool.num_used, pool.num_free) == (3, 1)


def test_a_request_that_does_not_fit_takes_nothing():
    pool = BlockPool(4)
    pool.take([], 3)
    assert pool.take([], 2) is None
    assert pool.num_free == 1


def test_released_blocks_without_a_hash_are_free_and_forgotten():
    pool = BlockPool(2)
    blocks = pool.take([], 2)
    pool.release(blocks)
    assert pool.num_used == 0
    assert pool.find_prefix([1, 2]) == []


def test_registered_blocks_stay_findable_after_release_and_count_as_free():
    pool = BlockPool(3)
    blocks = pool.take([], 2)
    pool.register(blocks[0], 11)
    pool.register(blocks[1], 12)
    pool.release(blocks)
    assert pool.find_prefix([11, 12, 13]) == blocks
    assert pool.num_free == 3


def test_a_prefix_ends_at_the_first_unknown_hash():
    pool = BlockPool(3)
    blocks = pool.take([], 2)
    pool.register(blocks[0], 11)
    pool.register(blocks[1], 13)
    assert pool.find_prefix([11, 12, 13]) == blocks[:1]


def test_cached_blocks_that_are_taken_again_do_not_count_as_room_for_new_ones():
    """2 blocks, both evictable: reusing one leaves room for one new block, not for two."""
    pool = BlockPool(2)
    blocks = pool.take([], 2)
    pool.register(blocks[0], 11)
    pool.register(blocks[1], 12)
    pool.release(blocks)
    cached = pool.find_prefix([11])
    assert pool.take(cached, 2) is None
    assert pool.take(cached, 1) is not None
    assert pool.num_used == 2


def test_a_shared_block_is_free_only_when_its_last_holder_is_gone():
    pool = BlockPool(2)
    first = pool.take([], 1)
    pool.register(first[0], 11)
    second = pool.take(pool.find_prefix([11]), 0)
    assert second == first
    pool.release(first)
    assert pool.num_used == 1
    pool.release(second)
    assert pool.num_used == 0


def test_the_end_of_the_oldest_prefix_is_evicted_first_and_reported():
    pool = BlockPool(3)
    old = pool.take([], 2)
    pool.register(old[0], 11)
    pool.register(old[1], 12)
    new = pool.take([], 1)
    pool.register(new[0], 21)
    pool.release(old)
    pool.release(new)
    assert pool.drain_changes() == ((11, 12, 21), ())
    pool.take([], 1)
    assert pool.drain_changes() == ((), (12,))
    assert pool.find_prefix([11, 12]) == [old[0]]


def test_a_block_stored_and_evicted_between_two_reports_is_in_neither_list():
    pool = BlockPool(1)
    block = pool.take([], 1)
    pool.register(block[0], 11)
    pool.release(block)
    pool.take([], 1)
    assert pool.drain_changes() == ((), ())


def test_a_hash_computed_twice_stays_with_the_first_block():
    pool = BlockPool(2)
    first, second = pool.take([], 1), pool.take([], 1)
    pool.register(first[0], 11)
    pool.register(second[0], 11)
    pool.release(second)
    pool.take([], 1)
    assert pool.find_prefix([11]) == first
    assert pool.drain_changes() == ((11,), ())
