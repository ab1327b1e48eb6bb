"""A one-consumer stream: what was put comes out in order, then it ends or raises."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """Unbounded, because the producer must never wait for a consumer."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._changed = asyncio.Event()
        self._is_closed = False
        self._error: Exception | None = None

    def put(self, item: T) -> None:
        """Add an item. After `close` it is dropped."""
        if not self._is_closed:
            self._items.append(item)
            self._changed.set()

    def close(self, error: Exception | None = None) -> None:
        """End the stream behind what is in it, with this error if given. The first call counts."""
        if not self._is_closed:
            self._is_closed, self._error = True, error
            self._changed.set()

    async def stream(self) -> AsyncIterator[T]:
        """All items in order. Raises the error given to `close`."""
        while True:
            while self._items:
                yield self._items.popleft()
            if self._is_closed:
                if self._error is not None:
                    raise self._error
                return
            self._changed.clear()
            await self._changed.wait()
