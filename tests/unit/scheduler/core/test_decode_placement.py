"""Which rank decodes a sequence, under each policy's rule."""

import pytest

from hortator.scheduler.core.decode import KV_TOKENS_PER_SEQUENCE, place_round
from hortator.scheduler.core.model import Phase


@pytest.fixture
def a_decode_group(a_group_state):
    """`a_decode_group("d0", batch_size=..., kv_blocks_used=...)`: 4 ranks of 1000 blocks, 64 slots."""

    def make(group_id="d0", **fields):
        values = {"phase": Phase.DECODE, "dp_size": 4, "kv_blocks_total": 1000, "max_batch_size": 64}
        return a_group_state(group_id, **(values | fields))

    return make


def _ranks(seats):
    return {request.request_id: (group.spec.group_id, rank) for request, group, rank, _ in seats}


def test_fewest_sequences_win_under_the_immediate_policies(a_fleet, a_decode_group, a_request):
    """KV load does not matter to them."""
    fleet = a_fleet(a_decode_group(batch_size=(3, 1, 2, 2), kv_blocks_used=(0, 900, 0, 0)))
    assert _ranks(place_round("immediate-least-tokens", fleet, [a_request()])) == {"r1": ("d0", 1)}


def test_the_paper_prefers_the_smallest_batch_then_the_least_kv(a_fleet, a_decode_group, a_request):
    """Ranks 1 and 2 have one sequence each; rank 2 has less KV."""
    fleet = a_fleet(a_decode_group(batch_size=(3, 1, 1, 2), kv_blocks_used=(10, 40, 30, 10)))
    assert _ranks(place_round("staggered", fleet, [a_request()])) == {"r1": ("d0", 2)}


def test_ranks_with_outlying_kv_are_masked(a_fleet, a_decode_group, a_request):
    """Q1 = 97.5, Q3 = 315: the limit is 641.25, so the 900 of rank 0 is out although its batch is smallest."""
    group = a_decode_group(batch_size=(0, 5, 6, 7), kv_blocks_used=(900, 100, 90, 120))
    assert _ranks(place_round("staggered", a_fleet(group), [a_request()])) == {"r1": ("d0", 1)}


def test_below_four_ranks_nothing_is_masked(a_fleet, a_decode_group, a_request):
    """Quartiles of three values mean nothing."""
    group = a_decode_group(dp_size=3, batch_size=(0, 5, 6), kv_blocks_used=(900, 10, 10))
    assert _ranks(place_round("staggered", a_fleet(group), [a_request()])) == {"r1": ("d0", 0)}


def test_a_masked_rank_is_used_when_no_other_has_room(a_fleet, a_decode_group, a_request):
    """The mask is advice; KV blocks and slots are limits."""
    group = a_decode_group(batch_size=(0, 64, 64, 64), kv_blocks_used=(900, 100, 90, 120))
    assert _ranks(place_round("staggered", a_fleet(group), [a_request()])) == {"r1": ("d0", 0)}


def test_our_rule_weighs_a_sequence_like_5782_tokens_of_kv(a_fleet, a_decode_group, a_request):
    """One sequence more = 90 blocks of 64 tokens more."""
    blocks = int(KV_TOKENS_PER_SEQUENCE / 64)
    for kv, expected in ((blocks, 1), (blocks + 2, 0)):
        group = a_decode_group(batch_size=(11, 10, 20, 20), kv_blocks_used=(0, kv, 0, 0))
        seats = place_round("staggered-plus", a_fleet(group), [a_request()])
        assert [rank for _, _, rank, _ in seats] == [expected]


@pytest.mark.parametrize("policy", ["immediate-round-robin", "staggered", "staggered-plus"])
def test_a_round_sees_its_own_placements(a_fleet, a_decode_group, a_request, policy):
    """Eight sequences over four empty ranks: two each."""
    seats = place_round(policy, a_fleet(a_decode_group()), [a_request() for _ in range(8)])
    ranks = sorted(rank for _, _, rank, _ in seats)
    assert ranks == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_longest_total_sequence_is_seated_first(a_fleet, a_decode_group, a_request):
    """Prompt and output limit together; ties by arrival."""
    requests = [
        a_request(100, max_output_tokens=10),
        a_request(50, max_output_tokens=500),
        a_request(300),
        a_request(100, max_output_tokens=10),
    ]
    seats = place_round("staggered", a_fleet(a_decode_group()), requests)
    assert [request.request_id for request, *_ in seats] == ["r2", "r3", "r1", "r4"]


@pytest.mark.parametrize("policy", ["immediate-round-robin", "staggered", "staggered-plus"])
def test_no_rank_gets_more_blocks_or_sequences_than_it_has_room_for(
    a_fleet, a_decode_group, a_request, policy
):
    """6 + 3 blocks are free: 640 + 1 tokens take 11 blocks, 100 + 1 take 2."""
    group = a_decode_group(dp_size=2, kv_blocks_used=(994, 997), batch_size=(62, 0))
    requests = [a_request(640), *(a_request(100) for _ in range(6))]
    seats = place_round(policy, a_fleet(group), requests)
    ranks = [rank for _, _, rank, _ in seats]
    assert ranks.count(0) == 2  # slots: 62 + 2 = 64
    assert ranks.count(1) == 1  # blocks: 3 // 2 = 1
    assert "r1" not in _ranks(seats)


def test_groups_that_may_not_be_given_work_are_passed_by(a_fleet, a_decode_group, a_request):
    """Draining and suspect groups, whatever their load."""
    busy, draining, suspect = (
        a_decode_group("d0", batch_size=(9, 9, 9, 9)),
        a_decode_group("d1"),
        a_decode_group("d2"),
    )
    draining.draining = True
    suspect.suspect = True
    fleet = a_fleet(busy, draining, suspect)
    assert _ranks(place_round("staggered", fleet, [a_request()])) == {"r1": ("d0", 0)}
    busy.draining = True
    assert place_round("staggered", fleet, [a_request()]) == []


def test_a_reservation_is_spent_on_the_seat(a_fleet, a_decode_group, a_request):
    """Booked blocks become used ones; they are not counted twice."""
    group = a_decode_group(dp_size=1, kv_blocks_total=12)
    fleet = a_fleet(group, decode_reservation=True)
    request = a_request(640, max_output_tokens=64)
    fleet.hold_reservation(request, fleet.reserve_decode(request))
    assert group.free_kv_blocks() == [1]
    seats = place_round("staggered", fleet, [request])
    assert [(rank, blocks) for _, _, rank, blocks in seats] == [(0, 11)]
    assert group.reserved_blocks == [0]


def test_a_request_without_a_seat_keeps_its_reservation(a_fleet, a_decode_group, a_request):
    """Else new prefills would take the blocks that it was released with."""
    group = a_decode_group(dp_size=1, kv_blocks_total=12, batch_size=(64,))
    fleet = a_fleet(group, decode_reservation=True)
    request = a_request(640, max_output_tokens=64)
    fleet.hold_reservation(request, fleet.reserve_decode(request))
    assert place_round("staggered", fleet, [request]) == []
    assert request.reservation == ("d0", 0, 11)
    assert group.reserved_blocks == [11]
