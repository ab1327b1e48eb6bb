"""What gRPC is to a process here: servers, channels and calls, over links between one process and an address.

`grpc.aio.server` and `grpc.aio.insecure_channel` are replaced by the two functions below while a world runs.
What they promise is what a TCP connection does:

- Messages of a call come whole and in order, after the link's latency, or not at all.
- A link that is cut breaks every call on it: what is on its way is lost, both ends get to know. Whether new
  calls come through is another matter.
- A silent link holds everything back, the news that a peer has died included; then all of it comes at once.
- Who dials an address where nobody listens is told so. Whose peer dies is told so.
- A call's end cancels its handler, and a handler's end ends its call; a status travels like a message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random
from typing import Any, Self

import grpc
import grpc.aio

from virtual.loops import Process, VirtualLoop, World

NO_DEADLINE_S = 1e10
_CANCEL_AFTER_EOF_S = 0.001
"""A broken stream reads as ended at the server, and its handler is cancelled a moment later."""


class Link:
    """From one process to one address, whoever listens there."""

    def __init__(self, world: World, rng: Random) -> None:
        self._world = world
        self._rng = rng
        self.latency_s = 0.0005
        self.is_open = True
        self.is_silent = False
        self._held: list[Callable[[], None]] = []
        self._last_at = [0.0, 0.0]
        self.calls: dict[Call, None] = {}

    def send(self, direction: int, deliver: Callable[[], None]) -> None:
        """Bring something to the other end, after everything before it in this direction."""
        if self.is_silent:
            self._held.append(lambda: self.send(direction, deliver))
            return
        at = self._world.now + self.latency_s * self._rng.uniform(0.5, 1.5)
        at = self._last_at[direction] = max(at, self._last_at[direction])
        self._world.at(at, deliver)

    def cut(self, *, for_good: bool, unnoticed_s: float = 0.0) -> None:
        """`unnoticed_s`: the server's end hears of it so much later, as when its peer's last words were lost."""
        self.is_open = not for_good
        for call in list(self.calls):
            call.break_off("the connection was reset", unnoticed_s=unnoticed_s)

    def speak(self) -> None:
        self.is_silent = False
        held, self._held = self._held, []
        for send in held:
            send()


class Network:
    """All links, and the two functions that processes know gRPC by."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self._random = Random(seed)
        self.links: dict[tuple[str, str], Link] = {}
        """By the name of who dials and the host that is dialled."""
        self.names: dict[str, str] = {}
        """Of the processes at hosts."""

    def link(self, source: str, host: str) -> Link:
        found = self.links.get((source, host))
        if found is None:
            found = self.links[source, host] = Link(self.world, Random(self._random.random()))
        return found

    def server(self, **_: object) -> Server:
        """`grpc.aio.server`."""
        return Server(_process())

    def channel(self, address: str, **_: object) -> Channel:
        """`grpc.aio.insecure_channel`."""
        return Channel(self, _process(), address)

    def listener(self, address: str) -> Server | None:
        process = self.world.processes.get(self.names.get(address.partition(":")[0], ""))
        return None if process is None else process.servers.get(address)


def _process() -> Process:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.process


class Inbox:
    """One direction of a call, at its reader: messages, then perhaps an end."""

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.is_ended = False

    def put(self, item: bytes) -> None:
        self._items.append(item)
        self._wake()

    def end(self) -> None:
        self.is_ended = True
        self._wake()

    async def get(self) -> bytes | None:
        """The next message; None: there will be none."""
        while not self._items:
            if self.is_ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._items.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


Status = tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]


class Call:
    """A call at its client. `_inbox` is what the server says, `_status` how it ended."""

    def __init__(self, network: Network, process: Process, address: str, method: _Method) -> None:
        self._network = network
        self._process = process
        self._method = method
        self._link = network.link(process.name, address.partition(":")[0])
        self._inbox = Inbox()
        self._status: Status | None = None
        self._is_cancelled = False
        self._is_done_writing = False
        self._connected: asyncio.Event = asyncio.Event()
        self._context: Context | None = None
        self._is_broken = False
        self._deadline: asyncio.TimerHandle | None = None
        self._link.calls[self] = None
        process.on_death.append(self._client_died)
        self._address = address

    # --- the client's side --------------------------------------------------------------------------------

    def begin(self, *, timeout: float | None) -> None:
        if timeout is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(timeout, self._too_late)
        self._timeout_at = None if timeout is None else self._network.world.now + timeout
        self._link.send(0, self._reach)

    def _too_late(self) -> None:
        self._send_cancel()
        self._finish((grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ()))

    async def write(self, request: Any) -> None:
        if self.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        await self._connected.wait()
        if self.done():
            self._raise()
        self._send(self._method.serialize_request(request))
        await asyncio.sleep(0)

    def _send(self, data: bytes) -> None:
        def deliver() -> None:
            context = self._context
            if context is not None and not self._is_broken:
                context.process.loop.call_soon(context.inbox.put, data)

        self._link.send(0, deliver)

    async def done_writing(self) -> None:
        await self._connected.wait()
        self.send_done()

    def send_done(self) -> None:
        def deliver() -> None:
            context = self._context
            if context is not None and not self._is_broken:
                context.process.loop.call_soon(context.inbox.end)

        self._is_done_writing = True
        self._link.send(0, deliver)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._read_all()

    async def _read_all(self) -> AsyncIterator[Any]:
        while True:
            try:
                data = await self._inbox.get()
            except asyncio.CancelledError:
                self.cancel()
                raise
            if data is None:
                self._raise()
                return
            yield self._method.deserialize_response(data)

    def __await__(self) -> Any:
        return self._only().__await__()

    async def _only(self) -> Any:
        async for response in self:
            return response
        raise AssertionError("a call ended well without its response")

    def done(self) -> bool:
        return self._status is not None or self._is_cancelled

    def cancel(self) -> bool:
        if self.done():
            return False
        self._is_cancelled = True
        self._send_cancel()
        self._finish((grpc.StatusCode.CANCELLED, "Locally cancelled by application!", ()))
        return True

    def _send_cancel(self) -> None:
        def deliver() -> None:
            if self._context is not None:
                self._context.process.loop.call_soon(self._context.cancel)

        self._link.send(0, deliver)

    def _raise(self) -> None:
        if self._is_cancelled:
            raise asyncio.CancelledError
        assert self._status is not None
        code, details, trailing = self._status
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details
            )

    def _finish(self, status: Status) -> None:
        """In the client's loop."""
        if self._status is not None:
            return
        self._status = status
        if self._deadline is not None:
            self._deadline.cancel()
        self._inbox.end()
        self._connected.set()
        self._link.calls.pop(self, None)
        if self._client_died in self._process.on_death:
            self._process.on_death.remove(self._client_died)

    # --- between ------------------------------------------------------------------------------------------

    def _reach(self) -> None:
        """The call is at the address."""
        if self._is_broken or self._process.is_dead:
            return
        server = self._network.listener(self._address) if self._link.is_open else None
        handler = None if server is None else server.handlers.get(self._method.path)
        if server is None or handler is None:
            details = f"failed to connect to all addresses; last error: ipv4:{self._address}: refused"
            self.reply_status((grpc.StatusCode.UNAVAILABLE, details, ()))
            return
        context = self._context = Context(self, server, handler)
        context.process.loop.call_soon(context.begin)
        self._link.send(1, lambda: self._at_client(self._connected.set))

    def reply(self, data: bytes) -> None:
        self._link.send(1, lambda: self._at_client(self._inbox.put, data))

    def reply_status(self, status: Status) -> None:
        self._link.send(1, lambda: self._at_client(self._finish, status))

    def _at_client(self, what: Callable[..., None], *arguments: object) -> None:
        if not self._is_broken and not self._process.is_dead:
            self._process.loop.call_soon(what, *arguments)

    def break_off(self, why: str, *, unnoticed_s: float = 0.0) -> None:
        """The link was cut: nothing more comes through, and both ends know, sooner or later."""
        if self._is_broken:
            return
        self._is_broken = True
        self._link.calls.pop(self, None)
        if not self._process.is_dead:
            self._process.loop.call_soon(self._finish, (grpc.StatusCode.UNAVAILABLE, why, ()))
        self._network.world.at(self._network.world.now + unnoticed_s, self._tell_server)

    def _tell_server(self) -> None:
        context = self._context
        if context is not None and not context.process.is_dead:
            context.process.loop.call_soon(context.break_off)

    def _client_died(self) -> None:
        self._link.send(0, self._tell_server)
        self._link.calls.pop(self, None)

    def server_died(self) -> None:
        self.reply_status((grpc.StatusCode.UNAVAILABLE, "Socket closed", ()))

    @property
    def client_name(self) -> str:
        return self._process.name

    @property
    def time_left_s(self) -> float:
        return NO_DEADLINE_S if self._timeout_at is None else self._timeout_at - self._network.world.now


class Context:
    """A call at its server: what a servicer is given."""

    def __init__(self, call: Call, server: Server, handler: grpc.RpcMethodHandler) -> None:
        self._call = call
        self._server = server
        self._handler = handler
        self.process = server.process
        self.inbox = Inbox()
        self._task: asyncio.Task[None] | None = None
        self._is_over = False
        self.process.on_death.append(call.server_died)

    def begin(self) -> None:
        self._task = self.process.loop.create_task(self._run())
        self._server.tasks[self._task] = None
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()

    def break_off(self) -> None:
        """The client is gone: reads as the end of the stream, and then comes the cancellation."""
        self.inbox.end()
        self.process.loop.call_later(_CANCEL_AFTER_EOF_S, self.cancel)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._server.tasks.pop(task, None)
        if self._call.server_died in self.process.on_death:
            self.process.on_death.remove(self._call.server_died)
        if not task.cancelled() and task.exception() is not None:
            self.process.world.problems.append(
                f"{self.process.name}: {self._call._method.path}: {task.exception()!r}"
            )

    async def _run(self) -> None:
        handler = self._handler
        status: Status = (grpc.StatusCode.OK, "", ())
        try:
            if handler.request_streaming:
                request: Any = self._requests()
            else:
                data = await self.inbox.get()
                if data is None:
                    return
                request = handler.request_deserializer(data)
            implementation = (
                handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary
            )
            answer = implementation(request, self)
            if hasattr(answer, "__aiter__"):
                async for response in answer:
                    await self.write(response)
            else:
                response = await answer
                if response is not None:
                    await self.write(response)
        except _Aborted as aborted:
            status = aborted.status
        except asyncio.CancelledError:
            if not self._is_over and not self.process.is_dead:
                self._call.reply_status((grpc.StatusCode.UNAVAILABLE, "the server stops", ()))
            raise
        except Exception as error:
            self._call.reply_status((grpc.StatusCode.UNKNOWN, repr(error), ()))
            raise
        self._is_over = True
        self._call.reply_status(status)

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def read(self) -> Any:
        data = await self.inbox.get()
        return grpc.aio.EOF if data is None else self._handler.request_deserializer(data)

    async def write(self, response: Any) -> None:
        if self._is_over:
            raise asyncio.InvalidStateError("the call is over")
        self._call.reply(self._handler.response_serializer(response))
        await asyncio.sleep(0)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, Any]] = ()
    ) -> None:
        raise _Aborted((code, details, tuple(trailing_metadata)))

    def time_remaining(self) -> float:
        return self._call.time_left_s

    def peer(self) -> str:
        return f"unix:{self._call.client_name}"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


class _Aborted(grpc.aio.AbortError):
    def __init__(self, status: Status) -> None:
        super().__init__()
        self.status = status


class _Method:
    """One method of a stub."""

    def __init__(
        self,
        channel: Channel,
        path: str,
        serialize_request: Callable[[Any], bytes],
        deserialize_response: Callable[[bytes], Any],
        *,
        streams_requests: bool,
    ) -> None:
        self._channel = channel
        self.path = path
        self.serialize_request = serialize_request
        self.deserialize_response = deserialize_response
        self._streams_requests = streams_requests

    def __call__(self, request: Any = None, *, timeout: float | None = None, metadata: object = None) -> Call:
        call = self._channel.new_call(self)
        call.begin(timeout=timeout)
        if not self._streams_requests:
            call._send(self.serialize_request(request))
            call.send_done()
        return call


class Channel:
    """`grpc.aio.Channel`."""

    def __init__(self, network: Network, process: Process, address: str) -> None:
        self._network = network
        self._process = process
        self._address = address
        self._calls: list[Call] = []

    def new_call(self, method: _Method) -> Call:
        call = Call(self._network, self._process, self._address, method)
        self._calls = [*(one for one in self._calls if not one.done()), call]
        return call

    def _method(self, streams_requests: bool) -> Callable[..., _Method]:
        def make(
            path: str, request_serializer: Any, response_deserializer: Any, _registered_method: bool = False
        ) -> _Method:
            return _Method(
                self, path, request_serializer, response_deserializer, streams_requests=streams_requests
            )

        return make

    @property
    def stream_stream(self) -> Callable[..., _Method]:
        return self._method(True)

    @property
    def unary_stream(self) -> Callable[..., _Method]:
        return self._method(False)

    @property
    def unary_unary(self) -> Callable[..., _Method]:
        return self._method(False)

    async def close(self, grace: float | None = None) -> None:
        for call in self._calls:
            call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Server:
    """`grpc.aio.server`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.handlers: dict[str, grpc.RpcMethodHandler] = {}
        self.tasks: dict[asyncio.Task[None], None] = {}
        self._address = ""

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        pass  # the registered ones say it all

    def add_registered_method_handlers(
        self, service: str, handlers: dict[str, grpc.RpcMethodHandler]
    ) -> None:
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_insecure_port(self, address: str) -> int:
        self._address = address
        return int(address.rpartition(":")[2])

    async def start(self) -> None:
        self.process.servers[self._address] = self

    async def stop(self, grace: float | None) -> None:
        self.process.servers.pop(self._address, None)
        if self.tasks and grace:
            await asyncio.wait(set(self.tasks), timeout=grace)
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(set(self.tasks))
