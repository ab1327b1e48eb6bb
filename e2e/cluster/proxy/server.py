"""The proxy: TLS on both sides, one upstream connection per client connection, a thread with a loop of its own.

Writes and a few answers are adapted (cluster.adaptation), CRDs go to the CRD server, faults are put in
(cluster.proxy.faults), everything else passes as it is, exec and port-forward included.
"""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import adaptation
from cluster.processes import LabError
from cluster.proxy.faults import Fault, Faults
from cluster.proxy.messages import (
    MAX_HEAD,
    Head,
    ProtocolError,
    Request,
    blocks,
    chunk,
    has_body,
    read_head,
    read_request,
)

Address = tuple[str, int]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SILENCE_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstreams:
    """Where requests go."""

    api: Address
    crd: Address
    authority: Path

    def of(self, request: Request) -> Address:
        """CRDs live on the CRD server."""
        return self.crd if request.path.startswith(CRD_PATH) else self.api


class _Closed(Exception):  # noqa: N818  # not an error: how a connection ends
    """Close the connection to the client now."""


@dataclass(slots=True)
class ApiProxy:
    """One proxy; `faults` may be changed from any thread, `after_write` is called in the proxy's thread."""

    upstreams: Upstreams
    certificate: Path
    key: Path
    faults: Faults = field(default_factory=Faults)
    after_write: Callable[[Request, int], None] | None = None
    port: int = 0
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, host: str, port: int) -> None:
        """Listen; port 0: the kernel chooses."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy", daemon=True)
        self._thread.start()
        self._call(self._listen(host, port))

    def stop(self) -> None:
        """Close every connection and the port."""
        if self._loop is None or self._thread is None:
            return
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self._loop = self._thread = None

    def cut_connections(self) -> None:
        """Close every connection; the port stays open."""
        self._call(self._cancel_connections())

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            coroutine.close()
            raise LabError("the proxy is not running")
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self, host: str, port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["http/1.1"])
        server = await asyncio.start_server(
            self._accept, host, port, ssl=context, limit=MAX_HEAD, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._server = server

    async def _close(self) -> None:
        self._server.close()
        await self._cancel_connections()

    async def _cancel_connections(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        session = _Session(self, reader, writer)
        try:
            await session.run()
        except (OSError, EOFError, ProtocolError, ValueError, _Closed, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass  # asked for by `_cancel_connections`, who waits
        finally:
            self._connections.discard(task)
            session.close()

    _server: asyncio.Server = field(init=False)


@dataclass(slots=True)
class _Session:
    """One client connection."""

    proxy: ApiProxy
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: dict[Address, Connection] = field(default_factory=dict)

    async def run(self) -> None:
        while (request := await read_request(self.reader)) is not None:
            fault = self.proxy.faults.choose(request)
            if fault is not None and await self._is_answered(request, fault):
                continue
            own = adaptation.own_answer(request.path)
            if own is not None:
                self.writer.write(_answer(200, "OK", own))
                await self.writer.drain()
                continue
            asked = request.target
            request.target = adaptation.to_server(request.target)
            if request.is_write:
                request.body = adaptation.body_to_server(request.body)
            if adaptation.concerns_answer(asked):
                request.head.put("Accept-Encoding", "identity")
            if request.head.is_upgrade:
                await self._tunnel(request)
                return
            status = await self._forward(request, asked, fault)
            if request.is_write and self.proxy.after_write is not None:
                self.proxy.after_write(request, status)

    def close(self) -> None:
        for writer in (self.writer, *(writer for _, writer in self.upstream.values())):
            with contextlib.suppress(OSError, RuntimeError):
                writer.transport.abort()

    async def _is_answered(self, request: Request, fault: Fault) -> bool:
        """Whether the fault is all that the client gets."""
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.answer is not None:
            self.proxy.faults.record(request, fault.answer, is_fault=True)
            self.writer.write(_made_up(fault))
            await self.writer.drain()
            return True
        if fault.lose == "request":
            self.proxy.faults.record(request, 0, is_fault=True)
            raise _Closed
        return False

    async def _forward(self, request: Request, asked: str, fault: Fault | None) -> int:
        address = self.proxy.upstreams.of(request)
        head = await self._exchange(address, request)
        reader, _ = self.upstream[address]
        status = int(head.first.split(" ")[1])
        if fault is not None and fault.lose == "reply":
            self.proxy.faults.record(request, 0, is_fault=True)
            raise _Closed
        self.proxy.faults.record(request, status, is_fault=False)
        if not has_body(request, status):
            self.writer.write(head.encoded())
        elif request.is_watch and head.is_chunked:
            await self._stream(request, asked, head, reader)
        elif adaptation.concerns_answer(asked):
            body = b"".join([block async for block in blocks(reader, head)])
            body = adaptation.body_to_client(asked, body)
            head.put("Transfer-Encoding", None)
            head.put("Content-Length", str(len(body)))
            self.writer.write(head.encoded() + body)
        else:
            await self._copy(head, reader)
        await self.writer.drain()
        if "close" in head.get("connection").lower():
            raise _Closed
        return status

    async def _exchange(self, address: Address, request: Request) -> Head:
        """Send and read the head; once more where a kept connection turns out to be closed."""
        data = request.encoded()
        for is_kept in [True, False] if address in self.upstream else [False]:
            if not is_kept:
                await self._connect(address)
            reader, writer = self.upstream[address]
            try:
                writer.write(data)
                await writer.drain()
                head = await read_head(reader)
                while head is not None and head.first.split(" ")[1] == "100":
                    head = await read_head(reader)
            except OSError:
                head = None
            if head is not None:
                return head
        raise _Closed

    async def _connect(self, address: Address) -> None:
        context = ssl.create_default_context(cafile=str(self.proxy.upstreams.authority))
        context.set_alpn_protocols(["http/1.1"])
        connection = await asyncio.open_connection(*address, ssl=context, limit=MAX_HEAD)
        old = self.upstream.get(address)
        if old is not None:
            old[1].transport.abort()
        self.upstream[address] = connection

    async def _copy(self, head: Head, reader: asyncio.StreamReader) -> None:
        self.writer.write(head.encoded())
        async for block in blocks(reader, head):
            self.writer.write(chunk(block) if head.is_chunked else block)
            await self.writer.drain()
        if head.is_chunked:
            self.writer.write(chunk(b""))
        elif not head.get("content-length"):
            raise _Closed

    async def _stream(self, request: Request, asked: str, head: Head, reader: asyncio.StreamReader) -> None:
        """A watch: as it comes, until either side ends it or a fault makes it silent."""
        self.writer.write(head.encoded())
        await self.writer.drain()
        gone = asyncio.create_task(self.reader.read(1))
        copying = asyncio.create_task(self._copy_watch(request, asked, head, reader))
        try:
            done, _ = await asyncio.wait({gone, copying}, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                raise _Closed
            copying.result()
        finally:
            for task in (gone, copying):
                task.cancel()
            await asyncio.gather(gone, copying, return_exceptions=True)

    async def _copy_watch(
        self, request: Request, asked: str, head: Head, reader: asyncio.StreamReader
    ) -> None:
        is_adapted = adaptation.concerns_answer(asked)
        pending = b""
        incoming = blocks(reader, head)
        while True:
            block = await self._next_block(request, incoming)
            if block is None:
                break
            if is_adapted:
                whole, separator, pending = (pending + block).rpartition(b"\n")
                block = adaptation.body_to_client(asked, whole + separator)
            if block:
                self.writer.write(chunk(block))
                await self.writer.drain()
        self.writer.write(chunk(b""))

    async def _next_block(self, request: Request, incoming: Any) -> bytes | None:
        """The next block; in silence nothing more comes, and after it the connection is closed."""
        next_block = asyncio.ensure_future(anext(incoming, None))
        try:
            while not next_block.done():
                await asyncio.wait({next_block}, timeout=SILENCE_POLL_S)
                if self.proxy.faults.is_silent(request):
                    while self.proxy.faults.is_silent(request):
                        await asyncio.sleep(SILENCE_POLL_S)
                    raise _Closed
            return next_block.result()
        finally:
            next_block.cancel()

    async def _tunnel(self, request: Request) -> None:
        """Another protocol from here on: copy both ways until one side is done."""
        await self._connect(self.proxy.upstreams.api)
        reader, writer = self.upstream[self.proxy.upstreams.api]
        writer.write(request.encoded())
        await writer.drain()
        self.proxy.faults.record(request, 101, is_fault=False)
        both = [
            asyncio.create_task(_pump(reader, self.writer)),
            asyncio.create_task(_pump(self.reader, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(1 << 16):
        writer.write(block)
        await writer.drain()


def _made_up(fault: Fault) -> bytes:
    reasons = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
    status = fault.answer or 500
    document = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": fault.message,
        "reason": reasons.get(status, "Unknown"),
        "code": status,
    }
    retry_after = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
    return _answer(status, reasons.get(status, "Fault"), json.dumps(document).encode(), **retry_after)


def _answer(status: int, reason: str, body: bytes, **headers: str) -> bytes:
    head = Head(first=f"HTTP/1.1 {status} {reason}")
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }.items():
        head.put(name, value)
    return head.encoded() + body
