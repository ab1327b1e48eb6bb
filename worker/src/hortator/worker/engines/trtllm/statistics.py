"""Rows of statistics, read in a thread of their own and handed to the event loop.

Reads are destructive, so there is one reader; they block, so they are kept off the event loop. On the older
path a read that times out silences the rows until another prompt is submitted: there rows are taken one by
one with a timeout longer than any pass. On the RPC path short reads are right.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

SYNC_TIMEOUT_S = 0.02
ASYNC_TIMEOUT_S = 2.0
BACKOFF_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the adapter takes of a row."""

    iteration: int
    dp_rank: int | None
    """None: the row tells of rank 0 and says so to nobody."""
    prefill_tokens: int
    kv_blocks_total: int | None
    """Of rank 0, whatever the row's rank, unless all ranks report in full."""


def row_of(values: Mapping[str, Any]) -> Row | None:
    """None: it is no row of an iteration."""
    iteration = values.get("iter")
    if not isinstance(iteration, int):
        return None
    rank = values.get("attentionDpRank", values.get("rank"))
    batching = values.get("inflightBatchingStats") or {}
    kv = values.get("kvCacheStats") or {}
    total = kv.get("maxNumBlocks")
    return Row(
        iteration=iteration,
        dp_rank=rank if isinstance(rank, int) else None,
        prefill_tokens=int(batching.get("numCtxTokens") or 0),
        kv_blocks_total=total if isinstance(total, int) and total > 0 else None,
    )


class StatisticsReader:
    """`on_rows` is called on the event loop that `start` is called on."""

    def __init__(
        self, llm: Any, how: Literal["sync", "async"], on_rows: Callable[[Sequence[Row]], None]
    ) -> None:
        self._llm = llm
        self._how = how
        self._on_rows = on_rows
        self._is_stopped = False
        self._poke = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._private: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._log = structlog.get_logger("hortator.worker.engines.trtllm.statistics")

    def start(self) -> None:
        """Read until `stop`."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="trtllm-statistics", daemon=True).start()

    def poke(self) -> None:
        """A prompt was submitted: silent rows speak again."""
        self._poke.set()

    def stop(self) -> None:
        """The thread ends by itself, soon."""
        self._is_stopped = True
        self._poke.set()
        if self._private is not None:
            loop, task = self._private
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                return  # it has ended

    def _run(self) -> None:
        read = self._read_sync if self._how == "sync" else self._read_one_by_one
        is_known_to_fail = False
        while not self._is_stopped:
            self._poke.clear()
            try:
                read()
            except Exception as error:  # noqa: BLE001  # a private corner of the library may fail in any way
                if not is_known_to_fail and not self._is_stopped:
                    self._log.warning("statistics cannot be read", error=repr(error))
                is_known_to_fail = True
                time.sleep(BACKOFF_S)
            self._poke.wait(BACKOFF_S)

    def _read_sync(self) -> None:
        while not self._is_stopped:
            rows = self._llm.get_stats(timeout=SYNC_TIMEOUT_S)
            if not rows:
                return
            self._deliver(rows)

    def _read_one_by_one(self) -> None:
        async def read() -> None:
            async for values in self._llm.get_stats_async(timeout=ASYNC_TIMEOUT_S):
                self._deliver([values])
                if self._is_stopped:
                    return

        async def watched() -> None:
            task = asyncio.ensure_future(read())
            self._private = (asyncio.get_running_loop(), task)
            try:
                await task
            except asyncio.CancelledError:
                return
            finally:
                self._private = None

        asyncio.run(watched())

    def _deliver(self, values: Sequence[Any]) -> None:
        rows = [row for row in map(row_of, values) if row is not None]
        if rows and self._loop is not None and not self._is_stopped:
            try:
                self._loop.call_soon_threadsafe(self._on_rows, rows)
            except RuntimeError:  # the loop is closed
                self._is_stopped = True
