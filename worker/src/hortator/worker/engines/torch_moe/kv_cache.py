"""Which KV blocks of one DP rank are free, held, or kept for reuse. Block ids only; the rank has the data.

A block is *held* by one or more requests, else *free*. A full prompt block whose hash was registered stays
findable after its last holder is gone ("evictable"): it counts as free, and is given away, oldest first,
when no plain block is left. Of one request the last blocks are evicted before the first, because a
prefix is found from its start.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence


class BlockPool:
    """Block accounting with a prefix cache keyed by chained block hashes."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._plain = deque(range(num_blocks))
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * num_blocks
        self._block_of: dict[int, int] = {}
        self._hash_of: dict[int, int] = {}
        self._stored: dict[int, None] = {}
        self._removed: dict[int, None] = {}

    @property
    def num_free(self) -> int:
        """Blocks a new request could take, evictable ones included."""
        return len(self._plain) + len(self._evictable)

    @property
    def num_used(self) -> int:
        """Blocks held by requests or leases."""
        return self.num_blocks - self.num_free

    def find_prefix(self, hashes: Sequence[int]) -> list[int]:
        """Blocks of the longest cached prefix. They are not held yet."""
        blocks: list[int] = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def take(self, cached: Sequence[int], num_new: int) -> list[int] | None:
        """Hold the cached blocks and as many new ones, or return None and change nothing."""
        num_evictable = sum(1 for block in cached if self._holders[block] == 0)
        if self.num_free - num_evictable < num_new:
            return None
        for block in cached:
            self._holders[block] += 1
            self._evictable.pop(block, None)
        return [*cached, *(self._take_new() for _ in range(num_new))]

    def _take_new(self) -> int:
        if self._plain:
            block = self._plain.popleft()
        else:
            block, _ = self._evictable.popitem(last=False)
            block_hash = self._hash_of.pop(block)
            del self._block_of[block_hash]
            if block_hash in self._stored:
                del self._stored[block_hash]
            else:
                self._removed[block_hash] = None
        self._holders[block] = 1
        return block

    def register(self, block: int, block_hash: int) -> None:
        """Make a held, fully computed block findable. A hash that is already findable stays where it is."""
        if block_hash in self._block_of or block in self._hash_of:
            return
        self._block_of[block_hash] = block
        self._hash_of[block] = block_hash
        if block_hash in self._removed:
            del self._removed[block_hash]
        else:
            self._stored[block_hash] = None

    def release(self, blocks: Sequence[int]) -> None:
        """One holder of each of these blocks is gone."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._hash_of:
                    self._evictable[block] = None
                else:
                    self._plain.append(block)

    def drain_changes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Hashes stored and removed since the last call; one that came and went is in neither."""
        stored, removed = tuple(self._stored), tuple(self._removed)
        self._stored.clear()
        self._removed.clear()
        return stored, removed
