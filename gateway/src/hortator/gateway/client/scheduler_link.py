"""One Place stream to each scheduler, opened again after every break, whether that scheduler leads or not.

- The hello comes with what is seen of the leader, which is said again when it changes: schedulers find out
  from that who has to lead.
- The stream of the leader also carries what its owner has to say; those of standbys carry nothing else.
- A name that stands for another address now: the link keeps its stream as long as that works, and does not
  dial again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import grpc
import grpc.aio
import structlog

from hortator.rpc.scheduling.v1 import scheduling_pb2, scheduling_pb2_grpc
from hortator.runtime.leader_watch import LeaderSeen
from hortator.runtime.transport import Transport

CONNECT_TIMEOUT_S = 3.0

_Call = grpc.aio.StreamStreamCall[scheduling_pb2.PlaceRequest, scheduling_pb2.PlaceResponse]


class LinkOwner(Protocol):
    """Who has something to say, and wants to hear. Called in the event loop; must not block."""

    @property
    def seen(self) -> LeaderSeen:
        """What is seen of the leader."""
        ...

    def take(self, address: str) -> list[scheduling_pb2.GatewayEvent]:
        """What the scheduler there is to be told now; nothing unless it leads."""
        ...

    def put_back(self, events: Sequence[scheduling_pb2.GatewayEvent]) -> None:
        """These were taken and not sent."""
        ...

    def heard(self, address: str, response: scheduling_pb2.PlaceResponse) -> None:
        """The scheduler there said something."""
        ...

    def lost(self, address: str) -> None:
        """Its stream is over."""
        ...


class _StreamEndedError(Exception):
    """The scheduler closed the stream in good order."""


class SchedulerLink:
    """The stream to one scheduler; `run` keeps it up."""

    def __init__(
        self,
        address: str,
        owner: LinkOwner,
        *,
        gateway_id: str,
        transport: Transport,
        min_backoff_s: float,
        max_backoff_s: float,
    ) -> None:
        self.address = address
        self._owner = owner
        self._gateway_id = gateway_id
        self._transport = transport
        self._min_backoff_s = min_backoff_s
        self._max_backoff_s = max_backoff_s
        self._wake = asyncio.Event()
        self._said = LeaderSeen()
        self._is_up = False
        self._has_heard = False
        self._is_retired = False
        self._is_over = False
        self._session: asyncio.Task[str] | None = None
        self._log = structlog.get_logger("hortator.gateway.client.scheduler")

    def wake(self) -> None:
        """There is something to say."""
        self._wake.set()

    def close(self) -> None:
        """End `run`."""
        self._is_over = True
        if self._session is not None:
            self._session.cancel()

    def retire(self) -> None:
        """Nobody names this address any more: use the stream while it works, then let `run` return."""
        self._is_retired = True
        if not self._is_up:
            self.close()

    def recall(self) -> bool:
        """The address is named again; False when it is too late for this link."""
        self._is_retired = False
        return not self._is_over

    async def run(self) -> None:
        """Keep a stream open until closed or cancelled."""
        backoff_s = self._min_backoff_s
        while not self._is_over:
            self._has_heard = False
            # A channel of its own for every try, sharing nothing: gRPC's own backoff must not outlive it.
            async with self._transport.open_channel(
                self.address, "scheduler", options=(("grpc.use_local_subchannel_pool", 1),)
            ) as channel:
                # In a task of its own: a TaskGroup that fails while it is cancelled swallows that.
                self._session = asyncio.ensure_future(self._run_stream(channel))
                await asyncio.wait({self._session})
                self._session.cancel()
            if self._is_retired:
                self._is_over = True
            if self._is_over:
                return
            backoff_s = self._min_backoff_s if self._has_heard else min(backoff_s * 2, self._max_backoff_s)
            await asyncio.sleep(backoff_s)

    async def _run_stream(self, channel: grpc.aio.Channel) -> str:
        """One stream, from connecting to its end; returns why it ended."""
        call = scheduling_pb2_grpc.SchedulingServiceStub(channel).Place()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._say_hello(call)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            self._log.debug("no scheduler", address=self.address, error=_brief(error))
            return _brief(error)
        self._is_up = True
        self._wake.set()
        self._log.info("connected to scheduler", address=self.address)
        why = "closed"
        try:
            why = await self._serve(call)
        except Exception as error:  # noqa: BLE001  # one bad message must not end all streams
            self._log.exception("scheduler stream failed", address=self.address)
            why = _brief(error)
        finally:
            self._is_up = False
            call.cancel()
            self._log.warning("lost a scheduler", address=self.address, error=why)
            self._owner.lost(self.address)
        return why

    async def _say_hello(self, call: _Call) -> None:
        hello = scheduling_pb2.GatewayHello(gateway_id=self._gateway_id)
        events = [scheduling_pb2.GatewayEvent(hello=hello), self._seen_event()]
        await call.write(scheduling_pb2.PlaceRequest(events=events))

    async def _serve(self, call: _Call) -> str:
        """Read and write until either ends; returns why."""
        why = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(call))
                group.create_task(self._read(call))
        except* (grpc.aio.AioRpcError, asyncio.InvalidStateError, _StreamEndedError) as errors:
            why = _brief(errors.exceptions[0])
        return why

    async def _write(self, call: _Call) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            events = self._owner.take(self.address)
            seen = [self._seen_event()] if self._owner.seen != self._said else []
            if not events and not seen:
                continue
            try:
                await call.write(scheduling_pb2.PlaceRequest(events=[*seen, *events]))
            except BaseException:
                self._owner.put_back(events)
                raise

    async def _read(self, call: _Call) -> None:
        async for response in call:
            self._has_heard = True
            self._owner.heard(self.address, response)
        raise _StreamEndedError("the scheduler closed the stream")

    def _seen_event(self) -> scheduling_pb2.GatewayEvent:
        seen = self._said = self._owner.seen
        message = scheduling_pb2.LeaderSeen(epoch=seen.epoch, is_there=seen.is_there)
        return scheduling_pb2.GatewayEvent(leader_seen=message)


def _brief(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
