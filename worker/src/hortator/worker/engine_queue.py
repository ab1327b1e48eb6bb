"""Everything that changes the engine goes through one queue, carried out in order by one task.

So callers never wait (a gateway's stream is read on while the engine takes a batch), an abort can never
overtake the submit it is meant for, and batches enter the engine in the order they were admitted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hortator.worker.engine import Engine, EngineRequest, RequestRefusedError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Submit:
    batch: tuple[EngineRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Abort:
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReleaseKv:
    request_id: str


OnSubmitted = Callable[[tuple[EngineRequest, ...], Sequence[RequestRefusedError]], None]
"""Called when a batch is inside the engine, with the whole batch and the refusals of those that are not."""


class EngineQueue:
    """See the module docstring. Ids are the engine's."""

    def __init__(self, engine: Engine, on_submitted: OnSubmitted) -> None:
        self._engine = engine
        self._on_submitted = on_submitted
        self._commands: deque[_Submit | _Abort | _ReleaseKv] = deque()
        self._ready = asyncio.Event()

    def submit(self, batch: tuple[EngineRequest, ...]) -> None:
        """Admit these before the next pass; one that the engine refuses does not keep the others out."""
        self._put(_Submit(batch=batch))

    def abort(self, request_id: str) -> None:
        """End a request that was submitted through this queue."""
        self._put(_Abort(request_id=request_id))

    def release_kv(self, request_id: str) -> None:
        """Free leased KV."""
        self._put(_ReleaseKv(request_id=request_id))

    async def run(self) -> None:
        """Carry out commands until cancelled. Raises EngineDeadError."""
        while True:
            self._ready.clear()
            while self._commands:
                match self._commands.popleft():
                    case _Submit(batch=batch):
                        self._on_submitted(batch, await self._submit(batch))
                    case _Abort(request_id=request_id):
                        await self._engine.abort(request_id)
                    case _ReleaseKv(request_id=request_id):
                        await self._engine.release_kv(request_id)
            await self._ready.wait()

    async def _submit(self, batch: tuple[EngineRequest, ...]) -> list[RequestRefusedError]:
        """Submit without the members at fault; returns one refusal for each of those."""
        refusals: list[RequestRefusedError] = []
        rest = list(batch)
        while rest:
            try:
                await self._engine.submit(rest)
            except RequestRefusedError as refusal:
                fine = [request for request in rest if request.request_id != refusal.request_id]
                if len(fine) == len(rest):  # it blames nobody in the batch: nobody can be saved
                    refusals.extend(
                        RequestRefusedError(request.request_id, refusal.field, str(refusal))
                        for request in rest
                    )
                    return refusals
                refusals.append(refusal)
                rest = fine
            else:
                break
        return refusals

    def _put(self, command: _Submit | _Abort | _ReleaseKv) -> None:
        self._commands.append(command)
        self._ready.set()
