"""Water-filling: seat requests on the ranks of one group, each on the rank with the most room.

The pass is as long as its fullest rank, so raising the lowest rank first keeps the pass short for a given
amount of work. Three budgets are spent: prefill tokens (the chunk budget), KV blocks and batch slots; a
decode reservation is booked with each seat where the topology asks for it. A heap keeps the rank with the
most room on top: O(log D) per request, no scan of ranks.

Prefix cache: a rank that holds the head of the prompt computes only the rest, so it wins when its level
after seating is no higher than that of the emptiest rank.

A prompt that not even an empty rank has room for (longer than the chunk budget, or than what running
decodes leave of it) takes several passes. It may start only on a rank with nothing left over, so that at
most one such prompt occupies a rank.

While newcomers wait, resumed requests are seated up to their bound (see `resumed`).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import Phase
from hortator.scheduler.core.policies.base import Seat
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.resumed import ResumedBound


class Seating:
    """One group's room while a batch for it is planned."""

    __slots__ = (
        "_bound",
        "_budget",
        "_fleet",
        "_free",
        "_free_kv",
        "_heap",
        "_level",
        "_limit",
        "_needs_decode",
        "_prefill_load",
        "_slots",
        "group",
        "seats",
    )

    def __init__(self, fleet: Fleet, group: GroupState, bound: ResumedBound | None = None) -> None:
        spec = group.spec
        self.group = group
        self.seats: list[Seat] = []
        self._fleet = fleet
        self._bound = bound
        self._needs_decode = spec.phase is Phase.PREFILL and fleet.settings.decode_reservation
        self._budget = spec.chunk_budget_tokens
        self._limit = self._budget
        self._free = group.free_tokens()
        self._free_kv = group.free_kv_blocks()
        self._slots = group.free_slots()
        self._prefill_load = list(group.queued_tokens())
        # Level: cost already on the rank; the lowest is filled first.
        self._level = [float(self._budget - free) for free in self._free]
        self._heap = [
            (level, rank)
            for rank, level in enumerate(self._level)
            if self._slots[rank] > 0 and self._free[rank] > 0
        ]
        heapify(self._heap)

    def has_room(self) -> bool:
        """Whether any rank may take anything more."""
        return bool(self._heap)

    @property
    def total_free_tokens(self) -> int:
        """Prefill tokens that fit into the next pass over all ranks."""
        return sum(free for free in self._free if free > 0)

    @property
    def fullest_level(self) -> float:
        """Cost of the fullest rank, at most the budget: what the pass will be as long as."""
        return max(min(level, float(self._budget)) for level in self._level)

    def room_under(self, level: int) -> int:
        """Prefill tokens that fit under `level`; above the budget, on ranks that hold nothing."""
        if level > self._budget:
            return level * sum(1 for load in self._prefill_load if load <= 0)
        cut = self._budget - level
        return sum(free - cut for free in self._free if free > cut)

    def lower_limit(self, level: int) -> None:
        """From now on no rank is filled above `level` tokens."""
        cut = self._limit - level
        if cut > 0:
            self._free = [free - cut for free in self._free]
            self._limit = level

    def seat(self, request: RequestState, *, must: bool = False) -> bool:
        """Seat one request if it fits. `must` lets a multi-pass prompt start beside a short leftover."""
        if not self.group.can_hold(request) or (self._bound is not None and not self._bound.allows(request)):
            return False
        blocks = self._fleet.blocks_on_entry(self.group, request)
        choice = self._best_cached(request, blocks) or self._emptiest(request, blocks, must=must)
        if choice is None:
            return False
        if self._needs_decode and request.reservation is None:
            reservation = self._fleet.reserve_decode(request)
            if reservation is None:
                return False
            self._fleet.hold_reservation(request, reservation)
        rank, tokens = choice
        self._take(request, rank, tokens, blocks)
        return True

    def _emptiest(self, request: RequestState, blocks: int, *, must: bool) -> tuple[int, int] | None:
        heap = self._heap
        tokens = request.num_prompt_tokens
        set_aside: list[tuple[float, int]] = []
        found: int | None = None
        while heap:
            rank = self._lowest_rank()
            if rank is None:
                break
            if not self._fits(tokens, rank, must=must):
                break  # the emptiest is too full; one that costs more may have room, but lengthens the pass
            if blocks > self._free_kv[rank]:
                set_aside.append(heappop(heap))
                continue
            found = rank
            break
        for entry in set_aside:
            heappush(heap, entry)
        return None if found is None else (found, tokens)

    def _lowest_rank(self) -> int | None:
        """The rank of the least level that may take anything; None when there is none."""
        heap = self._heap
        while heap:
            level, rank = heap[0]
            if level == self._level[rank] and self._slots[rank] > 0:
                return rank
            heappop(heap)  # outdated, or no slot left
        return None

    def _fits(self, tokens: int, rank: int, *, must: bool) -> bool:
        free = self._free[rank]
        if tokens <= free:
            return True
        if not self.group.spec.chunked_prefill:
            return False
        load = self._prefill_load[rank]
        return free > 0 and (load <= 0 or (must and tokens > free + load))  # free + load: an empty rank

    def _best_cached(self, request: RequestState, blocks: int) -> tuple[int, int] | None:
        """The rank whose prefix cache makes it finish no later than the emptiest rank would."""
        matches = self.group.prefixes.match(request.block_hashes)
        if not matches:
            return None
        prompt = request.num_prompt_tokens
        scale = request.cost_tokens / prompt
        emptiest = self._lowest_rank()
        lowest = float("inf") if emptiest is None else self._level[emptiest]
        for depth, ranks in matches:
            tokens = max(1, prompt - depth * self.group.spec.tokens_per_block)
            best: tuple[float, int] | None = None
            bits = ranks
            while bits:
                rank = (bits & -bits).bit_length() - 1
                bits &= bits - 1
                if (
                    self._slots[rank] > 0
                    and blocks <= self._free_kv[rank]
                    and self._fits(tokens, rank, must=False)
                    and (best is None or self._level[rank] < best[0])
                ):
                    best = (self._level[rank], rank)
            if best is not None and best[0] + tokens * scale <= lowest + request.cost_tokens:
                return best[1], tokens
        return None

    def _take(self, request: RequestState, rank: int, tokens: int, blocks: int) -> None:
        self.seats.append(Seat(request, rank, tokens, blocks))
        if self._bound is not None:
            self._bound.count(request)
        self._free[rank] -= tokens
        self._prefill_load[rank] += tokens
        self._free_kv[rank] -= blocks
        self._slots[rank] -= 1
        self._level[rank] += request.cost_tokens * (tokens / request.num_prompt_tokens)
        if self._slots[rank] > 0 and self._free[rank] > 0:
            heappush(self._heap, (self._level[rank], rank))
