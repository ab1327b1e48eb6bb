"""An engine whose outputs, reports and rows are all kept, for the doctor to ask about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from hortator.worker.engine import (
    EngineInfo,
    EngineRequest,
    Finished,
    ForwardPassEnded,
    RequestMode,
    Sampling,
)
from hortator.worker.engines.trtllm.engine import TensorRTLLMEngine
from hortator.worker.engines.trtllm.statistics import Row

POLL_S = 0.002
PROMPT_TOKENS = 40


class Bench:
    """Of one engine, started. Times are of the event loop's clock, seconds."""

    def __init__(self, engine: TensorRTLLMEngine, info: EngineInfo) -> None:
        self.engine = engine
        self.info = info
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, Finished] = {}
        self.token_at: dict[str, float] = {}
        """When the last token of a request came."""
        self.ended_passes: list[tuple[float, ForwardPassEnded]] = []
        self.rows: list[Row] = []
        self._num_requests = 0
        self._failure: BaseException | None = None
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.engine.on_rows_seen = self.rows.extend
        self._readers = [
            asyncio.create_task(self._watched(self._read_outputs)),
            asyncio.create_task(self._watched(self._read_passes)),
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    @property
    def is_prefill(self) -> bool:
        """It runs prefills alone."""
        return self.engine.config.phase == "prefill"

    def prompt(self, seed: int) -> list[int]:
        """Other tokens for every seed, so that no KV is reused; within budget and vocabulary."""
        info = self.info
        length = min(PROMPT_TOKENS, info.chunk_budget_tokens // 2, info.max_sequence_tokens // 4)
        lowest, size = 3, max(1, info.vocab_size - 3)
        return [lowest + (7919 * (seed + 1) + 31 * index) % size for index in range(max(1, length))]

    def request(
        self,
        dp_rank: int,
        *,
        prompt: Sequence[int],
        max_tokens: int,
        mode: RequestMode = RequestMode.AGGREGATED,
        prior_output_ids: Sequence[int] = (),
        sampling: Sampling | None = None,
    ) -> EngineRequest:
        """A greedy one that does not stop by itself, unless it is to be sampled otherwise."""
        self._num_requests += 1
        return EngineRequest(
            request_id=f"doctor-{self._num_requests}",
            dp_rank=dp_rank,
            mode=mode,
            prompt_token_ids=tuple(prompt),
            prior_output_ids=prior_output_ids,
            sampling=sampling or Sampling(max_tokens=max_tokens, ignore_eos=True),
        )

    async def run(self, *requests: EngineRequest, timeout_s: float) -> None:
        """All to their ends. Raises TimeoutError, or what the engine died of."""
        await self.engine.submit(requests)
        await self.until(lambda: all(r.request_id in self.ends for r in requests), timeout_s=timeout_s)

    async def until(self, condition: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait for something. Raises TimeoutError, or what the engine died of."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                if self._failure is not None:
                    raise self._failure
                await asyncio.sleep(POLL_S)

    async def _watched(self, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except Exception as error:  # noqa: BLE001  # told by whoever waits
            self._failure = error

    async def _read_outputs(self) -> None:
        async for output in self.engine.outputs():
            if isinstance(output, Finished):
                self.ends[output.request_id] = output
            else:
                self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
                self.token_at[output.request_id] = time.monotonic()

    async def _read_passes(self) -> None:
        async for report in self.engine.forward_passes():
            if isinstance(report, ForwardPassEnded):
                self.ended_passes.append((time.monotonic(), report))
