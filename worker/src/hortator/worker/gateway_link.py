"""The way back to one gateway: what happened to its requests, gathered until its stream can take more.

Everything pushed before the writer gets its turn goes out in one message: the tokens of a forward pass
become one SubmitResponse, and a slow stream coalesces by itself. A gateway that stops reading is cut off
at `max_pending` items instead of filling the memory.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hortator.worker.engine import TokenChunk
from hortator.worker.gate import RequestKey
from hortator.worker.submission import Ended


@dataclass(slots=True)
class Outbox:
    """What one message to a gateway will say: token chunks, then ends."""

    chunks: list[tuple[RequestKey, TokenChunk]] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)


class GatewayLink:
    """One Submit stream, as the host sees it."""

    def __init__(self, gateway_id: str, *, max_pending: int = 500_000) -> None:
        self.gateway_id = gateway_id
        self.num_live = 0
        """Requests of this gateway that have not ended (kept by the host)."""
        self._max_pending = max_pending
        self._outbox = Outbox()
        self._ready = asyncio.Event()
        self._is_closed = False
        self._is_finishing = False

    @property
    def is_closed(self) -> bool:
        """The stream is gone, or so far behind that it counts as gone; pushes are dropped."""
        return self._is_closed

    def push_chunk(self, key: RequestKey, chunk: TokenChunk) -> None:
        """Tokens of a request."""
        if self._is_closed:
            return
        chunks = self._outbox.chunks
        if not chunks:
            self._ready.set()
        chunks.append((key, chunk))
        if len(chunks) > self._max_pending:
            self.close()

    def push_end(self, ended: Ended) -> None:
        """The last word on a request; call after `num_live` was lowered."""
        if not self._is_closed:
            self._outbox.ends.append(ended)
            self._ready.set()

    def finish(self) -> None:
        """The gateway sends nothing more: `take` returns None once nothing is live or pending."""
        self._is_finishing = True
        self._ready.set()

    def close(self) -> None:
        """The stream is gone: `take` returns None from now on."""
        self._is_closed = True
        self._outbox = Outbox()
        self._ready.set()

    async def take(self) -> Outbox | None:
        """Everything pushed since the last call; waits for something. None: there will be nothing more."""
        while True:
            if self._is_closed:
                return None
            outbox = self._outbox
            if outbox.chunks or outbox.ends:
                self._outbox = Outbox()
                self._ready.clear()
                return outbox
            if self._is_finishing and not self.num_live:
                return None
            self._ready.clear()
            await self._ready.wait()
