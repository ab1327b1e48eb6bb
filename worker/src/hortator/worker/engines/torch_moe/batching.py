"""Continuous batching on one DP rank: which sequences run in the next pass, and what came of it.

Rules:

1. First come, first served. The head of the queue waits for a batch slot, for budget and for blocks; nobody
   overtakes it, so nobody starves.
2. A request takes all blocks it can ever need when it starts, so a running request never has to be evicted
   for another.
3. Every decoding sequence runs one token per pass. Prefill shares `chunk_budget_tokens`, oldest first.
4. An abort takes effect at once. Its blocks may still be written by the pass in flight, which does no harm:
   blocks are given away only when the next pass is formed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Row

from hortator.worker.engine import EngineOutput, Finished, FinishReason, RankLoad
from hortator.worker.engines.torch_moe.kv_cache import BlockPool
from hortator.worker.engines.torch_moe.plan import KvImport, PassPlan, PassResult, SequenceStep
from hortator.worker.engines.torch_moe.sequence import Sequence


class RankBatcher:
    """Queue, running sequences and KV blocks of one DP rank."""

    def __init__(
        self,
        *,
        dp_rank: int,
        chunk_budget_tokens: int,
        max_batch_size: int,
        kv_blocks: int,
        tokens_per_block: int,
        prefix_cache: bool,
    ) -> None:
        self.dp_rank = dp_rank
        self.leases: dict[str, Sequence] = {}
        """Prefilled requests whose KV waits to be fetched, by request id."""
        self._chunk_budget_tokens = chunk_budget_tokens
        self._max_batch_size = max_batch_size
        self._tokens_per_block = tokens_per_block
        self._prefix_cache = prefix_cache
        self._pool = BlockPool(kv_blocks)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._in_flight: list[tuple[Sequence, int]] = []
        self._pass_tokens = (0, 0)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold the KV of this many tokens."""
        return -(-num_tokens // self._tokens_per_block)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue."""
        self._waiting.append(sequence)

    def live(self) -> list[Sequence]:
        """Waiting and running sequences, oldest first."""
        return [*self._running, *self._waiting]

    def plan(self, forward_pass_id: int) -> PassPlan:
        """Start what can start, and form this rank's part of the pass. The pass is then in flight."""
        imports: list[KvImport] = []
        steps: list[SequenceStep] = []
        budget = self._chunk_budget_tokens
        num_decode = 0
        for sequence in self._running:
            budget, step = self._step(sequence, budget)
            if step is not None:
                steps.append(step)
                num_decode += sequence.is_decoding
        while self._waiting and len(self._running) < self._max_batch_size:
            sequence = self._waiting[0]
            if (budget == 0 and sequence.num_prefill_left) or not self._start(sequence):
                break
            self._running.append(self._waiting.popleft())
            if (kv_import := self._kv_import(sequence)) is not None:
                imports.append(kv_import)
            budget, step = self._step(sequence, budget)
            if step is not None:
                steps.append(step)
                num_decode += sequence.is_decoding
        self._pass_tokens = (self._chunk_budget_tokens - budget, num_decode)
        return PassPlan(forward_pass_id=forward_pass_id, steps=tuple(steps), imports=tuple(imports))

    def _start(self, sequence: Sequence) -> bool:
        """Take blocks for a sequence, cached ones first. False when there are not enough."""
        num_blocks = self.blocks_for(sequence.num_kv_tokens())
        cached = self._find_prefix(sequence)
        blocks = self._pool.take(cached, num_blocks - len(cached))
        if blocks is None:
            return False
        sequence.block_ids = blocks
        sequence.num_registered_blocks = len(cached)
        sequence.num_cached_prompt_tokens = len(cached) * self._tokens_per_block
        sequence.num_computed = max(sequence.num_cached_prompt_tokens, sequence.num_handed_over)
        return True

    def _kv_import(self, sequence: Sequence) -> KvImport | None:
        """The KV that came with a sequence and where it goes; once."""
        data, sequence.kv_data = sequence.kv_data, None
        if data is None or sequence.block_ids is None:
            return None
        used = tuple(sequence.block_ids[: self.blocks_for(sequence.num_handed_over)])
        return KvImport(block_ids=used, num_tokens=sequence.num_handed_over, data=data)

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        """Cached blocks a sequence can reuse; its last token is always computed, for its logits."""
        if not self._prefix_cache or sequence.num_handed_over:
            return []
        return self._pool.find_prefix(
            self._hashes(sequence)[: (sequence.num_known - 1) // self._tokens_per_block]
        )

    def _hashes(self, sequence: Sequence) -> Row[int]:
        """Hashes of the full prompt blocks."""
        return sequence.request.block_hashes[: sequence.num_prompt_tokens // self._tokens_per_block]

    def _step(self, sequence: Sequence, budget: int) -> tuple[int, SequenceStep | None]:
        """The tokens a running sequence computes in this pass, and the budget left."""
        blocks = sequence.block_ids
        if blocks is None:
            raise AssertionError("a running sequence has blocks")
        start, total = sequence.num_computed, len(sequence.tokens)
        if sequence.is_decoding:
            end = total
        else:
            end = min(total, start + budget)
            if end == start:
                return budget, None
            budget -= end - start
        self._in_flight.append((sequence, end))
        step = SequenceStep(
            token_ids=tuple(sequence.tokens[start:end]),
            start=start,
            block_ids=tuple(blocks[: self.blocks_for(end)]),
            sample=sequence.sample_plan() if end == total else None,
        )
        return budget, step

    def complete(self, result: PassResult) -> list[EngineOutput]:
        """Book the result of the pass in flight: new tokens and ended sequences."""
        outputs: list[EngineOutput] = []
        in_flight, self._in_flight = self._in_flight, []
        for (sequence, end), token in zip(in_flight, result.token_ids, strict=True):
            if sequence.is_ended:
                continue
            sequence.num_computed = end
            self._register(sequence)
            if token is not None:
                sequence.tokens.append(token)
                outputs.append(sequence.newest_token())
                if (reason := sequence.finish_reason()) is not None:
                    outputs.append(self._end(sequence, reason))
        return outputs

    def _register(self, sequence: Sequence) -> None:
        """Make freshly computed full prompt blocks findable for others."""
        if not self._prefix_cache or sequence.block_ids is None or sequence.num_handed_over:
            return
        hashes = self._hashes(sequence)
        num_full = min(sequence.num_computed // self._tokens_per_block, len(hashes))
        for index in range(sequence.num_registered_blocks, num_full):
            self._pool.register(sequence.block_ids[index], hashes[index])
        sequence.num_registered_blocks = max(num_full, sequence.num_registered_blocks)

    def _end(self, sequence: Sequence, reason: FinishReason) -> Finished:
        """Take a running sequence out; a prefilled one keeps its blocks under a lease."""
        self._running.remove(sequence)
        sequence.is_ended = True
        if reason is FinishReason.PREFILLED:
            self.leases[sequence.request.request_id] = sequence
        else:
            self._pool.release(sequence.block_ids or [])
        return sequence.finished(reason)

    def abort(self, sequence: Sequence) -> Finished:
        """End a waiting or running sequence now."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
            return sequence.finished(FinishReason.ABORTED)
        return self._end(sequence, FinishReason.ABORTED)

    def release_lease(self, request_id: str) -> None:
        """Free the blocks of a lease; unknown ids are a no-op."""
        if (sequence := self.leases.pop(request_id, None)) is not None:
            self._pool.release(sequence.block_ids or [])

    def load(self, *, with_pass: bool = False, with_changes: bool = False) -> RankLoad:
        """Load now, on request with the tokens of the pass just planned and the prefix cache's changes."""
        stored, removed = self._pool.drain_changes() if with_changes else ((), ())
        prefill, decode = self._pass_tokens if with_pass else (0, 0)
        waiting = sum(
            s.num_prefill_left - len(self._find_prefix(s)) * self._tokens_per_block for s in self._waiting
        )
        return RankLoad(
            dp_rank=self.dp_rank,
            prefill_load_tokens=waiting + sum(s.num_prefill_left for s in self._running),
            num_waiting=len(self._waiting),
            batch_size=len(self._running),
            kv_blocks_used=self._pool.num_used,
            pass_prefill_tokens=prefill,
            pass_decode_tokens=decode,
            stored_blocks=stored,
            removed_blocks=removed,
        )
