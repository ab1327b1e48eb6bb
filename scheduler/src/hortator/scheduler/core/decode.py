"""Decode placement: which rank carries a sequence for hundreds of steps.

Longest total sequence first, each onto the rank with the least key among those with a slot and enough free KV
blocks. Keys are pure functions of a rank's current load (reported + dispatched since), by policy:

- `staggered` (the paper): (batch, KV blocks). Ranks whose KV load exceeds Q3 + 1.5 IQR are masked: they come
  only when no other rank has room (below 4 ranks none is masked; if all would be, none is).
- `staggered-plus`: the rank's own predicted step time after placement. The step is as long as its slowest
  rank, so this is longest-processing-time-first onto the least loaded. Weights from the H800 cost model:
  doubling one rank's batch (64) costs +24 %, doubling its KV (262 144 tokens) +17 %, so 5 782 KV tokens weigh
  as much as one sequence.
- `immediate-*`, `fixed-batch`: the number of sequences.

A heap per group keeps the least key on top: O(log D) per sequence and group, no scan of ranks while they have
room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from statistics import quantiles

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.request import RequestState

KV_TOKENS_PER_SEQUENCE = 5782.0

DecodeSeat = tuple[RequestState, GroupState, int, int]
"""(request, group, DP rank, KV blocks)."""

Key = tuple[float, ...]
KeyOf = Callable[[GroupState, int, int], Key]
"""From group, batch size and KV blocks of a rank; grows with both."""


def place_round(name: str, fleet: Fleet, round_: Iterable[RequestState]) -> list[DecodeSeat]:
    """Seat a round of decode-ready requests under the policy's rule; those without room stay unseated.

    A reservation is given up for the seat; a request that finds none keeps its claim.
    """
    ordered = sorted(round_, key=lambda r: (-(r.num_prompt_tokens + r.max_output_tokens), r.seq))
    groups = [group for group in fleet.decode.values() if group.placeable]
    if not groups:
        return []
    key_of, masks = _rule(name)
    rounds = [_GroupRound(group, key_of, masks=masks) for group in groups]
    seats: list[DecodeSeat] = []
    for request in ordered:
        output = fleet.expected_output(request.max_output_tokens)
        reservation = request.reservation
        fleet.drop_reservation(request)
        best: tuple[Key, _GroupRound, int, int] | None = None
        for planned in rounds:
            if not planned.group.reads(request.tokenizer):
                continue
            blocks = planned.group.blocks_for_sequence(request.num_prompt_tokens, output)
            candidate = planned.best(blocks)
            if candidate is not None and (best is None or candidate[0] < best[0]):
                key, rank = candidate
                best = (key, planned, rank, blocks)
        if best is None:
            if reservation is not None:
                fleet.hold_reservation(request, reservation)
            continue
        _, planned, rank, blocks = best
        planned.take(rank, blocks)
        seats.append((request, planned.group, rank, blocks))
    return seats


class _GroupRound:
    """A group's load while a round is placed."""

    def __init__(self, group: GroupState, key_of: KeyOf, *, masks: bool) -> None:
        self.group = group
        self._key_of = key_of
        self._batch = list(group.batch_size)
        self._kv = list(group.kv_used)
        self._keys = [key_of(group, batch, kv) for batch, kv in zip(self._batch, self._kv, strict=True)]
        masked = _outliers(self._kv) if masks else frozenset()
        # Of (key, rank); a key that has grown since stays below what it should be, never above.
        self._open = [(key, rank) for rank, key in enumerate(self._keys) if rank not in masked]
        self._masked = [(key, rank) for rank, key in enumerate(self._keys) if rank in masked]
        heapify(self._open)
        heapify(self._masked)

    def best(self, blocks: int) -> tuple[Key, int] | None:
        """The rank with the least key among those with room, masked ones only if nothing else has any."""
        return self._least(self._open, blocks) or self._least(self._masked, blocks)

    def take(self, rank: int, blocks: int) -> None:
        """A sequence was seated on a rank."""
        self._batch[rank] += 1
        self._kv[rank] += blocks
        self._keys[rank] = self._key_of(self.group, self._batch[rank], self._kv[rank])

    def _least(self, heap: list[tuple[Key, int]], blocks: int) -> tuple[Key, int] | None:
        spec, reserved = self.group.spec, self.group.reserved_blocks
        set_aside: list[tuple[Key, int]] = []
        found: tuple[Key, int] | None = None
        while heap and found is None:
            key, rank = heap[0]
            if key != self._keys[rank]:
                heapreplace(heap, (self._keys[rank], rank))
            elif self._batch[rank] >= spec.max_batch_size:
                heappop(heap)  # for good: no slot comes free while a round is placed
            elif spec.kv_blocks_total - self._kv[rank] - reserved[rank] < blocks:
                set_aside.append(heappop(heap))
            else:
                found = (key, rank)
        for entry in set_aside:
            heappush(heap, entry)
        return found


def _outliers(kv: list[int]) -> frozenset[int]:
    """Ranks above Q3 + 1.5 IQR of KV load."""
    if len(kv) < 4:
        return frozenset()
    q1, _, q3 = quantiles(kv, n=4, method="inclusive")
    limit = q3 + 1.5 * (q3 - q1)
    found = frozenset(rank for rank, used in enumerate(kv) if used > limit)
    return found if len(found) < len(kv) else frozenset()


def _rule(name: str) -> tuple[KeyOf, bool]:
    if name == "staggered":
        return (lambda _group, batch, kv: (float(batch), float(kv))), True
    if name == "staggered-plus":
        return (
            lambda group, batch, kv: (
                batch + kv * group.spec.tokens_per_block / KV_TOKENS_PER_SEQUENCE,
                float(batch),
            )
        ), False
    return (lambda _group, batch, _kv: (float(batch),)), False
