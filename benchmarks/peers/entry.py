"""How requests of other protocols enter the engine: through the worker's host, as one more gateway.

Each is admitted alone and at once (`batch_id` empty), on the rank that it names.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from hortator.worker.engine import EngineInfo, EngineRequest, RankLoad, RequestMode, Sampling, TokenChunk
from hortator.worker.gate import RequestKey
from hortator.worker.gateway_link import GatewayLink
from hortator.worker.host import WorkerHost
from hortator.worker.submission import Ended, Submission, engine_request_id

Event: TypeAlias = TokenChunk | Ended


class BadRequestError(Exception):
    """A request that cannot be read; the message names the field and what is allowed."""


class EngineEntry:
    """One door's way into the engine. `run` must run while it serves.

    Args:
        host: of the engine.
        name: of the door; request ids begin with it.
    """

    def __init__(self, host: WorkerHost, *, name: str) -> None:
        self._host = host
        self._name = name
        self._link: GatewayLink = host.connect(name)
        self._ids = itertools.count()
        self._turns = itertools.cycle(range(host.info.dp_size))
        self._answers: dict[RequestKey, asyncio.Queue[Event]] = {}

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        return self._host.info

    def loads(self) -> Sequence[RankLoad]:
        """Load of every rank now."""
        return self._host.load_snapshot().ranks

    def rank(self, named: object) -> int:
        """The DP rank that a request named; None: the next in turn, as SGLang's own controller does.

        Raises:
            BadRequestError: there is no such rank.
        """
        if named is None:
            return next(self._turns)
        try:
            rank = int(str(named))
        except ValueError:
            rank = -1
        if not 0 <= rank < self.info.dp_size:
            raise BadRequestError(
                f"data_parallel_rank: got {named!r} (allowed: 0 to {self.info.dp_size - 1})"
            )
        return rank

    @asynccontextmanager
    async def submitted(
        self, prompt: Sequence[int], *, dp_rank: int, max_tokens: int
    ) -> AsyncIterator[asyncio.Queue[Event]]:
        """What happens to a request, up to and with its end; leaving the block before aborts it."""
        key = (f"{self._name}-{next(self._ids)}", 0)
        request = EngineRequest(
            request_id=engine_request_id(key),
            dp_rank=dp_rank,
            mode=RequestMode.AGGREGATED,
            prompt_token_ids=prompt,
            sampling=Sampling(max_tokens=max_tokens, ignore_eos=True),
        )
        answer = self._answers[key] = asyncio.Queue()
        self._host.submit(
            self._link,
            Submission(key=key, epoch=0, batch_id="", batch_size=1, dispatch_seq=0, engine_request=request),
        )
        try:
            yield answer
        finally:
            del self._answers[key]
            self._host.abort(key)  # a no-op once it has ended

    async def run(self) -> None:
        """Hand out what the engine says, until cancelled."""
        try:
            while (outbox := await self._link.take()) is not None:
                for key, chunk in outbox.chunks:
                    self._tell(key, chunk)
                for ended in outbox.ends:
                    self._tell(ended.key, ended)
        finally:
            self._host.disconnect(self._link)

    def _tell(self, key: RequestKey, event: Event) -> None:
        answer = self._answers.get(key)
        if answer is not None:
            answer.put_nowait(event)
