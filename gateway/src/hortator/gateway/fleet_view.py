"""What a leader tells gateways of the workers: by this they place themselves, should there be no leader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hortator.gateway.placement import Phase, WorkerTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One EP group as the leader believed it to be. Columns are indexed by DP rank."""

    worker_id: str
    target: WorkerTarget
    phase: Phase
    chunk_budget_tokens: int
    max_batch_size: int
    kv_blocks_total: int
    tokens_per_block: int
    longest_prompt_tokens: int
    """A longer one never fits there."""
    tokenizer: bytes = b""
    full_pass_s: float = 0.0
    """Of a pass that fills every rank; 0: not known."""
    prefill_load_tokens: Sequence[int]
    batch_size: Sequence[int]
    kv_blocks_used: Sequence[int]

    def blocks_for(self, num_tokens: int) -> int:
        """KV blocks that a sequence of so many tokens takes."""
        return -(-num_tokens // self.tokens_per_block)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """All groups on which something may be placed, as one leader saw them at one time."""

    groups: Sequence[GroupView]
    num_gateways: int = 1
    """That may place by it at the same time."""
    heartbeat_s: float = 0.0
    """Between two words of the leader."""
