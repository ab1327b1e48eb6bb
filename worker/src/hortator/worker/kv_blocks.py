"""KV blocks of one DP rank: reservation and prefix reuse.

A request reserves every block it can ever need when it is admitted (no eviction of running requests).
A block is *private* to its request until the prompt tokens in it are computed; then, if the request
carries the block's hash, it becomes *shared* (referenced by one or more requests) and, once nobody
references it, *evictable*: still reusable, but free for whoever needs room, least recently used first.

    used = private + shared distinct blocks          used + evictable <= total
"""

from __future__ import annotations

from collections.abc import Sequence


class KvBlocks:
    """Block accounting of one rank. All counts are blocks.

    Attributes:
        total: blocks of this rank.
        used: blocks that no new request can take.
        stored: hashes that became reusable since the list was last cleared by its reader.
        removed: hashes that were evicted since then.
    """

    __slots__ = ("_evictable", "_shared", "removed", "stored", "total", "used")

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.stored: list[int] = []
        self.removed: list[int] = []
        self._shared: dict[int, int] = {}
        self._evictable: dict[int, None] = {}

    def match(self, hashes: Sequence[int]) -> int:
        """How many leading blocks of a prompt are here already."""
        num_hits = 0
        for block_hash in hashes:
            if block_hash not in self._shared and block_hash not in self._evictable:
                break
            num_hits += 1
        return num_hits

    def reserve(self, num_blocks: int, hit_hashes: Sequence[int] = ()) -> bool:
        """Take `num_blocks`, `hit_hashes` of them (all present) reused; False if they do not fit."""
        used = self.used + num_blocks
        if hit_hashes:
            for block_hash in hit_hashes:
                if block_hash in self._shared:
                    used -= 1
        if used > self.total:
            return False
        for block_hash in hit_hashes:
            self._evictable.pop(block_hash, None)
            self._shared[block_hash] = self._shared.get(block_hash, 0) + 1
        self.used = used
        self._evict()
        return True

    def store(self, hashes: Sequence[int]) -> list[int]:
        """Make computed private blocks reusable; returns those now shared (not the ones stored by a twin)."""
        taken: list[int] = []
        for block_hash in hashes:
            if block_hash not in self._shared and block_hash not in self._evictable:
                self._shared[block_hash] = 1
                taken.append(block_hash)
        self.stored.extend(taken)
        return taken

    def free(self, num_private: int, shared_hashes: Sequence[int] = ()) -> None:
        """Give back a request's private blocks and its references; the tail of a prompt is evicted first."""
        self.used -= num_private
        for block_hash in reversed(shared_hashes):
            references = self._shared[block_hash] - 1
            if references:
                self._shared[block_hash] = references
            else:
                del self._shared[block_hash]
                self._evictable[block_hash] = None
                self.used -= 1

    def _evict(self) -> None:
        """Drop least recently used blocks until what is used fits."""
        while self.used + len(self._evictable) > self.total:
            block_hash = next(iter(self._evictable))
            del self._evictable[block_hash]
            self.removed.append(block_hash)

    def check(self) -> None:
        """Raise AssertionError if the accounts do not add up."""
        if not len(self._shared) <= self.used <= self.total:
            raise AssertionError(f"{self.used} used, {len(self._shared)} shared, {self.total} total")
        if self.used + len(self._evictable) > self.total:
            raise AssertionError(f"{len(self._evictable)} evictable do not fit beside {self.used} used")
