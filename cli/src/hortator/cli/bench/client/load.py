"""Requests at a gateway, or straight at a worker, with the time of every message.

Both paths use the same client (`http2`) in the same process. The gateway gets one call per request; the
worker gets what a gateway would send it: one long-lived stream. So the difference of the two is what
gateway and scheduler add.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from hortator.cli.bench.client.http2 import Connection, Ended, Receive, request_headers
from hortator.rpc.inference.v1 import inference_pb2
from hortator.rpc.worker.v1 import worker_pb2

_GENERATE = "/hortator.rpc.inference.v1.InferenceService/Generate"
_SUBMIT = "/hortator.rpc.worker.v1.WorkerService/Submit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What every request asks for."""

    num_prompt_tokens: int = 128
    max_tokens: int = 4
    first_token_id: int = 32
    end_token_id: int = 127

    def prompt(self, rng: random.Random) -> list[int]:
        """A prompt that no cache has seen."""
        return [rng.randrange(self.first_token_id, self.end_token_id) for _ in range(self.num_prompt_tokens)]


@dataclass(slots=True)
class Timeline:
    """One request as the client saw it; times of time.perf_counter()."""

    sent_at: float
    messages: list[tuple[float, bytes]] = field(default_factory=list)
    ended_at: float = float("nan")

    @property
    def is_live(self) -> bool:
        """It has not ended."""
        return math.isnan(self.ended_at)

    @property
    def ttft_s(self) -> float:
        """From sending to the first message; NaN when there was none."""
        return self.messages[0][0] - self.sent_at if self.messages else float("nan")


class GatewayLoad:
    """Calls of `Generate` over a few connections."""

    def __init__(self, address: str) -> None:
        self._headers = request_headers(_GENERATE, address)
        self._address = address
        self._connections: list[Connection] = []
        self._live: list[dict[int, Timeline]] = []
        self._num_live = 0
        self._freed = asyncio.Event()

    @classmethod
    async def open(cls, address: str, *, num_connections: int) -> Self:
        """Connect. Raises OSError."""
        load = cls(address)
        for _ in range(num_connections):
            live: dict[int, Timeline] = {}
            load._live.append(live)
            load._connections.append(
                await Connection.open(address, on_message=load._noting(live), on_end=load._ending(live))
            )
        return load

    @property
    def num_live(self) -> int:
        """Requests that have not ended."""
        return self._num_live

    def send(self, message: bytes, index: int) -> Timeline:
        """Start one request; `index` chooses the connection."""
        at = index % len(self._connections)
        timeline = Timeline(time.perf_counter())
        stream_id = self._connections[at].call(self._headers, message)
        self._live[at][stream_id] = timeline
        self._num_live += 1
        return timeline

    async def wait_below(self, num_live: int) -> None:
        """Until fewer than `num_live` requests are live."""
        while self._num_live >= num_live:
            self._freed.clear()
            await self._freed.wait()

    def close(self) -> None:
        """Close the connections; requests that are live are cancelled."""
        for connection in self._connections:
            connection.close()

    def _noting(self, live: dict[int, Timeline]) -> Receive:
        def note(stream_id: int, at: float, message: bytes) -> None:
            timeline = live.get(stream_id)
            if timeline is not None:
                timeline.messages.append((at, message))

        return note

    def _ending(self, live: dict[int, Timeline]) -> Ended:
        def end(stream_id: int, at: float) -> None:
            timeline = live.pop(stream_id, None)
            if timeline is not None:
                timeline.ended_at = at
                self._num_live -= 1
                self._freed.set()

        return end


class WorkerLoad:
    """Requests on one Submit stream, each a batch of its own on the next DP rank."""

    def __init__(self, address: str, *, dp_size: int) -> None:
        self._address = address
        self._dp_size = dp_size
        self._received: list[tuple[float, bytes]] = []
        self._sent: dict[str, Timeline] = {}
        self._connection: Connection | None = None
        self._stream_id = 0

    async def open(self) -> None:
        """Connect and say hello. Raises OSError."""
        self._connection = await Connection.open(
            self._address, on_message=lambda _id, at, message: self._received.append((at, message))
        )
        hello = worker_pb2.SubmitRequest(hello=worker_pb2.SubmitHello(gateway_id="bench"))
        headers = request_headers(_SUBMIT, self._address)
        self._stream_id = self._connection.call(headers, hello.SerializeToString(), ends=False)

    def message(self, request_id: str, index: int, shape: Shape, prompt: Sequence[int]) -> bytes:
        """What `send` sends."""
        request = worker_pb2.SubmittedRequest(
            request_id=request_id,
            dp_rank=index % self._dp_size,
            mode=worker_pb2.MODE_AGGREGATED,
            prompt_token_ids=prompt,
            sampling=worker_pb2.Sampling(max_tokens=shape.max_tokens, top_p=1.0, ignore_eos=True),
        )
        return worker_pb2.SubmitRequest(requests=[request]).SerializeToString()

    def send(self, request_id: str, message: bytes) -> Timeline:
        """Start one request."""
        if self._connection is None:
            raise RuntimeError("open the load first")
        timeline = self._sent[request_id] = Timeline(time.perf_counter())
        self._connection.send(self._stream_id, message)
        return timeline

    def settle(self) -> int:
        """Sort what was received into the timelines; returns how many requests have not ended."""
        for at, raw in self._received:
            response = worker_pb2.SubmitResponse.FromString(raw)
            for delta in response.deltas:
                self._sent[delta.request_id].messages.append((at, b""))
            for completion in response.completions:
                timeline = self._sent.pop(completion.request_id)
                timeline.ended_at = at
                if completion.reason != worker_pb2.COMPLETION_REASON_LENGTH:
                    raise RuntimeError(f"the worker ended a request early: {completion}")
        self._received.clear()
        return len(self._sent)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


def generate_message(shape: Shape, prompt: Sequence[int]) -> bytes:
    """What `GatewayLoad.send` sends."""
    return inference_pb2.GenerateRequest(
        tokens=inference_pb2.TokenPrompt(token_ids=prompt),
        sampling=inference_pb2.SamplingParameters(max_tokens=shape.max_tokens, ignore_eos=True),
    ).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The tokens of one request."""

    num_tokens: int
    is_in_order: bool
    """Token indices count from 0 without a gap."""
    is_complete: bool
    """The last message was the completion."""


def read_tokens(timeline: Timeline) -> tuple[Received, list[tuple[float, int]]]:
    """Parse a request's messages: what came, and (time, number of tokens) of each delta."""
    num_tokens = 0
    is_in_order = True
    is_complete = False
    deltas = []
    for at, raw in timeline.messages:
        response = inference_pb2.GenerateResponse.FromString(raw)
        is_in_order = is_in_order and not is_complete
        is_complete = response.HasField("completion")
        delta = response.completion.delta if is_complete else response.delta
        count = len(delta.token_ids)
        if count:
            is_in_order = is_in_order and delta.token_index == num_tokens
            num_tokens += count
            deltas.append((at, count))
    return Received(num_tokens=num_tokens, is_in_order=is_in_order, is_complete=is_complete), deltas


async def open_loop(
    num_requests: int, rate_per_s: float, rng: random.Random, send: Callable[[int], object]
) -> None:
    """Call `send(index)` at the times of a Poisson process, whatever has been answered so far."""
    loop = asyncio.get_running_loop()
    due_at = loop.time()
    for index in range(num_requests):
        due_at += rng.expovariate(rate_per_s)
        delay_s = due_at - loop.time()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        send(index)
