"""Water-filling: three budgets, multi-pass prompts, prefix caches, decode reservations."""

import pytest

from hortator.scheduler.core.model import BlocksChanged, Phase
from hortator.scheduler.core.policies.seating import Seating


@pytest.fixture
def seating(a_fleet, a_group_state):
    """`seating(dp_size=4, ...)` for one group in a fleet of its own."""

    def make(*, settings=None, **fields):
        group = a_group_state(**fields)
        return Seating(a_fleet(group, **(settings or {})), group)

    return make


def _ranks(seating):
    return [seat.dp_rank for seat in seating.seats]


def test_each_request_goes_to_the_emptiest_rank(seating, a_request):
    """500 | 400 | then 300 onto the 400, then 300 onto the 500: 800 | 700."""
    s = seating()
    assert all(s.seat(a_request(prompt)) for prompt in (500, 400, 300, 300))
    assert _ranks(s) == [0, 1, 1, 0]
    assert s.fullest_level == 800


def test_ranks_that_have_work_already_are_filled_last(seating, a_request):
    """Rank 0 has 600 tokens left over: 300 and 200 both fit below that on rank 1."""
    s = seating(prefill_load_tokens=(600, 0))
    assert s.seat(a_request(300))
    assert s.seat(a_request(200))
    assert _ranks(s) == [1, 1]
    assert s.fullest_level == 600


def test_no_rank_is_filled_beyond_the_chunk_budget(seating, a_request):
    """1000 tokens per rank: 600 + 600 fit on two ranks, a third 600 does not, 400 does."""
    s = seating()
    assert [s.seat(a_request(prompt)) for prompt in (600, 600, 600, 400, 400, 1)] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    assert not s.has_room()


def test_must_does_not_stretch_the_budget_for_prompts_that_an_empty_rank_holds(seating, a_request):
    """`must` is about prompts of several passes only."""
    s = seating(prefill_load_tokens=(900, 900))
    assert not s.seat(a_request(500), must=True)
    assert s.seat(a_request(100), must=True)


def test_no_rank_is_given_more_kv_blocks_than_it_has_free(seating, a_request):
    """Rank 0 has 2 free blocks, rank 1 has 10. 300 tokens and the first output token take 5, 127 and it 2."""
    s = seating(kv_blocks_used=(98, 90))
    assert [s.seat(a_request(prompt)) for prompt in (300, 300, 300, 128, 127, 1)] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert _ranks(s) == [1, 1, 0]


def test_no_rank_is_given_more_requests_than_batch_slots(seating, a_request):
    """One slot left on rank 0, none on rank 1."""
    s = seating(batch_size=(7, 8))
    assert s.seat(a_request(10))
    assert not s.seat(a_request(10))
    assert _ranks(s) == [0]


def test_a_prompt_of_several_passes_starts_on_a_rank_with_nothing_left_over(seating, a_request):
    """And then that rank takes nothing else."""
    s = seating(prefill_load_tokens=(1, 0))
    assert s.seat(a_request(2500))
    assert _ranks(s) == [1]
    assert not s.seat(a_request(2500))
    assert s.seat(a_request(999))
    assert _ranks(s) == [1, 0]


def test_a_mandatory_prompt_of_several_passes_may_start_beside_a_short_leftover(seating, a_request):
    """Else it could wait for ever where no rank is ever empty."""
    s = seating(prefill_load_tokens=(700, 400))
    assert not s.seat(a_request(2500))
    assert s.seat(a_request(2500), must=True)
    assert _ranks(s) == [1]


def test_at_most_one_prompt_of_several_passes_is_given_to_a_rank(seating, a_request):
    """Also when they are mandatory: the first leaves no room at all."""
    s = seating(dp_size=1, prefill_load_tokens=(0,), batch_size=(0,), kv_blocks_used=(0,))
    assert s.seat(a_request(2500), must=True)
    assert not s.seat(a_request(2500), must=True)


def test_without_chunked_prefill_a_prompt_beyond_the_budget_is_never_seated(seating, a_request):
    """It is indivisible."""
    s = seating(chunked_prefill=False)
    assert not s.seat(a_request(1001), must=True)
    assert s.seat(a_request(1000))


def test_a_prompt_longer_than_the_group_can_hold_is_never_seated(seating, a_request):
    """6400 tokens of KV per rank, one of them for the first output."""
    s = seating()
    assert not s.seat(a_request(6400), must=True)
    assert s.seat(a_request(6399))


def test_while_a_pass_runs_with_a_lead_a_prompt_of_several_passes_may_start(
    a_fleet, a_group_state, a_request
):
    """What the running pass takes is gone by then, so the rank counts as empty."""
    group = a_group_state(admission_lead_passes=1, prefill_load_tokens=(800, 1500))
    group.start_pass(0.0, None)
    s = Seating(a_fleet(group), group)
    assert s.seat(a_request(2500))
    assert _ranks(s) == [0]
    assert not s.seat(a_request(2500))


def test_a_lower_limit_binds_what_is_seated_after_it(seating, a_request):
    """Level 500: 500 and 400 fit, another 200 does not."""
    s = seating()
    s.lower_limit(500)
    assert [s.seat(a_request(prompt)) for prompt in (500, 400, 200, 100)] == [True, True, False, True]
    assert s.fullest_level == 500


def test_room_under_a_level_counts_only_what_is_below_it(seating):
    """Level 500 over ranks at 600 and 100: 0 + 400."""
    s = seating(prefill_load_tokens=(600, 100))
    assert s.room_under(500) == 400
    assert s.total_free_tokens == 400 + 900


def test_a_rank_that_holds_the_prefix_computes_only_the_rest(seating, a_request):
    """10 of 12 blocks cached on rank 1: 768 - 640 = 128 tokens to compute."""
    s = seating()
    s.group.prefixes.apply([BlocksChanged(dp_rank=1, stored=tuple(range(10)))])
    assert s.seat(a_request(768, block_hashes=tuple(range(12))))
    assert (s.seats[0].dp_rank, s.seats[0].num_prefill_tokens) == (1, 128)
    assert s.fullest_level == 128


def test_a_fuller_rank_with_the_prefix_wins_while_it_ends_no_higher(seating, a_request):
    """Rank 1 at 600 + 128 = 728 <= rank 0 at 768; at 700 it would end at 828."""
    for load, expected in ((600, 1), (700, 0)):
        s = seating(prefill_load_tokens=(0, load))
        s.group.prefixes.apply([BlocksChanged(dp_rank=1, stored=tuple(range(10)))])
        assert s.seat(a_request(768, block_hashes=tuple(range(12))))
        assert _ranks(s) == [expected]


def test_the_emptiest_rank_is_judged_as_it_is_now_not_as_it_was(seating, a_request):
    """After 400 on each of two ranks, the prefix on rank 1 (400 + 128) beats 400 + 768 anywhere."""
    s = seating()
    s.group.prefixes.apply([BlocksChanged(dp_rank=1, stored=tuple(range(10)))])
    assert s.seat(a_request(400))
    assert s.seat(a_request(400))
    assert s.seat(a_request(768, block_hashes=tuple(range(12))))
    assert (s.seats[2].dp_rank, s.seats[2].num_prefill_tokens) == (1, 128)


def test_a_fully_cached_prompt_still_computes_one_token(seating, a_request):
    """The last position must be run to give the first output token."""
    s = seating()
    s.group.prefixes.apply([BlocksChanged(dp_rank=0, stored=tuple(range(4)))])
    assert s.seat(a_request(256, block_hashes=tuple(range(4))))
    assert s.seats[0].num_prefill_tokens == 1


def test_a_prefix_on_a_rank_without_room_is_not_used(seating, a_request):
    """No slot on rank 1: computed in full on rank 0."""
    s = seating(batch_size=(0, 8))
    s.group.prefixes.apply([BlocksChanged(dp_rank=1, stored=tuple(range(4)))])
    assert s.seat(a_request(256, block_hashes=tuple(range(4))))
    assert (s.seats[0].dp_rank, s.seats[0].num_prefill_tokens) == (0, 256)


def test_a_seat_books_decode_blocks_for_prompt_and_expected_output(a_fleet, a_group_state, a_request):
    """640 + 64 tokens: 11 blocks on the decode rank with most room; without room there is no seat."""
    prefill = a_group_state("p0")
    decode = a_group_state("d0", phase=Phase.DECODE, kv_blocks_used=(90, 85))
    fleet = a_fleet(prefill, decode, decode_reservation=True)
    s = Seating(fleet, prefill)
    first, second = a_request(640, max_output_tokens=64), a_request(640, max_output_tokens=64)
    assert s.seat(first)
    assert first.reservation == ("d0", 1, 11)
    assert decode.reserved_blocks == [0, 11]
    assert not s.seat(second)  # 10 and 4 blocks are left
    assert second.reservation is None
    assert [seat.request for seat in s.seats] == [first]


def test_an_aggregated_seat_needs_blocks_for_the_expected_output_too(seating, a_request):
    """640 + 1 + 256 tokens: 15 blocks."""
    for used, fits in ((85, True), (86, False)):
        s = seating(phase=Phase.AGGREGATED, kv_blocks_used=(used, 100))
        assert s.seat(a_request(640, max_output_tokens=256)) is fits


def test_an_aggregated_prompt_that_decodes_leave_no_whole_pass_for_is_chunked(seating, a_request):
    """A budget of 1000 less 4 decode tokens holds 996: 1000 tokens take two passes and start on an empty rank."""
    s = seating(phase=Phase.AGGREGATED, batch_size=(4, 4))
    assert s.seat(a_request(1000))
