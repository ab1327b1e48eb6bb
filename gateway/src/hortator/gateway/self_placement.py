"""Where requests go while no scheduler leads: what this gateway decides by itself.

It knows what the last leader told (`fleet_view`) and what it has placed since. Rules:

1. Only what waits is placed, and nothing with an idempotency key: only a scheduler knows whether something
   runs under that already. A request with a key waits for one.
2. A request goes to the least loaded rank among the groups that read its tokenizer and can hold its prompt.
   Load is what the leader knew, less what passes have computed since by its own prediction, plus what was
   placed here since: prefill tokens for a prompt, sequences for a decode. Full ranks (no slot, or no KV) come
   last. Which of equals comes first differs from gateway to gateway.
3. On a rank this gateway has at most its share of what the rank takes at a time (its chunk budget in prefill
   tokens that have not brought a token yet, its batch in requests; by the number of gateways), but always one
   request. What finds no room waits, and what came after it waits behind it.
4. A worker that refused, or was lost, is left alone for a while, longer every time, until a leader tells of
   it again.
5. Latency-critical requests come first, then those of a higher priority, then who waited first.

Pure: time is an argument, and nothing here is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from zlib import crc32

from hortator.gateway.fleet_view import FleetView, GroupView
from hortator.gateway.placement import Phase, Placement, WorkerTarget

MIN_AVOIDED_S = 1.0
MAX_AVOIDED_S = 30.0
GUESSED_OUTPUT_TOKENS = 256
"""Of one sequence, for the room in KV that it will want: what ends earlier leaves it to others."""

_Key = tuple[bool, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A request that waits for a placement."""

    request_id: str
    attempt: int
    """The one that waits; the placement is of the next."""
    is_decode: bool
    """Its KV waits under a lease."""
    num_prompt_tokens: int
    max_output_tokens: int
    tokenizer: bytes = b""
    is_critical: bool = False
    priority: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Rank:
    """One DP rank: what is known of it, and what was placed on it here."""

    group: GroupView
    dp_rank: int
    tie: int
    num_tokens: int = 0
    """Prefill tokens placed here that have not brought a token yet."""
    num_requests: int = 0
    num_blocks: int = 0

    def has_share(self, num_prompt_tokens: int, num_gateways: int) -> bool:
        """May this gateway place another request here (rule 3)?"""
        if self.num_requests >= max(1, self.group.max_batch_size // num_gateways):
            return False
        if self.group.phase is Phase.DECODE or not self.num_tokens:
            return True
        return self.num_tokens + num_prompt_tokens <= self.group.chunk_budget_tokens // num_gateways

    def key(self, since_s: float) -> _Key:
        """The least comes first (rule 2)."""
        group, rank = self.group, self.dp_rank
        batch = group.batch_size[rank] + self.num_requests
        blocks = group.kv_blocks_used[rank] + self.num_blocks
        is_full = batch >= group.max_batch_size or blocks >= group.kv_blocks_total
        if group.phase is Phase.DECODE:
            return is_full, batch, blocks, self.tie
        known = group.prefill_load_tokens[rank]
        if group.full_pass_s > 0:
            known = max(0, known - int(group.chunk_budget_tokens * since_s / group.full_pass_s))
        return is_full and group.phase is Phase.AGGREGATED, known + self.num_tokens, batch, self.tie


@dataclass(slots=True, kw_only=True, eq=False)
class _Seat:
    """A request that was placed here."""

    rank: _Rank
    num_tokens: int
    num_blocks: int


@dataclass(slots=True)
class _Avoided:
    until: float
    pause_s: float = MIN_AVOIDED_S


class _Queue:
    """Requests of one kind that wait, in their order (rule 5)."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[bool, int]] = {}
        self._wants: dict[tuple[bool, int], dict[str, Want]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Want]:
        for place in sorted(self._wants):
            yield from list(self._wants[place].values())

    def add(self, want: Want) -> None:
        place = self._places[want.request_id] = (not want.is_critical, -want.priority)
        self._wants.setdefault(place, {})[want.request_id] = want

    def drop(self, request_id: str) -> None:
        place = self._places.pop(request_id, None)
        if place is not None:
            del self._wants[place][request_id]

    def clear(self) -> None:
        self._places.clear()
        self._wants.clear()


class SelfPlacement:
    """Follows the rules in the module docstring."""

    def __init__(self, gateway_id: str) -> None:
        self._turn = crc32(gateway_id.encode())
        self._view = FleetView(groups=())
        self._viewed_at = 0.0
        self._made: list[_Rank] | None = None
        """Of the view, once they are needed: it is seldom that they are."""
        self._avoided: dict[str, _Avoided] = {}
        self._seats: dict[str, _Seat] = {}
        self._queues = {is_decode: _Queue() for is_decode in (False, True)}

    # --- what is known ---------------------------------------------------------------------------------

    def viewed(self, view: FleetView, now: float) -> None:
        """A leader tells what there is, what was placed here before included."""
        self._view = view
        self._viewed_at = now
        self._made = None
        self._avoided.clear()
        self._seats.clear()

    def can_place(self, now: float) -> bool:
        """Whether there is a worker to which a newcomer might go."""
        return any(
            group.phase is not Phase.DECODE and self._is_usable(group, now) for group in self._view.groups
        )

    def avoid(self, worker_id: str, now: float) -> None:
        """A worker refused, or was lost (rule 4)."""
        avoided = self._avoided.get(worker_id)
        if avoided is None:
            self._avoided[worker_id] = _Avoided(now + MIN_AVOIDED_S)
        elif now >= avoided.until:  # several refusals at a time are one
            avoided.pause_s = min(2 * avoided.pause_s, MAX_AVOIDED_S)
            avoided.until = now + avoided.pause_s

    def lost(self, target: WorkerTarget, now: float) -> None:
        """The stream to a worker is over."""
        for group in self._view.groups:
            if group.target == target:
                self.avoid(group.worker_id, now)

    def next_look_at(self, now: float) -> float | None:
        """When a worker that is left alone may be tried again; None: none is."""
        return min((one.until for one in self._avoided.values() if one.until > now), default=None)

    # --- requests --------------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Requests that want to be placed here."""
        return sum(len(queue) for queue in self._queues.values())

    def waits(self, want: Want) -> None:
        """A request without a key wants a placement."""
        self.let_go(want.request_id)
        self._queues[want.is_decode].add(want)

    def stop_waiting(self) -> None:
        """A leader is there: it places."""
        for queue in self._queues.values():
            queue.clear()

    def started(self, request_id: str) -> None:
        """A request brought a token: its prompt is computed."""
        seat = self._seats.get(request_id)
        if seat is not None:
            seat.rank.num_tokens -= seat.num_tokens
            seat.num_tokens = 0

    def let_go(self, request_id: str) -> None:
        """A request waits no more, or its worker is done with it."""
        for queue in self._queues.values():
            queue.drop(request_id)
        seat = self._seats.pop(request_id, None)
        if seat is not None:
            rank = seat.rank
            rank.num_tokens -= seat.num_tokens
            rank.num_blocks -= seat.num_blocks
            rank.num_requests -= 1

    def place(self, now: float, *, epoch: int) -> list[Placement]:
        """Whatever finds room now. `epoch`: the newest that was heard of."""
        placements: list[Placement] = []
        usable = [group for group in self._view.groups if self._is_usable(group, now)]
        for is_decode, queue in self._queues.items():
            if not len(queue):
                continue
            room = _Room(
                usable,
                self._ranks(),
                is_decode=is_decode,
                since_s=now - self._viewed_at,
                num_gateways=self._view.num_gateways,
            )
            for want in queue:
                if not room.may_ever_take(want):
                    continue  # it waits for other workers, not for room
                rank = room.roomiest(want)
                if rank is None:
                    break
                queue.drop(want.request_id)
                placements.append(self._seat(want, rank, epoch))
                room.put_back(rank)
        return placements

    def _ranks(self) -> list[_Rank]:
        if self._made is None:
            ranks = [(group, rank) for group in self._view.groups for rank in range(len(group.batch_size))]
            self._made = [
                _Rank(group=group, dp_rank=rank, tie=(number + self._turn) % len(ranks))
                for number, (group, rank) in enumerate(ranks)
            ]
        return self._made

    def _is_usable(self, group: GroupView, now: float) -> bool:
        avoided = self._avoided.get(group.worker_id)
        return avoided is None or now >= avoided.until

    def _seat(self, want: Want, rank: _Rank, epoch: int) -> Placement:
        is_decode = want.is_decode
        seat = _Seat(
            rank=rank,
            num_tokens=0 if is_decode else want.num_prompt_tokens,
            num_blocks=rank.group.blocks_for(
                want.num_prompt_tokens + min(want.max_output_tokens, GUESSED_OUTPUT_TOKENS)
            ),
        )
        rank.num_tokens += seat.num_tokens
        rank.num_blocks += seat.num_blocks
        rank.num_requests += 1
        self._seats[want.request_id] = seat
        group = rank.group
        return Placement(
            request_id=want.request_id,
            attempt=want.attempt + 1,
            phase=group.phase,
            worker_id=group.worker_id,
            target=group.target,
            dp_rank=rank.dp_rank,
            epoch=epoch,
            is_degraded=True,
        )


class _Room:
    """The ranks that take requests of one kind while some are placed; the least loaded on top."""

    def __init__(
        self,
        usable: Sequence[GroupView],
        ranks: Sequence[_Rank],
        *,
        is_decode: bool,
        since_s: float,
        num_gateways: int,
    ) -> None:
        self._since_s = since_s
        self._num_gateways = num_gateways
        self._decoders = [group for group in usable if group.phase is Phase.DECODE]
        self._takers = [group for group in usable if (group.phase is Phase.DECODE) is is_decode]
        takers = {id(group) for group in self._takers}
        self._heap = [
            (rank.key(since_s), rank)
            for rank in ranks
            if id(rank.group) in takers and rank.has_share(1, num_gateways)
        ]
        self._longest: dict[bytes, int] = {}
        self._longest_decoded: dict[bytes, int] = {}
        heapify(self._heap)  # no two keys are alike: they end in the rank's tie

    def roomiest(self, want: Want) -> _Rank | None:
        """Take out the least loaded rank on which a request may be placed; None: there is none now."""
        set_aside: list[tuple[_Key, _Rank]] = []
        found: _Rank | None = None
        while self._heap and found is None:
            key, rank = heappop(self._heap)
            has_share = rank.has_share(want.num_prompt_tokens, self._num_gateways)
            if has_share and want.num_prompt_tokens <= self._longest_in(rank.group, want.tokenizer):
                found = rank
            else:
                set_aside.append((key, rank))
        for entry in set_aside:
            heappush(self._heap, entry)
        return found

    def put_back(self, rank: _Rank) -> None:
        """Something was placed on a rank that was taken out."""
        if rank.has_share(1, self._num_gateways):
            heappush(self._heap, (rank.key(self._since_s), rank))

    def may_ever_take(self, want: Want) -> bool:
        """Whether there is a group on which a request may be placed, now or later."""
        longest = self._longest.get(want.tokenizer)
        if longest is None:
            longest = max((self._longest_in(group, want.tokenizer) for group in self._takers), default=0)
            self._longest[want.tokenizer] = longest
        return want.num_prompt_tokens <= longest

    def _longest_in(self, group: GroupView, tokenizer: bytes) -> int:
        """Tokens of the longest prompt that a group can take, and somebody can decode; 0: of none."""
        if not _reads(group, tokenizer):
            return 0
        if group.phase is not Phase.PREFILL:
            return group.longest_prompt_tokens
        longest = self._longest_decoded.get(tokenizer)
        if longest is None:
            decoders = [one.longest_prompt_tokens for one in self._decoders if _reads(one, tokenizer)]
            longest = self._longest_decoded[tokenizer] = max(decoders, default=0)
        return min(group.longest_prompt_tokens, longest)


def _reads(group: GroupView, tokenizer: bytes) -> bool:
    return not tokenizer or not group.tokenizer or tokenizer == group.tokenizer
