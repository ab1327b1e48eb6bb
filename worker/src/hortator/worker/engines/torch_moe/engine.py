"""The engine: one place that decides what runs, over a group of rank processes that compute.

The loop forms a pass from all ranks' queues, reports its start, sends every rank its part (empty ones too),
waits for all of them, books the tokens and reports the end. `submit` and `abort` are plain changes of those
queues between two awaits, so a batch is in as a whole or not at all; with nothing to run the loop waits
and costs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from collections.abc import Sequence as Row

from hortator.runtime.tokenizer_files import tokenizer_files_in
from hortator.worker.engine import (
    EngineDeadError,
    EngineInfo,
    EngineOutput,
    EngineRequest,
    FinishReason,
    ForwardPassEnded,
    ForwardPassReport,
    ForwardPassStarted,
    RankLoad,
    RequestRefusedError,
)
from hortator.worker.engines.torch_moe import kv_payload
from hortator.worker.engines.torch_moe.admission import admit
from hortator.worker.engines.torch_moe.batching import RankBatcher
from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.engines.torch_moe.group import RankGroup
from hortator.worker.engines.torch_moe.outbox import Outbox
from hortator.worker.engines.torch_moe.plan import PassPlan, ReadKv
from hortator.worker.engines.torch_moe.sequence import Sequence
from hortator.worker.engines.torch_moe.shape import ModelShape

_EXPORT_CHUNK_BYTES = 1 << 20


class TorchMoEEngine:
    """Implements the Engine port. Consume both `outputs` and `forward_passes`: neither is bounded.

    Raises ValueError when the weight file is missing or its model cannot run with these settings.
    """

    def __init__(self, config: TorchMoEConfig) -> None:
        self.config = config
        self._shape = ModelShape.from_file(config.weights_path)
        config.check_fits(self._shape)
        self._group = RankGroup(config)
        self._batchers = [
            RankBatcher(
                dp_rank=dp_rank,
                chunk_budget_tokens=config.chunk_budget_tokens,
                max_batch_size=config.max_batch_size,
                kv_blocks=config.kv_blocks,
                tokens_per_block=config.tokens_per_block,
                prefix_cache=config.prefix_cache,
            )
            for dp_rank in range(config.dp_size)
        ]
        self._live: dict[str, Sequence] = {}
        self._outputs: Outbox[EngineOutput] = Outbox()
        self._passes: Outbox[ForwardPassReport] = Outbox()
        self._has_work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: EngineDeadError | None = None
        self._weights_digest = ""

    @property
    def rank_pids(self) -> tuple[int, ...]:
        """Process ids of the ranks, by DP rank."""
        return self._group.pids

    async def start(self) -> EngineInfo:
        """Bring up all ranks. Raises EngineDeadError when one does not come up, or torch is not installed."""
        config, shape = self.config, self._shape
        try:
            self._weights_digest = hashlib.sha256(config.weights_path.read_bytes()).hexdigest()
        except OSError as error:
            raise EngineDeadError(f"cannot read the weight file: {error}") from error
        await self._group.start()
        self._task = asyncio.create_task(self._run())
        return EngineInfo(
            model_name=config.model_name or shape.name,
            dp_size=config.dp_size,
            ep_size=config.dp_size,
            chunk_budget_tokens=config.chunk_budget_tokens,
            chunked_prefill=True,
            max_batch_size=config.max_batch_size,
            kv_blocks_total=config.kv_blocks,
            tokens_per_block=config.tokens_per_block,
            max_sequence_tokens=shape.max_sequence_tokens,
            vocab_size=shape.vocab_size,
            prefix_cache=config.prefix_cache,
            tokenizer_files=tokenizer_files_in(config.weights_path.parent),
        )

    async def submit(self, batch: Row[EngineRequest]) -> None:
        """Admit all or none; nothing is awaited in between."""
        self._raise_if_dead()
        admitted: list[Sequence] = []
        seen: set[str] = set()
        for request in batch:
            if request.request_id in self._live or request.request_id in seen:
                raise RequestRefusedError(request.request_id, "request_id", "this request is already running")
            seen.add(request.request_id)
            admitted.append(
                admit(request, config=self.config, shape=self._shape, weights_digest=self._weights_digest)
            )
        for sequence in admitted:
            request = sequence.request
            batcher = self._batchers[request.dp_rank]
            self._release_lease(request.request_id)  # a new attempt replaces what an old one left
            if (reason := sequence.finish_reason()) is not None:
                self._outputs.put(sequence.finished(reason))  # earlier attempts had delivered everything
                continue
            self._live[request.request_id] = sequence
            batcher.add(sequence)
        self._has_work.set()

    async def abort(self, request_id: str) -> None:
        """End a request now; what the pass in flight computes for it is dropped."""
        if (sequence := self._live.pop(request_id, None)) is not None:
            self._outputs.put(self._batchers[sequence.request.dp_rank].abort(sequence))
            self._has_work.set()  # others may wait for its blocks

    def outputs(self) -> AsyncIterator[EngineOutput]:
        """Tokens and ends of all requests."""
        return self._outputs.stream()

    def forward_passes(self) -> AsyncIterator[ForwardPassReport]:
        """Start and end of each pass with the load of every rank."""
        return self._passes.stream()

    def rank_loads(self) -> tuple[RankLoad, ...]:
        """Load of every rank now."""
        return tuple(batcher.load() for batcher in self._batchers)

    async def export_kv(self, request_id: str) -> AsyncIterator[bytes]:
        """The KV of a prefilled request in chunks of at most 1 MiB. Raises KeyError without a lease."""
        for batcher in self._batchers:
            if (sequence := batcher.leases.get(request_id)) is not None:
                break
        else:
            raise KeyError(request_id)
        tokens = sequence.tokens[: sequence.num_computed]
        read = ReadKv(block_ids=tuple(sequence.block_ids or ()), num_tokens=len(tokens))
        data = await self._group.read_kv(batcher.dp_rank, read)
        payload = kv_payload.pack(weights_digest=self._weights_digest, token_ids=tokens, data=data)
        for start in range(0, len(payload), _EXPORT_CHUNK_BYTES):
            yield payload[start : start + _EXPORT_CHUNK_BYTES]

    async def release_kv(self, request_id: str) -> None:
        """Free a lease; unknown ids are a no-op."""
        self._release_lease(request_id)
        self._has_work.set()

    async def aclose(self) -> None:
        """End what runs as aborted, stop all ranks, end both streams."""
        self._error = self._error or EngineDeadError("the engine is closed")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end_all(FinishReason.ABORTED, "the engine was closed")
        self._outputs.close()
        self._passes.close()
        await self._group.aclose()

    def _release_lease(self, request_id: str) -> None:
        for batcher in self._batchers:
            batcher.release_lease(request_id)

    def _raise_if_dead(self) -> None:
        if self._error is not None:
            raise self._error

    def _end_all(self, reason: FinishReason, message: str) -> None:
        for sequence in self._live.values():
            self._outputs.put(sequence.finished(reason, message))
        self._live.clear()

    async def _run(self) -> None:
        """Run passes until the group fails; then fail everything."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self._run_passes())
        except* EngineDeadError as errors:
            self._die(next(error for error in errors.exceptions if isinstance(error, EngineDeadError)))
        except* Exception as errors:
            self._die(EngineDeadError(f"the engine's loop failed: {errors.exceptions[0]!r}"))
            raise
        finally:
            if self._error is not None:
                await self._group.aclose()

    def _die(self, error: EngineDeadError) -> None:
        self._error = error
        self._end_all(FinishReason.FAILED, str(error))
        self._outputs.close(error)
        self._passes.close(error)

    async def _watch(self) -> None:
        raise await self._group.failed()

    async def _run_passes(self) -> None:
        forward_pass_id = 1
        while True:
            plans = [batcher.plan(forward_pass_id) for batcher in self._batchers]
            if not any(plan.steps or plan.imports for plan in plans):
                self._has_work.clear()
                await self._has_work.wait()
                continue
            await self._run_pass(forward_pass_id, plans)
            forward_pass_id += 1
            await asyncio.sleep(0)  # let those who act on the report submit before the next pass is formed

    async def _run_pass(self, forward_pass_id: int, plans: list[PassPlan]) -> None:
        started = ForwardPassStarted(
            forward_pass_id=forward_pass_id,
            ranks=tuple(batcher.load(with_pass=True) for batcher in self._batchers),
        )
        self._passes.put(started)
        began_at = time.monotonic()
        results = await self._group.run_pass(plans)
        duration_s = time.monotonic() - began_at
        for batcher, result in zip(self._batchers, results, strict=True):
            for output in batcher.complete(result):
                self._outputs.put(output)
        for request_id in [key for key, sequence in self._live.items() if sequence.is_ended]:
            del self._live[request_id]
        ended = ForwardPassEnded(
            forward_pass_id=forward_pass_id,
            duration_s=duration_s,
            ranks=tuple(batcher.load(with_pass=True, with_changes=True) for batcher in self._batchers),
        )
        self._passes.put(ended)
