"""The clients: one per way of asking. Each sends prepared messages and notes what comes back.

Prompts are text of one byte a token, so that nobody needs a tokenizer; every answer is one token. Messages
are prepared before a run, so that the client costs the machine little while it is measured.

    HortatorClient      Generate over gRPC
    ProxyClient         POST /v1/completions with SSE, through a router that forwards it
    SelectorClient      asks a router where to go, goes there itself, tells the router about the first token
                        and the end
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import aiohttp

from hortator.cli.bench.client.load import GatewayLoad, Shape, Timeline, generate_message, read_tokens
from peers.answers import Answer, Outcome

NUM_GRPC_CONNECTIONS = 4
REJECTIONS = frozenset({429, 503})
Message: TypeAlias = Any
"""What `prepare` makes and `send` takes: of the client's own kind."""


class Client(Protocol):
    """Sends requests and fills their answers."""

    def prepare(self, index: int, prompt: bytes) -> Message:
        """Everything about a request that can be made beforehand."""
        ...

    def send(self, answer: Answer, message: Message) -> None:
        """Start one request; its answer is filled as it goes on."""
        ...

    async def finish(self, timeout_s: float) -> None:
        """Return when all have ended, or after the timeout; what has not ended then stays FAILED."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class HortatorClient:
    """See the module docstring; `open` makes one."""

    def __init__(self, load: GatewayLoad) -> None:
        self._load = load
        self._sent: list[tuple[Answer, Timeline]] = []

    @classmethod
    async def open(cls, address: str) -> HortatorClient:
        """Connect to a gateway. Raises OSError."""
        return cls(await GatewayLoad.open(address, num_connections=NUM_GRPC_CONNECTIONS))

    def prepare(self, index: int, prompt: bytes) -> Message:  # noqa: ARG002
        """A serialized request."""
        return generate_message(Shape(num_prompt_tokens=len(prompt), max_tokens=1), list(prompt))

    def send(self, answer: Answer, message: Message) -> None:
        """Start one call."""
        timeline = self._load.send(message, len(self._sent))
        self._sent.append((answer, timeline))

    async def finish(self, timeout_s: float) -> None:
        """Wait, then read what came."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._load.wait_below(1)
        except TimeoutError:
            pass
        for answer, timeline in self._sent:
            received, deltas = read_tokens(timeline)
            if deltas:
                answer.first_token(deltas[0][0])
            if received.is_complete and deltas:
                answer.end(Outcome.ANSWERED)
            elif not timeline.is_live:
                answer.end(Outcome.REJECTED, "the call ended without a completion")

    async def close(self) -> None:
        """Close the connections."""
        self._load.close()


class _HttpClient:
    """What both clients over HTTP have in common: a session and a task per request."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Content-Type": "application/json", **headers},
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout_s: float) -> None:
        """Wait; what is still there is cancelled."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._tasks and (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(tuple(self._tasks), timeout=left_s)  # they may start others
        left = tuple(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    async def _complete(
        self, answer: Answer, url: str, body: bytes, on_first_token: Callable[[], None] = lambda: None
    ) -> None:
        """POST a completion and read its events. Raises aiohttp.ClientError."""
        loop = asyncio.get_running_loop()
        async with self._session.post(url, data=body) as response:
            if response.status != 200:
                text = (await response.text())[:200]
                kind = Outcome.REJECTED if response.status in REJECTIONS else Outcome.FAILED
                answer.end(kind, f"{response.status}: {text}")
                return
            is_done = False
            async for line in response.content:
                if not line.startswith(b"data:"):
                    continue
                if line[5:].strip() == b"[DONE]":
                    is_done = True
                elif answer.first_token_at is None:
                    answer.first_token(loop.time())
                    on_first_token()
        if is_done and answer.first_token_at is not None:
            answer.end(Outcome.ANSWERED)
        else:
            answer.end(Outcome.FAILED, "the stream ended before its end")


class ProxyClient(_HttpClient):
    """See the module docstring."""

    def __init__(self, url: str, *, model: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers or {})
        self._url = f"{url}/v1/completions"
        self._model = model

    def prepare(self, index: int, prompt: bytes) -> Message:  # noqa: ARG002
        """The body."""
        return completion_body(self._model, prompt)

    def send(self, answer: Answer, message: Message) -> None:
        """Start one request."""
        self._start(self._ask(answer, message))

    async def _ask(self, answer: Answer, body: bytes) -> None:
        try:
            await self._complete(answer, self._url, body)
        except aiohttp.ClientError as error:
            answer.end(Outcome.FAILED, f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    """A request to a selector: its id, what the selector is asked, what the engine is asked."""

    selection_id: str
    question: bytes
    prompt: bytes


class SelectorClient(_HttpClient):
    """Of `dynamo.select_service`.

    Args:
        url: of the selector.
        model: as it was registered.
        engine_urls: by worker id.
        name: of the run; selection ids begin with it.
    """

    def __init__(self, url: str, *, model: str, engine_urls: Mapping[int, str], name: str) -> None:
        super().__init__({})
        self._url = url
        self._model = model
        self._engine_urls = engine_urls
        self._name = name

    def prepare(self, index: int, prompt: bytes) -> Message:
        """Both bodies; the engine's lacks its rank."""
        selection_id = f"{self._name}-{index}"
        question = {"selection_id": selection_id, "model_name": self._model, "token_ids": list(prompt)}
        return _Selection(
            selection_id=selection_id,
            question=json.dumps(question).encode(),
            prompt=completion_body(self._model, prompt),
        )

    def send(self, answer: Answer, message: Message) -> None:
        """Start one request."""
        self._start(self._ask(answer, message))

    async def _ask(self, answer: Answer, selection: _Selection) -> None:
        reservation = f"{self._url}/reservations/{selection.selection_id}"
        try:
            async with self._session.post(
                f"{self._url}/select_and_reserve", data=selection.question
            ) as response:
                if response.status != 200:
                    text = (await response.text())[:200]
                    kind = Outcome.REJECTED if response.status in REJECTIONS else Outcome.FAILED
                    answer.end(kind, f"selector {response.status}: {text}")
                    return
                chosen = await response.json()
            body = b'{"data_parallel_rank":%d,%b' % (chosen["dp_rank"], selection.prompt[1:])
            url = f"{self._engine_urls[chosen['worker_id']]}/v1/completions"
            try:
                await self._complete(
                    answer,
                    url,
                    body,
                    lambda: self._start(self._tell("POST", f"{reservation}/prefill_complete")),
                )
            finally:
                self._start(self._tell("DELETE", reservation))
        except aiohttp.ClientError as error:
            answer.end(Outcome.FAILED, f"{type(error).__name__}: {error}")

    async def _tell(self, method: str, url: str) -> None:
        """Tell the selector; what it answers changes nothing for the request. Nothing at the end of a run."""
        if self._session.closed:
            return
        try:
            async with self._session.request(method, url) as response:
                await response.read()
        except aiohttp.ClientError:
            return


def completion_body(model: str, prompt: bytes) -> bytes:
    """A streamed completion of one token."""
    return json.dumps({"model": model, "prompt": prompt.decode(), "max_tokens": 1, "stream": True}).encode()
