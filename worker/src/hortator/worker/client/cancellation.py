"""Telling our own cancellation from a peer's.

When a call ends with status CANCELLED (a server that stops resets its streams so), grpc.aio raises
`asyncio.CancelledError` in a task that nobody cancelled: it would end without a trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class PeerCancelledError(Exception):
    """The other side reset the call."""


@contextmanager
def peer_cancellation_as_error() -> Iterator[None]:
    """Around calls: raise PeerCancelledError for a CancelledError that is not ours."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise PeerCancelledError("the other side reset the call") from error
