"""Which rank of a group holds which prompt blocks, so that a shared prefix is computed once.

Ranks are bits of an int, so one dict look-up per block answers for all ranks of a group. Hashes are chained:
a rank that lacks block i cannot use block i+1, so the walk stops at the first block nobody holds.

An index that knows of more blocks than its group can hold is wrong and begins anew: only less is found.
"""

from __future__ import annotations

from collections.abc import Sequence

from hortator.scheduler.core.model import BlocksChanged

MAX_BLOCKS = 1 << 23
"""Of one group, whatever it says that it can hold."""


class PrefixIndex:
    """Prefix-cache contents of one EP group, as reported."""

    __slots__ = ("_max_blocks", "_ranks_by_hash")

    def __init__(self, *, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = min(max_blocks, MAX_BLOCKS)
        self._ranks_by_hash: dict[int, int] = {}

    def apply(self, changes: Sequence[BlocksChanged]) -> None:
        """Fold in what a report says was stored and removed."""
        index = self._ranks_by_hash
        for change in changes:
            bit = 1 << change.dp_rank
            for block in change.removed:
                left = index.get(block, 0) & ~bit
                if left:
                    index[block] = left
                else:
                    index.pop(block, None)
            for block in change.stored:
                index[block] = index.get(block, 0) | bit
            if len(index) > self._max_blocks:
                index.clear()

    def match(self, block_hashes: Sequence[int]) -> list[tuple[int, int]]:
        """Longest matches first: (number of leading blocks, bit set of the ranks that hold them all)."""
        index = self._ranks_by_hash
        if not index or not block_hashes or block_hashes[0] not in index:
            return []
        steps: list[tuple[int, int]] = []
        ranks = -1
        depth = 0
        for block in block_hashes:
            holding = index.get(block, 0) & ranks
            if not holding:
                break
            if holding != ranks and depth:
                steps.append((depth, ranks))
            ranks = holding
            depth += 1
        if depth:
            steps.append((depth, ranks))
        steps.reverse()
        return steps

    def __len__(self) -> int:
        return len(self._ranks_by_hash)
