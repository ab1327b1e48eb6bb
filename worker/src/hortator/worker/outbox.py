"""A stream that one side fills in bulk and the other reads item by item."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """Append to `items`, then `flush` once: the reader wakes once per flush, not once per item."""

    __slots__ = ("_error", "_is_closed", "_is_read", "_wake", "items")

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self._wake = asyncio.Event()
        self._error: Exception | None = None
        self._is_closed = False
        self._is_read = False

    def flush(self) -> None:
        """Let the reader see what was appended."""
        if self.items:
            self._wake.set()

    def close(self, error: Exception | None = None) -> None:
        """End the stream after what is in it, with an error if given. Only the first call counts."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            self._wake.set()

    def read(self) -> AsyncIterator[T]:
        """The one iterator over this stream. Raises RuntimeError when asked for a second time."""
        if self._is_read:
            raise RuntimeError("this stream can be consumed once")
        self._is_read = True
        return self._drain()

    async def _drain(self) -> AsyncIterator[T]:
        items = self.items
        while True:
            while items:
                yield items.popleft()
            if self._is_closed:
                break
            self._wake.clear()
            await self._wake.wait()
        if self._error is not None:
            raise self._error
