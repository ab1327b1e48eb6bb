"""One Submit stream per worker and boot, shared by all requests there.

Theory of operation:

- A stream is opened by the first submission for its target (address and boot id) and lives until it breaks.
  `Info` comes first: a worker that started again under the same address is another boot, and the placement
  was not for it.
- Submissions and aborts are put into one list; one writer sends them in order.
- Everything a worker says is handed on in the loop turn in which it came, without tasks or queues between.
- A stream that ends tells what became of its requests: those that were never sent are *refused*; for the
  rest the worker is *lost*. It crashed, unless it ended the stream in words that only a living one finds, or
  the same boot answers over a new connection: then only the link broke.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import grpc
import grpc.aio
import structlog

from hortator.gateway import codec
from hortator.gateway.placement import KvSource, Submission, WorkerCompletion, WorkerTarget
from hortator.rpc.worker.v1 import worker_pb2, worker_pb2_grpc
from hortator.runtime.transport import Plaintext, Transport

CONNECT_TIMEOUT_S = 3.0
MAX_ITEMS_PER_MESSAGE = 64
"""Keeps a message of long prompts under the size limit of the channel."""
RELEASE_TIMEOUT_S = 5.0
SURVIVAL_TIMEOUT_S = 0.5
"""What a worker whose stream broke has to answer; its requests wait so long."""

_ALIVE = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ABORTED,
    }
)
"""Statuses that a worker gives on purpose."""

_Call = grpc.aio.StreamStreamCall[worker_pb2.SubmitRequest, worker_pb2.SubmitResponse]


class WorkerEvents(Protocol):
    """Who wants to know what workers say. Called in the event loop; must not block."""

    def tokens_arrived(
        self, request_id: str, attempt: int, token_index: int, token_ids: Sequence[int], now: float
    ) -> None:
        """Output tokens of one request. `token_ids` is only valid during the call."""
        ...

    def worker_completed(self, completion: WorkerCompletion) -> None:
        """A worker's last word on an attempt."""
        ...

    def submission_refused(self, request_id: str, attempt: int, reason: str) -> None:
        """The attempt never reached its worker."""
        ...

    def worker_lost(self, target: WorkerTarget, reason: str, *, crashed: bool) -> None:
        """The stream ended; whatever was sent on it will not be answered."""
        ...


class _StreamEndedError(Exception):
    """The worker closed the stream in good order."""


class _WrongBootError(Exception):
    """Another boot of the worker answers at this address."""


class WorkerClient:
    """All Submit streams of one gateway. Use as an async context manager: leaving it ends them."""

    def __init__(self, *, gateway_id: str, events: WorkerEvents, transport: Transport | None = None) -> None:
        self._transport = transport or Plaintext()
        self._gateway_id = gateway_id
        self._events = events
        self._streams: dict[WorkerTarget, _SubmitStream] = {}
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("hortator.gateway.client.worker")

    @property
    def num_streams(self) -> int:
        """Streams that are open or opening."""
        return len(self._streams)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def submit(self, submission: Submission) -> None:
        """Send an attempt to the worker that its placement names."""
        target = submission.placement.target
        stream = self._streams.get(target)
        if stream is None:
            stream = _SubmitStream(target, self._gateway_id, self._events, self._transport)
            self._streams[target] = stream
            self._start(self._run(stream))
        stream.put(codec.submit_request(submission))

    def abort(self, target: WorkerTarget, request_id: str, attempt: int) -> None:
        """End an attempt. Without a stream to that worker there is nothing to end."""
        stream = self._streams.get(target)
        if stream is not None:
            stream.put(codec.abort_request(request_id, attempt))

    def release_kv(self, source: KvSource) -> None:
        """Free a lease that nobody will pull; if that fails, it expires by itself."""
        self._start(self._release(source))

    def _start(self, coroutine: asyncio._CoroutineLike[None]) -> None:
        task = self._group.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, stream: _SubmitStream) -> None:
        target = stream.target
        try:
            reason, crashed = await stream.run()
        except Exception:  # noqa: BLE001  # one bad message must not end all streams
            self._log.exception("worker stream failed", address=target.address)
            reason, crashed = "internal error of the gateway", False
        if crashed and stream.was_open and await stream.has_survived():
            crashed, reason = False, f"the link broke ({reason})"
        del self._streams[target]  # what was submitted meanwhile is refused, and not on a stream of its own
        self._log.info(
            "worker stream ended",
            address=target.address,
            boot_id=target.boot_id,
            reason=reason,
            crashed=crashed,
        )
        for request_id, attempt in stream.unsent():
            self._events.submission_refused(request_id, attempt, reason)
        if stream.was_open:
            self._events.worker_lost(target, reason, crashed=crashed)

    async def _release(self, source: KvSource) -> None:
        request = worker_pb2.ReleaseKvRequest(lease_id=source.lease_id, boot_id=source.boot_id)
        try:
            async with self._transport.open_channel(source.worker_address, "worker") as channel:
                await worker_pb2_grpc.WorkerServiceStub(channel).ReleaseKv(request, timeout=RELEASE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self._log.debug("lease not released", address=source.worker_address, error=error.details())


class _SubmitStream:
    """The stream to one boot of one worker."""

    def __init__(
        self, target: WorkerTarget, gateway_id: str, events: WorkerEvents, transport: Transport
    ) -> None:
        self.target = target
        self.was_open = False
        self._transport = transport
        self._gateway_id = gateway_id
        self._events = events
        self._pending: list[worker_pb2.SubmittedRequest | worker_pb2.Abort] = []
        self._wake = asyncio.Event()

    def put(self, item: worker_pb2.SubmittedRequest | worker_pb2.Abort) -> None:
        """Send a request or an abort, in one message with whatever else is there by then."""
        self._pending.append(item)
        self._wake.set()

    def unsent(self) -> list[tuple[str, int]]:
        """Attempts that were not sent and not aborted since."""
        unsent: dict[str, int] = {}
        for item in self._pending:
            if isinstance(item, worker_pb2.SubmittedRequest):
                unsent[item.request_id] = item.attempt
            elif unsent.get(item.request_id) == item.attempt:
                del unsent[item.request_id]
        return list(unsent.items())

    async def run(self) -> tuple[str, bool]:
        """Connect, serve until the stream ends; returns why and whether the worker crashed."""
        crashed, reason = True, ""
        try:
            async with self._transport.open_channel(self.target.address, "worker") as channel:
                stub = worker_pb2_grpc.WorkerServiceStub(channel)
                await self._check_boot(stub)
                call = stub.Submit()
                hello = worker_pb2.SubmitHello(gateway_id=self._gateway_id)
                await call.write(worker_pb2.SubmitRequest(hello=hello))
                self.was_open = True
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write(call))
                    group.create_task(self._read(call))
        except* grpc.aio.AioRpcError as errors:
            error = _first(errors)
            assert isinstance(error, grpc.aio.AioRpcError)  # noqa: S101  # what except* caught
            crashed, reason = error.code() not in _ALIVE, f"{error.code().name}: {error.details()}"
        except* (_StreamEndedError, _WrongBootError) as errors:
            crashed, reason = False, str(_first(errors))
        except* (
            asyncio.InvalidStateError
        ) as errors:  # written to after its end; the reader had no time to see why
            reason = reason or str(_first(errors))
        return reason, crashed

    async def has_survived(self) -> bool:
        """Whether the same boot of the worker answers over another connection."""
        if not self.target.boot_id:
            return False
        # A channel that shares nothing with the one that broke: it connects at once or fails at once.
        options = (("grpc.use_local_subchannel_pool", 1),)
        try:
            async with self._transport.open_channel(
                self.target.address, "worker", options=options
            ) as channel:
                stub = worker_pb2_grpc.WorkerServiceStub(channel)
                info = await stub.Info(worker_pb2.InfoRequest(), timeout=SURVIVAL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return info.boot_id == self.target.boot_id

    async def _check_boot(self, stub: worker_pb2_grpc.WorkerServiceStub) -> None:
        if self.target.boot_id:
            info = await stub.Info(worker_pb2.InfoRequest(), timeout=CONNECT_TIMEOUT_S)
            if info.boot_id != self.target.boot_id:
                raise _WrongBootError(f"boot {self.target.boot_id} is gone, {info.boot_id} answers")

    async def _write(self, call: _Call) -> None:
        while True:
            while not self._pending:
                self._wake.clear()
                await self._wake.wait()
            items = self._pending[:MAX_ITEMS_PER_MESSAGE]
            await call.write(codec.submit_message(items))
            del self._pending[: len(items)]

    async def _read(self, call: _Call) -> None:
        clock = asyncio.get_running_loop().time
        tokens_arrived = self._events.tokens_arrived
        async for response in call:
            now = clock()
            for delta in response.deltas:
                tokens_arrived(delta.request_id, delta.attempt, delta.token_index, delta.token_ids, now)
            for completion in response.completions:
                self._events.worker_completed(codec.worker_completion(completion))
        raise _StreamEndedError("the worker closed the stream")


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
