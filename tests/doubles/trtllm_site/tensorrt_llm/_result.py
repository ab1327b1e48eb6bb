"""What `generate_async` returns: an async iterator that yields itself, grown (facts s2)."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class CompletionOutput:
    """`token_ids` is cumulative; `token_ids_diff` is what the last response brought."""

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None
    disaggregated_params: Any = None
    request_perf_metrics: Any = None
    _last_len: int = 0

    @property
    def token_ids_diff(self):
        return self.token_ids[self._last_len :]


@dataclass
class Response:
    """What the executor sends for one request after one iteration."""

    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None
    disaggregated_params: Any = None
    num_reused_blocks: int | None = None


class GenerationResult:
    """One request. Must be made where an event loop runs."""

    def __init__(self, request_id, prompt_token_ids, abort):
        self.request_id = request_id
        self.prompt_token_ids = prompt_token_ids
        self.outputs = [CompletionOutput()]
        self.finished = False
        self._abort = abort
        self._aborted = False
        self._responses = deque()
        self._wake = None
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def abort(self):
        """Queued; a later iteration applies it, and the last output says 'cancelled' (facts s2.3)."""
        self._aborted = True
        self._abort(self.request_id)

    def aborted(self):
        return self._aborted

    def _put(self, response):
        self._responses.append(response)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.finished:
            raise StopAsyncIteration
        if self._loop is None:
            raise AssertionError("The asyncio event loop was not present during initialization")
        while not self._responses:
            self._wake = self._loop.create_future()
            await self._wake
        response = self._responses.popleft()
        if isinstance(response, Exception):
            self.finished = True
            raise response
        output = self.outputs[0]
        output._last_len = len(output.token_ids)
        output.token_ids = output.token_ids + response.tokens
        output.stop_reason = response.stop_reason
        if response.disaggregated_params is not None:
            output.disaggregated_params = response.disaggregated_params
        if response.num_reused_blocks is not None:
            output.request_perf_metrics = SimpleNamespace(
                kv_cache_metrics=SimpleNamespace(num_reused_blocks=response.num_reused_blocks)
            )
        if response.finish_reason is not None:
            output.finish_reason = response.finish_reason
            self.finished = True
        return self
