"""How good water-filling is, and that `staggered` is fair, on small cases chosen by Hypothesis."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from hortator.scheduler.core.commands import Dispatch
from hortator.scheduler.core.events import (
    ForwardPassEnded,
    ForwardPassStarted,
    RankStateReported,
    RequestArrived,
    WorkerJoined,
)
from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import GroupSpec, Phase, RankLoads, SchedulerSettings
from hortator.scheduler.core.policies.seating import Seating
from hortator.scheduler.core.request import RequestState


def _loads(dp_size: int, **columns: tuple[int, ...]) -> RankLoads:
    zeros = (0,) * dp_size
    return RankLoads(
        **({"prefill_load_tokens": zeros, "batch_size": zeros, "kv_blocks_used": zeros} | columns)
    )


def _spec(dp_size: int, budget: int, **fields: int) -> GroupSpec:
    return GroupSpec(
        group_id="p0",
        phase=Phase.PREFILL,
        dp_size=dp_size,
        chunk_budget_tokens=budget,
        **({"kv_blocks_total": 10_000} | fields),
    )


def _seating(spec: GroupSpec, **columns: tuple[int, ...]) -> Seating:
    group = GroupState(spec, now=0.0, warmup_passes=0)
    group.apply_report(_loads(spec.dp_size, **columns), 0)
    fleet = Fleet(SchedulerSettings(decode_reservation=False))
    fleet.add(group)
    return Seating(fleet, group)


def _request(number: int, prompt: int) -> RequestState:
    return RequestState(
        request_id=f"r{number}",
        attempt=0,
        gateway_id="",
        num_prompt_tokens=prompt,
        max_output_tokens=1,
        cost_tokens=float(prompt),
        now=0.0,
        seq=number,
    )


@given(
    prompts=st.lists(st.integers(1, 100), min_size=1, max_size=6),
    dp_size=st.integers(2, 3),
)
def test_the_fullest_rank_is_within_four_thirds_of_the_best_possible(prompts, dp_size):
    """Longest first onto the emptiest: at most 4/3 - 1/(3 D) of the optimum, found here by trying everything."""
    seating = _seating(_spec(dp_size, budget=1000))
    assert all(seating.seat(_request(i, prompt)) for i, prompt in enumerate(sorted(prompts, reverse=True)))
    best = min(
        max(sum(p for p, r in zip(prompts, ranks, strict=True) if r == rank) for rank in range(dp_size))
        for ranks in product(range(dp_size), repeat=len(prompts))
    )
    assert best <= seating.fullest_level <= best * (4 / 3 - 1 / (3 * dp_size)) + 1e-9


@given(
    prompts=st.lists(st.integers(1, 400), max_size=20),
    loads=st.lists(st.integers(0, 300), min_size=3, max_size=3),
    used=st.lists(st.integers(0, 20), min_size=3, max_size=3),
    batch=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    must=st.booleans(),
)
def test_no_budget_is_overspent_and_nothing_that_fits_an_empty_rank_is_left(
    prompts, loads, used, batch, must
):
    """Tokens, blocks and slots of every rank; prompts over the budget only on a rank of their own."""
    spec = _spec(3, budget=256, kv_blocks_total=20, max_batch_size=4, tokens_per_block=16)
    seating = _seating(
        spec, prefill_load_tokens=tuple(loads), kv_blocks_used=tuple(used), batch_size=tuple(batch)
    )
    for i, prompt in enumerate(prompts):
        request = _request(i, prompt)
        before = list(seating.seats)
        if seating.seat(request, must=must):
            continue
        for rank in range(3):
            mine = [seat for seat in before if seat.dp_rank == rank]
            is_empty = not mine and loads[rank] == 0
            blocks = used[rank] + sum(-(-(s.request.num_prompt_tokens + 1) // 16) for s in mine)
            has_room = (
                batch[rank] + len(mine) < 4 and blocks + -(-(prompt + 1) // 16) <= 20 and prompt < 20 * 16
            )
            # The emptiest rank stands for all that have the blocks: an empty one is never passed over.
            assert not (is_empty and has_room), f"{prompt} tokens would have fitted rank {rank}"
    for rank in range(3):
        mine = [seat.request.num_prompt_tokens for seat in seating.seats if seat.dp_rank == rank]
        if not mine:
            continue
        long = [prompt for prompt in mine if prompt > 256]
        assert len(long) <= 1
        if long:
            assert must or (loads[rank] == 0 and mine == long)
        else:
            assert loads[rank] + sum(mine) <= 256
        assert used[rank] + sum(-(-(prompt + 1) // 16) for prompt in mine) <= 20
        assert batch[rank] + len(mine) <= 4


@given(
    rounds=st.lists(st.lists(st.integers(1, 256), max_size=6).map(tuple), min_size=1, max_size=25),
    max_carry=st.integers(1, 4),
    dp_size=st.integers(1, 3),
)
def test_the_oldest_request_is_never_passed_over_more_than_max_carry_times(rounds, max_carry, dp_size):
    """`staggered`, one priority, prompts within the budget, one group that passes again and again."""
    settings = SchedulerSettings(
        policy="staggered", decode_reservation=False, max_carry=max_carry, min_fill=0.0
    )
    machine = SchedulerMachine(settings)
    spec = _spec(dp_size, budget=256)
    idle = _loads(dp_size)
    machine.handle(WorkerJoined(group=spec), 0.0)
    machine.handle(RankStateReported(group_id="p0", included_dispatch_seq=0, loads=idle), 0.0)
    seq, number, now = 0, 0, 0.0
    for turn, prompts in enumerate([*rounds, *[()] * 60]):
        machine.handle(
            ForwardPassStarted(
                group_id="p0", forward_pass_id=turn + 1, included_dispatch_seq=seq, loads=idle
            ),
            now,
        )
        for prompt in prompts:
            number += 1
            machine.handle(RequestArrived(request_id=f"r{number}", num_prompt_tokens=prompt), now)
        waiting = list(machine.waiting)
        is_mandatory = bool(waiting) and waiting[0].carried >= max_carry
        now += 0.1
        commands = machine.handle(
            ForwardPassEnded(
                group_id="p0",
                forward_pass_id=turn + 1,
                duration_s=0.1,
                included_dispatch_seq=seq,
                loads=idle,
            ),
            now,
        )
        released = [p.request_id for c in commands if isinstance(c, Dispatch) for p in c.batch.placements]
        seq += len([c for c in commands if isinstance(c, Dispatch)])
        assert bool(released) == bool(waiting), "an empty group was given nothing"
        if is_mandatory:
            assert waiting[0].request_id in released
        for request in machine.waiting:
            assert request is not waiting[0] or request.carried <= max_carry
    assert not machine.waiting
    machine.check_invariants()
