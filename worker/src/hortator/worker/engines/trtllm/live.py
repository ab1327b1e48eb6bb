"""Requests and leases as the engine keeps them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hortator.worker.engine import EngineRequest, RequestMode
from hortator.worker.engines.trtllm.rank_books import Entry


@dataclass(slots=True, kw_only=True, eq=False)
class Live:
    """A request in the engine."""

    request: EngineRequest
    entry: Entry
    result: Any
    num_first: int
    num_seen: int = 0
    """Tokens of the library's output that were looked at."""
    num_output: int = 0
    """Output tokens in total, prior ones included."""
    is_aborting: bool = False
    submitted_at: float = 0.0
    task: asyncio.Task[None] | None = None
    transfer_timer: asyncio.TimerHandle | None = None

    @property
    def is_in_transfer(self) -> bool:
        """Its KV is on the way from another group, or waits to be."""
        return self.entry.mode is RequestMode.DECODE_ONLY and self.num_seen == 0


@dataclass(slots=True, kw_only=True)
class Lease:
    """KV of a prefilled request."""

    entry: Entry
    result: Any
    payload: bytes
    is_exported: bool = False
