"""Our own account of one DP rank. Pure.

TensorRT-LLM tells nothing of single ranks, or only later, so what a rank holds is computed from what was
sent there and what came back. The rules are the library's: first come, first served; blocks for all that a
request can need are reserved when it starts (GUARANTEED_NO_EVICT); decode tokens are taken from the chunk
budget first. Where the engine does otherwise its tokens say so, and the account follows (`put_back`,
`arrived`): it is an estimate between two tokens, and right about everything that has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from hortator.worker.engine import RankLoad, RequestMode
from hortator.worker.kv_blocks import KvBlocks


class State(Enum):
    """Of an entry, in order of its life."""

    WAITING = "waiting"
    TRANSFERRING = "transferring"
    """DECODE_ONLY: its blocks are reserved, its KV is on its way."""
    PREFILLING = "prefilling"
    DECODING = "decoding"
    LEASED = "leased"
    ENDED = "ended"


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One request as the books know it; `RankBooks` alone changes its state."""

    dp_rank: int
    mode: RequestMode
    num_prefill_tokens: int
    """Prompt and prior output tokens: what must be in the KV cache before decode."""
    num_blocks: int
    """All that it can ever need."""
    block_hashes: Sequence[int] = ()
    batch: int = 0
    """Requests of one submit have the same number."""
    state: State = State.WAITING
    is_aborting: bool = False
    num_computed: int = 0
    num_cached: int = 0
    uncached: int = 0
    """What it counts for in the rank's `prefill_load_tokens`."""
    chunk: int = 0
    """Prefill tokens of the running pass, as expected."""
    decoding_from: int = 0
    """First pass in which it decodes."""
    arrived_in: int = 0
    """Last pass that it brought a token in."""
    reserved: int = 0
    refs: list[int] | None = None
    num_stored: int = 0

    @property
    def completes(self) -> bool:
        """The running pass is expected to bring its first token."""
        return self.chunk > 0 and self.num_computed + self.chunk >= self.num_prefill_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLimits:
    """Sizes of a rank."""

    chunk_budget_tokens: int
    chunked_prefill: bool
    max_batch_size: int
    kv_blocks_total: int
    tokens_per_block: int
    decode_tokens: int = 1
    """What a decoding request takes of the budget: itself and its drafts."""
    prefix_cache: bool = True


class RankBooks:
    """See the module docstring."""

    def __init__(self, dp_rank: int, limits: RankLimits) -> None:
        self.dp_rank = dp_rank
        self.limits = limits
        self.kv = KvBlocks(limits.kv_blocks_total)
        self.waiting: deque[Entry] = deque()
        self.num_staged = 0
        """Entries that the engine will fetch one pass later."""
        self.transferring: set[Entry] = set()
        self.running: dict[int, Entry] = {}
        """By identity, oldest first."""
        self.num_decoding = 0
        self.partial: Entry | None = None
        self.pieces: list[Entry] = []
        self.prefill_load = 0
        self.pass_prefill = 0
        """Of the running pass as expected, of an ended one as it was."""
        self.pass_decode = 0
        self._came_prefill = 0
        self._came_decode = 0

    # Requests

    def announce(self, entry: Entry) -> None:
        """It counts for the rank's load from now on."""
        if entry.mode is RequestMode.DECODE_ONLY:
            return
        entry.uncached = entry.num_prefill_tokens - self._match(entry) * self.limits.tokens_per_block
        self.prefill_load += entry.uncached

    def enqueue(self, entry: Entry) -> None:
        """The engine has fetched it."""
        if entry.mode is RequestMode.DECODE_ONLY and not self.waiting and self._start_transfer(entry):
            return
        self.waiting.append(entry)

    def form(self, pass_id: int) -> int:
        """Put the next pass together; returns how many requests are to bring a token."""
        limits = self.limits
        budget = limits.chunk_budget_tokens - self.num_decoding * limits.decode_tokens
        self.pieces = []
        prefill = 0
        entry = self.partial
        while budget > 0:
            if entry is None:
                entry = self._start_next(budget)
                if entry is None:
                    break
            entry.chunk = min(entry.num_prefill_tokens - entry.num_computed, budget)
            budget -= entry.chunk
            prefill += entry.chunk
            self.pieces.append(entry)
            self.partial = None if entry.completes else entry
            entry = None
        self.pass_prefill, self.pass_decode = prefill, self.num_decoding
        self._came_prefill = self._came_decode = 0
        completing = sum(entry.completes and not entry.is_aborting for entry in self.pieces)
        return completing + sum(self._is_to_decode(entry, pass_id) for entry in self.running.values())

    def arrived(self, entry: Entry, num_tokens: int, pass_id: int) -> None:
        """Tokens of it came out of the running pass."""
        entry.arrived_in = pass_id
        if entry.state is State.DECODING:
            self._came_decode += num_tokens
            return
        if entry.state is State.TRANSFERRING or entry.mode is RequestMode.DECODE_ONLY:
            self._leave_queue(entry)
            self._came_decode += num_tokens
        else:
            if entry.state is State.WAITING:
                self._take(entry, self._match(entry), is_forced=True)
                self._leave_queue(entry)
            self._came_prefill += entry.num_prefill_tokens - entry.num_computed
            self._computed(entry, entry.num_prefill_tokens)
            if self.partial is entry:
                self.partial = None
        entry.state = State.DECODING
        entry.decoding_from = pass_id + 1
        self.running[id(entry)] = entry
        self.num_decoding += 1

    def end(self, *, is_seen_by_tokens: bool) -> list[Entry]:
        """The running pass is over; returns those that were expected to be in it and were not."""
        absent: list[Entry] = []
        for entry in self.pieces:
            chunk, entry.chunk = entry.chunk, 0
            if entry.state is not State.PREFILLING:
                continue
            if entry.num_computed + chunk < entry.num_prefill_tokens:
                self._came_prefill += chunk
                self._computed(entry, entry.num_computed + chunk)
            elif is_seen_by_tokens and not entry.is_aborting and entry.num_computed == entry.num_cached:
                absent.append(entry)
            else:
                self.partial = entry  # its last piece takes longer than expected, or its token is late
        for entry in reversed(absent):
            self._put_back(entry)
        self.pieces = []
        self.pass_prefill, self.pass_decode = self._came_prefill, self._came_decode
        return absent

    def withdraw(self, entry: Entry) -> None:
        """It waits and will not run."""
        self._leave_queue(entry)
        self.prefill_load -= entry.uncached
        entry.uncached = 0

    def drop(self, entry: Entry, *, keep_kv: bool = False) -> None:
        """It has ended in the engine, however; with `keep_kv` its blocks wait for their pull."""
        match entry.state:
            case State.WAITING | State.TRANSFERRING:
                self._leave_queue(entry)
            case State.PREFILLING | State.DECODING:
                del self.running[id(entry)]
                if entry.state is State.DECODING:
                    self.num_decoding -= 1
                if self.partial is entry:
                    self.partial = None
            case _:
                pass
        self.prefill_load -= entry.uncached
        entry.uncached = 0
        entry.state = State.LEASED if keep_kv else State.ENDED
        if not keep_kv:
            self._free(entry)

    def load(self, *, of_pass: bool, drain: bool) -> RankLoad:
        """In the words of the port."""
        stored: tuple[int, ...] = ()
        removed: tuple[int, ...] = ()
        if drain and (self.kv.stored or self.kv.removed):
            stored, removed = tuple(self.kv.stored), tuple(self.kv.removed)
            self.kv.stored.clear()
            self.kv.removed.clear()
        return RankLoad(
            dp_rank=self.dp_rank,
            prefill_load_tokens=self.prefill_load,
            num_waiting=len(self.waiting) + len(self.transferring) + self.num_staged,
            batch_size=len(self.running),
            kv_blocks_used=self.kv.used,
            pass_prefill_tokens=self.pass_prefill if of_pass else 0,
            pass_decode_tokens=self.pass_decode if of_pass else 0,
            stored_blocks=stored,
            removed_blocks=removed,
        )

    def live(self) -> Iterator[Entry]:
        """All that waits, transfers or runs."""
        yield from self.waiting
        yield from self.transferring
        yield from self.running.values()

    # Inside

    @staticmethod
    def _is_to_decode(entry: Entry, pass_id: int) -> bool:
        return entry.state is State.DECODING and not entry.is_aborting and entry.decoding_from <= pass_id

    def _start_next(self, budget: int) -> Entry | None:
        limits = self.limits
        while self.waiting:
            entry = self.waiting[0]
            if entry.mode is RequestMode.DECODE_ONLY:
                if not self._start_transfer(entry):
                    return None
                self.waiting.popleft()
                continue
            if len(self.running) >= limits.max_batch_size:
                return None
            hits = self._match(entry)
            rest = entry.num_prefill_tokens - hits * limits.tokens_per_block
            if (not limits.chunked_prefill and rest > budget) or not self._take(entry, hits):
                return None
            self.waiting.popleft()
            entry.state = State.PREFILLING
            self.running[id(entry)] = entry
            return entry
        return None

    def _start_transfer(self, entry: Entry) -> bool:
        if not self.kv.reserve(entry.num_blocks):
            return False
        entry.reserved, entry.refs = entry.num_blocks, []
        entry.state = State.TRANSFERRING
        self.transferring.add(entry)
        return True

    def _take(self, entry: Entry, hits: int, *, is_forced: bool = False) -> bool:
        """Reserve its blocks, reusing `hits` of them."""
        refs = list(entry.block_hashes[:hits])
        if not self.kv.reserve(entry.num_blocks, refs):
            return is_forced  # the engine had room: we count too much, and this one not at all
        entry.reserved, entry.refs, entry.num_stored = entry.num_blocks, refs, hits
        entry.num_cached = entry.num_computed = hits * self.limits.tokens_per_block
        uncached = entry.num_prefill_tokens - entry.num_computed
        self.prefill_load += uncached - entry.uncached
        entry.uncached = uncached
        return True

    def _computed(self, entry: Entry, num_tokens: int) -> None:
        """So many of its prompt tokens are in the cache now."""
        self.prefill_load -= min(num_tokens - entry.num_computed, entry.uncached)
        entry.uncached = max(entry.uncached - (num_tokens - entry.num_computed), 0)
        entry.num_computed = num_tokens
        full = min(num_tokens // self.limits.tokens_per_block, len(entry.block_hashes))
        if full > entry.num_stored and entry.refs is not None and self.limits.prefix_cache:
            entry.refs.extend(self.kv.store(entry.block_hashes[entry.num_stored : full]))
            entry.num_stored = full

    def _put_back(self, entry: Entry) -> None:
        """The engine did not take it into the pass after all."""
        del self.running[id(entry)]
        if self.partial is entry:
            self.partial = None
        self._free(entry)
        self.prefill_load += entry.num_prefill_tokens - entry.uncached
        entry.uncached = entry.num_prefill_tokens
        entry.num_computed = entry.num_cached = entry.num_stored = 0
        entry.state = State.WAITING
        self.waiting.appendleft(entry)

    def _leave_queue(self, entry: Entry) -> None:
        if entry in self.transferring:
            self.transferring.remove(entry)
        elif entry in self.waiting:
            self.waiting.remove(entry)

    def _free(self, entry: Entry) -> None:
        if entry.reserved:
            refs = entry.refs or []
            self.kv.free(entry.reserved - len(refs), refs)
            entry.reserved, entry.refs = 0, None

    def _match(self, entry: Entry) -> int:
        """Reusable leading blocks; one prompt token at least is computed."""
        if not self.limits.prefix_cache or not entry.block_hashes:
            return 0
        most = (entry.num_prefill_tokens - 1) // self.limits.tokens_per_block
        return self.kv.match(entry.block_hashes[:most])
