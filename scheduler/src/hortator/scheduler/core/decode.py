"""Decode placement: which rank carries a sequence for hundreds of steps.

Two rules, both pure functions over the decode groups' current loads (reported + dispatched since):

- `by_iqr_mask` (`staggered`, the paper): longest total sequence first; ranks whose KV load exceeds
  Q3 + 1.5 IQR are masked (below 4 ranks none is; if all are, none is), so are ranks without enough free KV
  blocks; then the lexicographic minimum of (batch, KV blocks, rank).
- `by_step_time` (`staggered-plus`): the rank whose own predicted step time after placement is least. The
  step is as long as its slowest rank, so this is longest-processing-time-first onto the least loaded.
  Weights from the H800 cost model: doubling one rank's batch (64) costs +24 %, doubling its KV (262 144
  tokens) +17 %, so 5 782 KV tokens weigh as much as one sequence.
- `by_fewest_requests` (`immediate-*`, `fixed-batch`): the rank with the fewest sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import quantiles

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.request import RequestState

KV_TOKENS_PER_SEQUENCE = 5782.0

DecodeSeat = tuple[RequestState, GroupState, int, int]
"""(request, group, DP rank, KV blocks)."""

Key = Callable[[GroupState, int, int], tuple[float, ...]]


def place_round(name: str, fleet: Fleet, round_: Iterable[RequestState]) -> list[DecodeSeat]:
    """Seat a round of decode-ready requests under the policy's rule; those without room stay unseated.

    A reservation is given up for the seat; a request that finds none keeps its claim.
    """
    ordered = sorted(round_, key=lambda r: (-(r.num_prompt_tokens + r.max_output_tokens), r.seq))
    groups = [group for group in fleet.decode.values() if group.placeable]
    if not groups:
        return []
    rounds = {id(group): _GroupRound(group) for group in groups}
    key, masks = _rule(name)
    if masks:
        for planned in rounds.values():
            planned.mask_outliers()
    seats: list[DecodeSeat] = []
    for request in ordered:
        output = fleet.expected_output(request.max_output_tokens)
        reservation = request.reservation
        fleet.drop_reservation(request)
        best: tuple[tuple[float, ...], _GroupRound, int, int] | None = None
        for planned in rounds.values():
            blocks = planned.group.blocks_for_sequence(request.num_prompt_tokens, output)
            candidate = planned.best(key, blocks)
            if candidate is not None and (best is None or candidate[0] < best[0]):
                best = (*candidate[:1], planned, candidate[1], blocks)
        if best is None:
            if reservation is not None:
                fleet.hold_reservation(request, reservation)
            continue
        _, planned, rank, blocks = best
        planned.take(rank, blocks)
        seats.append((request, planned.group, rank, blocks))
    return seats


class _GroupRound:
    """A group's virtual state while a round is placed."""

    def __init__(self, group: GroupState) -> None:
        self.group = group
        self.batch = list(group.batch_size)
        self.kv = list(group.kv_used)
        self.masked: frozenset[int] = frozenset()

    def mask_outliers(self) -> None:
        """Mask ranks above Q3 + 1.5 IQR of KV load."""
        if len(self.kv) < 4:
            return
        q1, _, q3 = quantiles(self.kv, n=4, method="inclusive")
        limit = q3 + 1.5 * (q3 - q1)
        masked = frozenset(rank for rank, used in enumerate(self.kv) if used > limit)
        if len(masked) < len(self.kv):
            self.masked = masked

    def best(self, key: Key, blocks: int) -> tuple[tuple[float, ...], int] | None:
        """The rank with the least key among those with room, masked ones only if nothing else has any."""
        free = self.group.free_kv_blocks_after(self.kv)
        slots = self.group.spec.max_batch_size
        fitting = [rank for rank, room in enumerate(free) if room >= blocks and self.batch[rank] < slots]
        open_ = [rank for rank in fitting if rank not in self.masked] or fitting
        if not open_:
            return None
        return min((key(self.group, self.batch[rank], self.kv[rank]), rank) for rank in open_)

    def take(self, rank: int, blocks: int) -> None:
        """A sequence was seated on a rank."""
        self.batch[rank] += 1
        self.kv[rank] += blocks


def _rule(name: str) -> tuple[Key, bool]:
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
