"""Where a gateway puts requests while no scheduler leads."""

from __future__ import annotations

from collections import Counter

import pytest

from hortator.gateway.fleet_view import FleetView, GroupView
from hortator.gateway.placement import Phase, WorkerTarget
from hortator.gateway.self_placement import MIN_AVOIDED_S, SelfPlacement, Want

BUDGET = 1000
EPOCH = 7


def group(
    worker_id="w", phase=Phase.AGGREGATED, *, load=(0, 0), batch=(0, 0), kv=(0, 0), **changes
) -> GroupView:
    values = {
        "chunk_budget_tokens": BUDGET,
        "max_batch_size": 8,
        "kv_blocks_total": 100,
        "tokens_per_block": 16,
        "longest_prompt_tokens": 1500,
        "tokenizer": b"t",
    } | changes
    return GroupView(
        worker_id=worker_id,
        target=WorkerTarget(f"{worker_id}:1", f"{worker_id}-boot"),
        phase=phase,
        prefill_load_tokens=load,
        batch_size=batch,
        kv_blocks_used=kv,
        **values,
    )


def placer(*groups: GroupView, num_gateways=1, gateway_id="gw") -> SelfPlacement:
    placement = SelfPlacement(gateway_id)
    placement.viewed(FleetView(groups=groups, num_gateways=num_gateways), 0.0)
    return placement


def want(request_id="r", tokens=100, *, is_decode=False, **changes) -> Want:
    values = {"attempt": 0, "max_output_tokens": 10, "tokenizer": b"t"} | changes
    return Want(request_id=request_id, num_prompt_tokens=tokens, is_decode=is_decode, **values)


def place(placement: SelfPlacement, *wants: Want, now=0.0) -> dict[str, tuple[str, int]]:
    """Request: worker and rank."""
    for one in wants:
        placement.waits(one)
    placed = placement.place(now, epoch=EPOCH)
    return {one.request_id: (one.worker_id, one.dp_rank) for one in placed}


def test_a_placement_is_of_the_next_attempt_and_in_the_newest_epoch():
    placement = placer(group(load=(9, 0)))
    placement.waits(want(attempt=4))
    (placed,) = placement.place(1.0, epoch=EPOCH)
    assert (placed.attempt, placed.epoch, placed.dispatch_seq, placed.batch_id) == (5, EPOCH, 0, "")
    assert placed.is_degraded
    assert placed.phase is Phase.AGGREGATED
    assert placed.target == WorkerTarget("w:1", "w-boot")
    assert placement.place(1.0, epoch=EPOCH) == []


def test_the_least_loaded_rank_is_chosen_with_what_was_placed_here_counted():
    placement = placer(group("a", load=(500, 90)), group("b", load=(100, 300)))
    placed = place(placement, *(want(f"r{number}", 150) for number in range(4)))
    assert placed == {"r0": ("a", 1), "r1": ("b", 0), "r2": ("a", 1), "r3": ("b", 0)}


def test_what_passes_have_computed_since_is_no_load():
    group_ = group("a", load=(900, 0), full_pass_s=0.1)
    other = group("b", load=(600, 600), full_pass_s=10.0)
    placement = placer(group_, other)
    place(placement, want("first", 10))
    assert place(placement, want("second", 10), now=0.5) == {"second": ("a", 0)}


def test_the_share_of_a_rank_is_smaller_the_more_gateways_there_are():
    wants = [want(f"r{number}", 250) for number in range(20)]
    assert len(place(placer(group()), *wants)) == 2 * 4
    assert len(place(placer(group(), num_gateways=2), *wants)) == 2 * 2
    assert len(place(placer(group(), num_gateways=100), *wants)) == 2


def test_a_rank_takes_one_prompt_of_any_length_it_can_hold():
    assert place(placer(group(), num_gateways=9), want(tokens=1500)) != {}


def test_a_first_token_makes_room_and_so_does_an_end():
    placement = placer(group(load=(0,), batch=(0,), kv=(0,), max_batch_size=2))
    assert place(placement, want("r0", 900), want("r1", 900), want("r2", 900)) == {"r0": ("w", 0)}
    placement.started("r0")
    assert place(placement) == {"r1": ("w", 0)}
    placement.started("r1")
    assert place(placement) == {}, "its batch is full of ours"
    placement.let_go("r0")
    assert place(placement) == {"r2": ("w", 0)}
    assert placement.num_waiting == 0


def test_who_waits_behind_one_that_finds_no_room_waits_too():
    placement = placer(group(load=(0,), batch=(0,), kv=(0,)))
    assert place(placement, want("r0", 900), want("long", 900), want("short", 10)) == {"r0": ("w", 0)}
    assert placement.num_waiting == 2


def test_who_can_run_nowhere_keeps_nobody_waiting():
    placement = placer(group())
    placed = place(placement, want("long", 1501), want("strange", tokenizer=b"u"), want("r"))
    assert set(placed) == {"r"}
    assert placement.num_waiting == 2


@pytest.mark.parametrize(("ours", "theirs"), [(b"", b"t"), (b"t", b""), (b"t", b"t")])
def test_a_tokenizer_that_is_not_known_is_taken_for_the_same(ours, theirs):
    assert place(placer(group(tokenizer=theirs)), want(tokenizer=ours)) != {}


def test_critical_requests_come_first_then_those_of_a_higher_priority_then_who_waited_first():
    placement = placer(group(load=(0,), batch=(0,), kv=(0,)))
    wants = [
        want("low", 900, priority=-1),
        want("first", 900),
        want("second", 900),
        want("high", 900, priority=2),
        want("critical", 900, is_critical=True),
    ]
    order = list(place(placement, *wants))
    for _ in wants[1:]:
        placement.let_go(order[-1])
        order += place(placement)
    assert order == ["critical", "high", "first", "second", "low"]


def test_aggregated_ranks_without_a_free_slot_come_last():
    placement = placer(group(load=(0, 700), batch=(8, 3)))
    assert place(placement, want()) == {"r": ("w", 1)}
    full = placer(group(batch=(8, 8)))
    assert place(full, want()) != {}, "it waits there, not here"


def test_a_prompt_is_prefilled_only_where_somebody_can_decode_it():
    prefill, decode = group("p", Phase.PREFILL), group("d", Phase.DECODE)
    assert place(placer(prefill), want()) == {}
    assert place(placer(prefill, group("d", Phase.DECODE, longest_prompt_tokens=50)), want()) == {}
    assert place(placer(prefill, decode), want()).keys() == {"r"}


def test_a_decode_goes_where_the_fewest_sequences_are():
    decode = group("d", Phase.DECODE, load=(0, 0, 0), batch=(3, 1, 0), kv=(10, 10, 100))
    placement = placer(group("p", Phase.PREFILL), decode)
    wants = [want(f"r{number}", is_decode=True) for number in range(3)]
    assert Counter(rank for _, rank in place(placement, *wants).values()) == {1: 2, 0: 1}


def test_a_worker_that_refused_is_left_alone_longer_every_time():
    placement = placer(group("a"), group("b", load=(500, 500)))
    placement.avoid("a", 0.0)
    placement.avoid("a", 0.0)
    assert place(placement, want("r0"))["r0"][0] == "b"
    assert placement.next_look_at(0.0) == MIN_AVOIDED_S
    assert place(placement, want("r1"), now=MIN_AVOIDED_S)["r1"][0] == "a"
    placement.avoid("a", MIN_AVOIDED_S)
    assert placement.next_look_at(MIN_AVOIDED_S) == MIN_AVOIDED_S + 2 * MIN_AVOIDED_S
    placement.viewed(FleetView(groups=[group("a")]), 1.5)
    assert place(placement, want("r2"), now=1.5)["r2"][0] == "a"


def test_a_lost_worker_is_left_alone():
    placement = placer(group("a"))
    placement.lost(WorkerTarget("a:1", "another boot"), 0.0)
    assert placement.can_place(0.0)
    placement.lost(WorkerTarget("a:1", "a-boot"), 0.0)
    assert not placement.can_place(0.0)
    assert place(placement, want()) == {}
    assert placement.num_waiting == 1
    assert placement.can_place(MIN_AVOIDED_S)


def test_gateways_do_not_all_begin_with_the_same_rank():
    firsts = {
        place(placer(*(group(f"w{n}") for n in range(8)), gateway_id=f"gw{number}"), want())["r"]
        for number in range(16)
    }
    assert len(firsts) > 4


def test_nothing_waits_any_more_once_a_leader_is_there():
    placement = placer(group())
    placement.waits(want("r"))
    placement.waits(want("d", is_decode=True))
    placement.stop_waiting()
    assert placement.num_waiting == 0
    assert place(placement) == {}


def test_a_new_view_holds_what_was_placed_before():
    placement = placer(group(load=(0,), batch=(0,), kv=(0,)))
    place(placement, want("r0", 900))
    placement.viewed(FleetView(groups=[group(load=(900,), batch=(1,), kv=(60,))]), 1.0)
    placement.let_go("r0")  # of another view: changes nothing
    assert place(placement, want("r1", 900), now=1.0) == {"r1": ("w", 0)}


def test_nothing_is_placed_before_a_leader_has_told_of_anybody():
    placement = SelfPlacement("gw")
    assert not placement.can_place(0.0)
    assert place(placement, want()) == {}
