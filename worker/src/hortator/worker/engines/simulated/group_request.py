"""A request and a DP rank as the group model keeps them; `GroupModel` alone changes their state.

Plain classes with slots, because the virtual-time simulator makes one request object per request of a trace
and reads rank counters after every pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from hortator.worker.engine import FinishReason, RankLoad, RequestMode
from hortator.worker.kv_blocks import KvBlocks

WAITING, TRANSFERRING, PREFILLING, DECODING, LEASED, ENDED = range(6)
"""States of a request, in order of its life."""


class GroupRequest:
    """One request inside the model; the caller builds it, the model moves it along.

    Subclass it (with `__slots__`) to carry more.

    Args:
        request_id: unique among the live requests of the model.
        dp_rank: where it runs.
        mode: which part runs here.
        num_prefill_tokens: prompt plus prior output tokens: what has to be in the KV cache before decode.
        num_output_tokens: output tokens in total at which it ends, prior ones included. A PREFILL_ONLY
            request for which that is its first token ends here; any other waits for its KV to be released.
        num_prior_tokens: output tokens of earlier attempts (or of the prefill group).
        reserve_tokens: total tokens to hold KV blocks for; default: exactly what it will use.
        block_hashes: hash of each full prompt block; empty means no prefix reuse.
        transfer_s: DECODE_ONLY: how long its KV takes to arrive once the transfer starts.
    """

    __slots__ = (
        "aborting",
        "block_hashes",
        "dp_rank",
        "end_reason",
        "finish_reason",
        "kv_blocks",
        "kv_refs",
        "mode",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_output_tokens",
        "num_prefill_tokens",
        "num_prior_tokens",
        "num_stored_blocks",
        "pass_offset",
        "ready_at",
        "request_id",
        "reserve_tokens",
        "started_at",
        "state",
        "transfer_s",
        "uncached_tokens",
    )

    def __init__(
        self,
        request_id: str,
        dp_rank: int,
        mode: RequestMode,
        num_prefill_tokens: int,
        num_output_tokens: int,
        num_prior_tokens: int = 0,
        reserve_tokens: int | None = None,
        block_hashes: Sequence[int] = (),
        transfer_s: float = 0.0,
    ) -> None:
        self.request_id = request_id
        self.dp_rank = dp_rank
        self.mode = mode
        self.num_prefill_tokens = num_prefill_tokens
        self.num_output_tokens = num_output_tokens
        self.num_prior_tokens = num_prior_tokens
        if mode is RequestMode.PREFILL_ONLY:
            reserve_tokens = num_prefill_tokens
        elif reserve_tokens is None:
            reserve_tokens = num_prefill_tokens - num_prior_tokens + num_output_tokens
        self.reserve_tokens = reserve_tokens
        self.block_hashes = block_hashes
        self.transfer_s = transfer_s
        self.end_reason = FinishReason.LENGTH
        """Why it ends when it has `num_output_tokens`; the caller may say STOP."""
        self.finish_reason: FinishReason | None = None
        """Set by the model when the request ends."""
        self.state = WAITING
        self.aborting = False
        self.num_cached_tokens = 0
        """Prompt tokens found in the prefix cache (final once it runs)."""
        self.num_computed_tokens = 0
        """Prompt tokens in the KV cache, cached ones included."""
        self.uncached_tokens = 0
        """What it counts for in its rank's `prefill_load_tokens` now."""
        self.num_stored_blocks = 0
        self.kv_blocks = 0
        self.kv_refs: list[int] = []
        self.ready_at = 0.0
        self.started_at = 0.0
        """When the first pass with some of its prompt began."""
        self.pass_offset = 0
        """Output token index = pass id + this; of use only while decoding."""

    def output_index(self, forward_pass_id: int) -> int:
        """Index of the output token that this decoding request gets from the pass."""
        return forward_pass_id + self.pass_offset


class Rank:
    """One DP rank: its queues and what it holds. Read-only for callers."""

    __slots__ = (
        "batch_size",
        "dp_rank",
        "kv",
        "num_waiting",
        "partial",
        "pass_prefill_tokens",
        "prefill_load_tokens",
        "transfer_free_at",
        "transferring",
        "waiting",
    )

    def __init__(self, dp_rank: int, kv_blocks_total: int) -> None:
        self.dp_rank = dp_rank
        self.kv = KvBlocks(kv_blocks_total)
        self.waiting: deque[GroupRequest] = deque()
        self.transferring: deque[GroupRequest] = deque()
        self.partial: GroupRequest | None = None
        self.transfer_free_at = 0.0
        self.prefill_load_tokens = 0
        self.num_waiting = 0
        self.batch_size = 0
        self.pass_prefill_tokens = 0

    def load(self, num_decodes: int, *, of_pass: bool, drain: bool) -> RankLoad:
        """The port's report on this rank; see `GroupModel.loads`."""
        stored: tuple[int, ...] = ()
        removed: tuple[int, ...] = ()
        kv = self.kv
        if drain and (kv.stored or kv.removed):
            stored, removed = tuple(kv.stored), tuple(kv.removed)
            kv.stored.clear()
            kv.removed.clear()
        return RankLoad(
            dp_rank=self.dp_rank,
            prefill_load_tokens=self.prefill_load_tokens,
            num_waiting=self.num_waiting,
            batch_size=self.batch_size,
            kv_blocks_used=kv.used,
            pass_prefill_tokens=self.pass_prefill_tokens if of_pass else 0,
            pass_decode_tokens=num_decodes if of_pass else 0,
            stored_blocks=stored,
            removed_blocks=removed,
        )
