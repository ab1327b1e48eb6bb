"""Before an engine is announced: every DP rank must answer, and statistics show what they are.

Each rank gets one short prompt under a salt of its own; dummy requests of attention DP must never share its
prefix.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hortator.worker.engine import EngineDeadError
from hortator.worker.engines.trtllm.capabilities import Capabilities
from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.library import Library
from hortator.worker.engines.trtllm.statistics import Row

PROMPT = (11, 12, 13, 14)
NUM_TOKENS = 2
FIRST_ROW_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the warm-up showed."""

    kv_blocks_total: int
    rows_have_ranks: bool
    last_iteration: int | None


class WarmUp:
    """One warm-up of one engine."""

    def __init__(
        self,
        llm: Any,
        library: Library,
        capabilities: Capabilities,
        config: TensorRTLLMConfig,
        *,
        end_id: int,
    ) -> None:
        self._llm = llm
        self._library = library
        self._capabilities = capabilities
        self._config = config
        self._end_id = end_id
        self._rows: list[Row] = []
        self._has_row = asyncio.Event()

    def on_rows(self, rows: Sequence[Row]) -> None:
        """Rows that came meanwhile."""
        self._rows.extend(rows)
        self._has_row.set()

    async def run(self, poke: Callable[[], None]) -> Seen:
        """Raises EngineDeadError when a rank does not answer, or KV blocks are unknown."""
        results = [self._submit(rank) for rank in range(self._config.dp_size)]
        poke()
        try:
            async with asyncio.timeout(self._config.warm_up_timeout_s):
                for rank, result in enumerate(results):
                    await self._finish(rank, result)
        except TimeoutError:
            raise EngineDeadError(
                f"TensorRT-LLM did not answer on every DP rank within {self._config.warm_up_timeout_s:g} s"
            ) from None
        await self._rows_come()
        return Seen(
            kv_blocks_total=self._kv_blocks(),
            rows_have_ranks=any(row.dp_rank is not None for row in self._rows),
            last_iteration=max((row.iteration for row in self._rows), default=None),
        )

    def _submit(self, rank: int) -> Any:
        values: dict[str, Any] = {
            "inputs": list(PROMPT),
            "sampling_params": self._library.sampling_params(
                max_tokens=NUM_TOKENS, end_id=self._end_id, ignore_eos=True, detokenize=False
            ),
            "streaming": True,
        }
        if self._config.enable_attention_dp:
            values["scheduling_params"] = self._library.scheduling_params(
                attention_dp_rank=rank, attention_dp_relax=False
            )
        if self._capabilities.cache_salt:
            values["cache_salt"] = f"warm-up-{rank}"
        return self._llm.generate_async(**values)

    @staticmethod
    async def _finish(rank: int, result: Any) -> None:
        try:
            async for output in result:
                if output.finished:
                    return
        except Exception as error:
            raise EngineDeadError(
                f"DP rank {rank} failed at its first request: {type(error).__name__}: {error}"
            ) from error

    async def _rows_come(self) -> None:
        """Wait for a first row, and until no more come."""
        try:
            async with asyncio.timeout(FIRST_ROW_S):
                await self._has_row.wait()
            while True:
                self._has_row.clear()
                async with asyncio.timeout(self._config.warm_up_quiet_s):
                    await self._has_row.wait()
        except TimeoutError:
            return

    def _kv_blocks(self) -> int:
        found = self._capacity() or next(
            (row.kv_blocks_total for row in self._rows if row.kv_blocks_total is not None), None
        )
        blocks = found or self._config.kv_blocks
        if blocks is None:
            raise EngineDeadError(
                "how many KV blocks a rank has is told neither by get_kv_cache_capacity nor by statistics "
                "(set kvBlocks on the role)"
            )
        return blocks

    def _capacity(self) -> int | None:
        tell = getattr(self._llm, "get_kv_cache_capacity", None)
        try:
            value = tell()["maxNumBlocks"] if callable(tell) else None
        except Exception:  # noqa: BLE001  # statistics say it as well
            return None
        return value if isinstance(value, int) and value > 0 else None
