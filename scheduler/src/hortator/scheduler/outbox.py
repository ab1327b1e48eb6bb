"""What waits to be written to one stream: many commands of one loop turn become one write.

Theory of operation: `put` never waits and never makes a task; the stream's single writer sleeps in `take`
and gets everything that has come in since. While a write is held up by flow control, more gathers, so a
busy stream coalesces by itself and an idle one writes at once.

A peer that does not read must not eat our memory: beyond `limit` items the outbox closes itself.

What was written to a stream that then broke may never have arrived. With `keep_taken`, the newest items taken
are kept and given again to the stream that takes over; the peer must not mind hearing something twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from hortator.scheduler.errors import CloseReason, OutboxClosedError

T = TypeVar("T")


class Outbox(Generic[T]):
    """A queue with one reader that takes all there is."""

    def __init__(
        self, *, limit: int = 100_000, keep_taken: int = 0, passing: tuple[type[T], ...] = ()
    ) -> None:
        """Nothing is in it.

        Args:
            limit: items beyond which it closes itself.
            keep_taken: items taken that are kept for the stream that takes over.
            passing: kinds of which the next one says more: they are not kept.
        """
        self._items: list[T] = []
        self._taken: deque[T] = deque(maxlen=keep_taken)
        self._passing = passing
        self._limit = limit
        self._wake = asyncio.Event()
        self._close_reason: CloseReason | None = None

    @property
    def is_closed(self) -> bool:
        """True once `close` was called or the limit was passed."""
        return self._close_reason is not None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item; silently dropped when closed."""
        if self._close_reason is not None:
            return
        if len(self._items) >= self._limit:
            self._items.clear()
            self.close(CloseReason.OVERFLOW)
            return
        self._items.append(item)
        self._wake.set()

    def close(self, reason: CloseReason) -> None:
        """Let the reader have what is in, then OutboxClosedError. The first reason stays."""
        if self._close_reason is None:
            self._close_reason = reason
            self._wake.set()

    def take_over(self, older: Outbox[T]) -> None:
        """Continue for an older stream of the same peer: its kept and unwritten items first; it is closed."""
        missed = [*older._taken, *older._items]
        older._taken.clear()
        older._items.clear()
        older.close(CloseReason.REPLACED)
        for item in missed:
            self.put(item)

    def forget(self, *, but: tuple[type[T], ...] = ()) -> None:
        """Drop what waits, but items of some kinds, and all that is kept for the stream that takes over."""
        self._items = [item for item in self._items if isinstance(item, but)]
        self._taken.clear()

    async def take(self) -> list[T]:
        """Everything put since the last call, in order; waits until there is something.

        Raises:
            OutboxClosedError: closed, and all was taken.
        """
        while not self._items:
            if self._close_reason is not None:
                raise OutboxClosedError(self._close_reason)
            await self._wake.wait()
            self._wake.clear()
        taken, self._items = self._items, []
        passing = self._passing
        self._taken.extend([item for item in taken if not isinstance(item, passing)] if passing else taken)
        return taken
