"""Decode rounds against a plain scan of all ranks, on loads, reservations and sequences chosen by Hypothesis."""

from __future__ import annotations

from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortator.scheduler.core.decode import KV_TOKENS_PER_SEQUENCE, place_round
from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import GroupSpec, Phase, RankLoads, SchedulerSettings
from hortator.scheduler.core.request import RequestState

SLOTS, BLOCKS, BLOCK_TOKENS = 6, 40, 64

ranks = st.lists(
    st.tuples(st.integers(0, SLOTS), st.integers(0, BLOCKS), st.integers(0, 8)), min_size=1, max_size=7
)
sequences = st.lists(
    st.tuples(st.integers(1, 20 * BLOCK_TOKENS), st.integers(1, 800), st.booleans()), max_size=12
)


def _fleet(groups: list[list[tuple[int, int, int]]]) -> Fleet:
    fleet = Fleet(SchedulerSettings(expected_output_tokens=64))
    for index, columns in enumerate(groups):
        spec = GroupSpec(
            group_id=f"d{index}",
            phase=Phase.DECODE,
            dp_size=len(columns),
            chunk_budget_tokens=8192,
            kv_blocks_total=BLOCKS,
            max_batch_size=SLOTS,
            tokens_per_block=BLOCK_TOKENS,
        )
        group = GroupState(spec, now=0.0, warmup_passes=0)
        batch, kv, reserved = zip(*columns, strict=True)
        loads = RankLoads(prefill_load_tokens=(0,) * len(columns), batch_size=batch, kv_blocks_used=kv)
        group.apply_report(loads, 0)
        for rank, blocks in enumerate(reserved):
            group.reserve_kv(rank, blocks)
        fleet.add(group)
    return fleet


def _requests(fleet: Fleet, drawn: list[tuple[int, int, bool]]) -> list[RequestState]:
    """Some hold a reservation, as a request whose prefill has run does."""
    requests = []
    for number, (prompt, output, is_reserved) in enumerate(drawn):
        request = RequestState(
            request_id=f"r{number}",
            attempt=0,
            gateway_id="",
            num_prompt_tokens=prompt,
            max_output_tokens=output,
            cost_tokens=float(prompt),
            now=0.0,
            seq=number,
        )
        reservation = fleet.reserve_decode(request) if is_reserved else None
        if reservation is not None:
            fleet.hold_reservation(request, reservation)
        requests.append(request)
    return requests


def _key(policy: str, batch: int, kv: int) -> tuple[float, ...]:
    if policy == "staggered":
        return (batch, kv)
    if policy == "staggered-plus":
        return (batch + kv * BLOCK_TOKENS / KV_TOKENS_PER_SEQUENCE, batch)
    return (batch,)


def _masked(kv: list[int]) -> set[int]:
    if len(kv) < 4:
        return set()
    q1, _, q3 = quantiles(kv, n=4, method="inclusive")
    return {rank for rank, used in enumerate(kv) if used > q3 + 1.5 * (q3 - q1)}


def _by_scan(policy: str, fleet: Fleet, requests: list[RequestState]) -> list[tuple[str, str, int, int]]:
    """What a round is: the least key of all ranks of all groups, one sequence after the other."""
    batch = {name: list(group.batch_size) for name, group in fleet.decode.items()}
    kv = {name: list(group.kv_used) for name, group in fleet.decode.items()}
    masked = {name: _masked(kv[name]) if policy == "staggered" else set() for name in kv}
    seats = []
    for request in sorted(requests, key=lambda r: (-(r.num_prompt_tokens + r.max_output_tokens), r.seq)):
        reservation = request.reservation
        fleet.drop_reservation(request)
        found = []
        for order, (name, group) in enumerate(fleet.decode.items()):
            blocks = group.blocks_for_sequence(
                request.num_prompt_tokens, fleet.expected_output(request.max_output_tokens)
            )
            fitting = [
                rank
                for rank in range(group.spec.dp_size)
                if batch[name][rank] < SLOTS
                and BLOCKS - kv[name][rank] - group.reserved_blocks[rank] >= blocks
            ]
            for rank in [rank for rank in fitting if rank not in masked[name]] or fitting:
                key = _key(policy, batch[name][rank], kv[name][rank])
                found.append((key, order, rank, name, blocks))
        if not found:
            if reservation is not None:
                fleet.hold_reservation(request, reservation)
            continue
        _, _, rank, name, blocks = min(found)
        batch[name][rank] += 1
        kv[name][rank] += blocks
        seats.append((request.request_id, name, rank, blocks))
    return seats


@pytest.mark.parametrize("policy", ["immediate-least-tokens", "staggered", "staggered-plus"])
@given(groups=st.lists(ranks, min_size=1, max_size=2), drawn=sequences)
def test_a_round_is_that_of_a_plain_scan(policy, groups, drawn):
    fleet, other = _fleet(groups), _fleet(groups)
    seats = place_round(policy, fleet, _requests(fleet, drawn))
    got = [(request.request_id, group.spec.group_id, rank, blocks) for request, group, rank, blocks in seats]
    assert got == _by_scan(policy, other, _requests(other, drawn))
    assert [group.reserved_blocks for group in fleet.decode.values()] == [
        group.reserved_blocks for group in other.decode.values()
    ]
