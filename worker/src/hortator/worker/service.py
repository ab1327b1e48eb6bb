"""WorkerService: the gRPC face of the host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from hortator.rpc.worker.v1 import worker_pb2, worker_pb2_grpc
from hortator.runtime.tokenizer_files import digest_of, read_tokenizer_files
from hortator.worker.codec import decode_submission, encode_info, encode_outbox
from hortator.worker.errors import UnknownLeaseError
from hortator.worker.gateway_link import GatewayLink
from hortator.worker.host import WorkerHost

SERVICE_NAME = "hortator.rpc.worker.v1.WorkerService"

CALLERS = {
    f"/{SERVICE_NAME}/Info": frozenset({"gateway", "administrator"}),
    f"/{SERVICE_NAME}/Submit": frozenset({"gateway"}),
    f"/{SERVICE_NAME}/PullKv": frozenset({"worker"}),
    f"/{SERVICE_NAME}/ReleaseKv": frozenset({"gateway", "worker"}),
    f"/{SERVICE_NAME}/PullTokenizer": frozenset({"gateway"}),
}
"""Which components may call what, where they have certificates."""

_PIECE_BYTES = 2**20

_Context = grpc.aio.ServicerContext[Any, Any]


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """Translates between streams and `WorkerHost`; holds no state.

    A worker's address is part of its identity and known only once the server is bound, so the host comes
    after the service: calls that come before `host` is set are UNAVAILABLE.
    """

    def __init__(self, host: WorkerHost | None = None) -> None:
        self.host = host

    def register(self, server: grpc.aio.Server) -> None:
        """Serve this on a server."""
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, server)

    async def Info(self, request: worker_pb2.InfoRequest, context: _Context) -> worker_pb2.InfoResponse:  # noqa: ARG002, N802
        """What this worker is."""
        host = await self._served_by(context)
        return encode_info(host.identity, host.info)

    async def Submit(  # type: ignore[override]  # noqa: N802  # writes instead of yielding: no generator to close
        self, request_iterator: AsyncIterator[worker_pb2.SubmitRequest], context: _Context
    ) -> None:
        """One gateway's stream. When it breaks, its requests are aborted, or kept if they have a key."""
        host = await self._served_by(context)
        first = await anext(aiter(request_iterator), None)
        if first is None:
            return
        if not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a hello")
        link = host.connect(first.hello.gateway_id)
        try:
            if await _serve(request_iterator, first, host, link, context) and link.is_closed:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "the gateway does not read its tokens"
                )
        finally:
            host.disconnect(link)

    async def PullKv(  # noqa: N802
        self, request: worker_pb2.PullKvRequest, context: _Context
    ) -> AsyncIterator[worker_pb2.PullKvResponse]:
        """The KV of a lease. NOT_FOUND when there is none."""
        host = await self._served_by(context, boot_id=request.boot_id)
        try:
            async for chunk in host.kv.export(request.lease_id):
                yield worker_pb2.PullKvResponse(chunk=chunk)
        except UnknownLeaseError:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no KV lease {request.lease_id}")

    async def ReleaseKv(  # noqa: N802
        self, request: worker_pb2.ReleaseKvRequest, context: _Context
    ) -> worker_pb2.ReleaseKvResponse:
        """Free the KV of a lease; one that has ended already is a no-op."""
        host = await self._served_by(context, boot_id=request.boot_id)
        host.kv.release(request.lease_id)
        return worker_pb2.ReleaseKvResponse()

    async def PullTokenizer(  # noqa: N802
        self, request: worker_pb2.PullTokenizerRequest, context: _Context
    ) -> AsyncIterator[worker_pb2.PullTokenizerResponse]:
        """The tokenizer of the model; nothing if the caller has it. NOT_FOUND when it has none."""
        host = await self._served_by(context)
        try:
            files, digest = await asyncio.to_thread(_tokenizer, host.info.tokenizer_files)
        except OSError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the tokenizer cannot be read: {error.strerror}")
        if not files:
            await context.abort(grpc.StatusCode.NOT_FOUND, "the model has no tokenizer.json")
        if digest == request.known_digest:
            return
        for name, content in files.items():
            for start in range(0, len(content), _PIECE_BYTES):
                piece = content[start : start + _PIECE_BYTES]
                yield worker_pb2.PullTokenizerResponse(file=name, chunk=piece)

    async def _served_by(self, context: _Context, *, boot_id: str | None = None) -> WorkerHost:
        if self.host is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        if boot_id is not None and boot_id != self.host.identity.boot_id:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"boot {boot_id} of this worker is gone")
        return self.host


def _tokenizer(paths: Sequence[Path]) -> tuple[dict[str, bytes], bytes]:
    """Files and their digest: megabytes, so not on the loop of the token path."""
    files = read_tokenizer_files(paths)
    return files, digest_of(files)


async def _serve(
    requests: AsyncIterator[worker_pb2.SubmitRequest],
    first: worker_pb2.SubmitRequest,
    host: WorkerHost,
    link: GatewayLink,
    context: _Context,
) -> bool:
    """Read and write until the stream is over; False: the gateway vanished in the middle of a write."""
    is_there = True
    try:
        async with asyncio.TaskGroup() as tasks:
            _take(first, host, link)
            reader = tasks.create_task(_read(requests, host, link))
            while (outbox := await link.take()) is not None:
                await context.write(encode_outbox(outbox))
            reader.cancel()
    except* (grpc.aio.BaseError, asyncio.InvalidStateError):
        is_there = False
    return is_there


async def _read(
    requests: AsyncIterator[worker_pb2.SubmitRequest], host: WorkerHost, link: GatewayLink
) -> None:
    async for message in requests:
        _take(message, host, link)
    link.finish()


def _take(message: worker_pb2.SubmitRequest, host: WorkerHost, link: GatewayLink) -> None:
    for request in message.requests:
        host.submit(link, decode_submission(request))
    for abort in message.aborts:
        host.abort_from(link, (abort.request_id, abort.attempt))
