"""The one stream to the scheduler: outcomes up, placements down, and up again after every break.

Theory of operation:

- Whatever is to be said is put into one list; a single writer takes all there is and sends it as one
  PlaceRequest. Under load messages grow by themselves; idle, an event leaves in the same loop turn.
- Schedulers are tried in the order of their addresses, again and again; each round, a longer pause.
- Names among the addresses are looked up all the time (`Endpoints`). A scheduler whose address is no longer
  among them while another's is has gone, or will: its stream is left for the other one's, also when nothing
  has told us that it is broken.
- A scheduler that is new to us knows nothing. After the hello the owner is asked (`scheduler_connected`) to
  announce again what wants a placement, so announcements are not kept while nobody is there. Everything else
  is kept and sent again: a scheduler ignores what it knows already.
- Commands carry the leadership epoch. Those of an epoch older than the newest seen are ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

import grpc
import grpc.aio
import structlog

from hortator.gateway import codec
from hortator.gateway.placement import NO_CLAIM, Claim, Placement, Rejection, Retraction
from hortator.rpc.scheduling.v1 import scheduling_pb2, scheduling_pb2_grpc
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.transport import Plaintext, Transport

CONNECT_TIMEOUT_S = 3.0
MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
MAX_LAZY_S = 0.01
"""Events that nobody waits for may be said this much later, together: every message costs both sides."""
MAX_EVENTS_PER_MESSAGE = 256
MAX_KEPT_EVENTS = 100_000

_Call = grpc.aio.StreamStreamCall[scheduling_pb2.PlaceRequest, scheduling_pb2.PlaceResponse]


class SchedulerEvents(Protocol):
    """Who wants to know what the scheduler says. Called in the event loop; must not block."""

    def scheduler_connected(self) -> None:
        """A stream is up: announce again what waits."""
        ...

    def placed(self, placement: Placement) -> None:
        """A worker was chosen."""
        ...

    def rejected(self, rejection: Rejection) -> None:
        """A request was refused."""
        ...

    def retracted(self, retraction: Retraction) -> None:
        """A placement no longer holds."""
        ...

    def placement_was_stale(self) -> None:
        """Commands of an older epoch were ignored."""
        ...


class _StreamEndedError(Exception):
    """The scheduler closed the stream in good order."""


class _MovedError(Exception):
    """The scheduler's address is another one now."""


class SchedulerClient:
    """Keeps a Place stream to one of the schedulers. `run` does the work; the rest only takes notes."""

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        gateway_id: str,
        events: SchedulerEvents,
        transport: Transport | None = None,
        min_backoff_s: float = MIN_BACKOFF_S,
        max_backoff_s: float = MAX_BACKOFF_S,
    ) -> None:
        """Nothing happens before `run`.

        Args:
            endpoints: of every scheduler.
            gateway_id: unique per process.
            events: told what the scheduler says.
            transport: how to connect; in the clear by default.
            min_backoff_s: pause after the first round of failures.
            max_backoff_s: longest pause.
        """
        self._endpoints = endpoints
        self._moved = asyncio.Event()
        self._transport = transport or Plaintext()
        self._gateway_id = gateway_id
        self._events = events
        self._min_backoff_s = min_backoff_s
        self._max_backoff_s = max_backoff_s
        self._pending: list[scheduling_pb2.GatewayEvent] = []
        self._wake = asyncio.Event()
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("hortator.gateway.client.scheduler")
        self._heard = False
        self._task: asyncio.Task[object] | None = None
        self._is_closing = False
        self.is_connected = False
        """A stream is up."""
        self.disconnected_at: float | None = None
        """Loop time since when there has been no stream; None while there is one, or before `run`."""
        self.epoch = 0
        """Newest leadership epoch seen."""
        self.num_connects = 0

    async def run(self) -> None:
        """Keep a stream up until `close`."""
        self._task = asyncio.current_task()
        self.disconnected_at = asyncio.get_running_loop().time()
        self._endpoints.on_change(self._moved.set)
        looking = asyncio.ensure_future(self._endpoints.run())
        try:
            await self._keep_connected()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _keep_connected(self) -> None:
        backoff_s = self._min_backoff_s
        while True:
            self._moved.clear()
            addresses = self._endpoints.current
            for address in addresses:
                self._heard = False
                await self._session(address)
                if self._is_closing:
                    return
                if self._heard:
                    backoff_s = self._min_backoff_s
                if self._endpoints.current != addresses:
                    break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self._moved.wait()
            backoff_s = min(backoff_s * 2, self._max_backoff_s)

    def close(self) -> None:
        """End `run`: cancelling it alone is not enough, a TaskGroup that just failed swallows that."""
        self._is_closing = True
        if self._task is not None:
            self._task.cancel()

    # --- what is to be said ---------------------------------------------------------------------------

    def announce(
        self,
        *,
        request_id: str,
        attempt: int,
        num_prompt_tokens: int,
        max_output_tokens: int,
        block_hashes: Sequence[int],
        priority: int,
        tenant: str,
        latency_critical: bool,
        timeout_s: float,
        claim: Claim = NO_CLAIM,
        is_resumed: bool = False,
    ) -> None:
        """A request wants a placement; `timeout_s` counts from now, 0 is none."""
        if not self.is_connected:
            return
        announcement = scheduling_pb2.Announcement(
            request_id=request_id,
            attempt=attempt,
            num_prompt_tokens=num_prompt_tokens,
            max_output_tokens=max_output_tokens,
            block_hashes=block_hashes,
            priority=priority,
            tenant=tenant,
            latency_critical=latency_critical,
            timeout_s=timeout_s,
            key_hash=claim.key_hash,
            request_hash=claim.request_hash,
            is_resumed=is_resumed,
        )
        self._put(scheduling_pb2.GatewayEvent(announcement=announcement))

    def prefill_finished(
        self,
        *,
        request_id: str,
        attempt: int,
        num_prompt_tokens: int,
        max_output_tokens: int,
        claim: Claim = NO_CLAIM,
    ) -> None:
        """A request wants a decode placement."""
        if not self.is_connected:
            return
        finished = scheduling_pb2.PrefillFinished(
            request_id=request_id,
            attempt=attempt,
            num_prompt_tokens=num_prompt_tokens,
            max_output_tokens=max_output_tokens,
            key_hash=claim.key_hash,
            request_hash=claim.request_hash,
        )
        self._put(scheduling_pb2.GatewayEvent(prefill_finished=finished))

    def cancel(self, request_id: str, attempt: int) -> None:
        """A request wants nothing any more."""
        cancellation = scheduling_pb2.Cancellation(request_id=request_id, attempt=attempt)
        self._put(scheduling_pb2.GatewayEvent(cancellation=cancellation))

    def first_token(self, request_id: str, attempt: int, ttft_s: float) -> None:
        """The first output token came. Nobody waits for this: it is said with whatever comes next."""
        first = scheduling_pb2.FirstToken(request_id=request_id, attempt=attempt, ttft_s=ttft_s)
        self._put(scheduling_pb2.GatewayEvent(first_token=first), is_urgent=False)

    def request_finished(
        self,
        request_id: str,
        attempt: int,
        *,
        num_output_tokens: int,
        ttft_s: float,
        e2e_s: float,
        first_gap_s: float,
    ) -> None:
        """The last output token came. Nobody waits for this either."""
        finished = scheduling_pb2.RequestFinished(
            request_id=request_id,
            attempt=attempt,
            num_output_tokens=num_output_tokens,
            ttft_s=ttft_s,
            e2e_s=e2e_s,
            first_gap_s=first_gap_s,
        )
        self._put(scheduling_pb2.GatewayEvent(request_finished=finished), is_urgent=False)

    def placement_refused(self, request_id: str, attempt: int, *, worker_id: str, reason: str) -> None:
        """The placement did not work; the same attempt wants another."""
        refused = scheduling_pb2.PlacementRefused(
            request_id=request_id, attempt=attempt, worker_id=worker_id, reason=reason
        )
        self._put(scheduling_pb2.GatewayEvent(placement_refused=refused))

    def kv_transfer_failed(self, request_id: str, attempt: int) -> None:
        """The KV is gone; the next attempt will be announced."""
        failed = scheduling_pb2.KvTransferFailed(request_id=request_id, attempt=attempt)
        self._put(scheduling_pb2.GatewayEvent(kv_transfer_failed=failed))

    def _put(self, event: scheduling_pb2.GatewayEvent, *, is_urgent: bool = True) -> None:
        pending = self._pending
        if not self.is_connected and len(pending) >= MAX_KEPT_EVENTS:
            del pending[: MAX_KEPT_EVENTS // 10]  # the oldest matter least to a scheduler that is not there
        pending.append(event)
        if is_urgent:
            self._wake.set()
        elif self._lazy_timer is None:
            self._lazy_timer = asyncio.get_running_loop().call_later(MAX_LAZY_S, self._say_lazy)

    def _say_lazy(self) -> None:
        self._lazy_timer = None
        self._wake.set()

    # --- the stream -----------------------------------------------------------------------------------

    async def _session(self, address: str) -> None:
        """One stream, from connecting to its end. Errors end it and are logged."""
        # A channel of its own for every try, sharing nothing: gRPC's own backoff must not outlive it.
        async with self._transport.open_channel(
            address, "scheduler", options=(("grpc.use_local_subchannel_pool", 1),)
        ) as channel:
            call = scheduling_pb2_grpc.SchedulingServiceStub(channel).Place()
            try:
                await self._say_hello(call, address)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, _MovedError) as error:
                self._log.debug("no scheduler", address=address, error=_brief(error))
                return
            self._connected(address)
            try:
                why = await self._serve(call, address)
            except Exception as error:  # noqa: BLE001  # one bad message must not end all streams
                self._log.exception("scheduler stream failed", address=address)
                why = _brief(error)
            call.cancel()
            self._disconnected(address, why)

    async def _say_hello(self, call: _Call, address: str) -> None:
        """The first message, unless the address moves or the time passes before it can be sent."""
        hello = scheduling_pb2.GatewayHello(gateway_id=self._gateway_id)
        request = scheduling_pb2.PlaceRequest(events=[scheduling_pb2.GatewayEvent(hello=hello)])
        saying = asyncio.ensure_future(_write(call, request))
        moving = asyncio.ensure_future(self._until_moved(address))
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.wait({saying, moving}, return_when=asyncio.FIRST_COMPLETED)
            await (saying if saying.done() else moving)
        finally:
            saying.cancel()
            moving.cancel()
            await asyncio.gather(saying, moving, return_exceptions=True)

    async def _serve(self, call: _Call, address: str) -> str:
        """Read and write until either ends; returns why."""
        why = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(call))
                group.create_task(self._read(call))
                group.create_task(self._until_moved(address))
        except* (grpc.aio.AioRpcError, asyncio.InvalidStateError, _StreamEndedError, _MovedError) as errors:
            why = _brief(errors.exceptions[0])
        return why

    async def _write(self, call: _Call) -> None:
        self._wake.set()  # what was said while there was no stream
        while True:
            await self._wake.wait()
            self._wake.clear()
            events = self._pending[:MAX_EVENTS_PER_MESSAGE]
            if events:
                await call.write(scheduling_pb2.PlaceRequest(events=events))
                del self._pending[: len(events)]
            if len(events) == MAX_EVENTS_PER_MESSAGE:
                self._wake.set()  # there may be more that is urgent

    async def _read(self, call: _Call) -> None:
        async for response in call:
            self._heard = True
            self._dispatch(response)
        raise _StreamEndedError("the scheduler closed the stream")

    async def _until_moved(self, address: str) -> None:
        while not self._endpoints.has_moved(address):
            self._moved.clear()
            await self._moved.wait()
        raise _MovedError(f"{address} is not among the schedulers' addresses any more")

    def _dispatch(self, response: scheduling_pb2.PlaceResponse) -> None:
        epoch = response.epoch
        if epoch < self.epoch:
            self._events.placement_was_stale()
            self._log.warning("ignored commands of an older epoch", epoch=epoch, newest_epoch=self.epoch)
            return
        self.epoch = epoch
        for rejection in response.rejections:
            self._events.rejected(codec.rejection(rejection))
        for retraction in response.retractions:
            self._events.retracted(codec.retraction(retraction))
        for message in response.placements:
            placement = codec.placement(message, epoch)
            if placement is not None:
                self._events.placed(placement)

    def _connected(self, address: str) -> None:
        self._log.info("connected to scheduler", address=address)
        self.is_connected = True
        self.disconnected_at = None
        self.num_connects += 1
        self._events.scheduler_connected()

    def _disconnected(self, address: str, error: str) -> None:
        self._log.warning("lost the scheduler", address=address, error=error)
        self.is_connected = False
        self.disconnected_at = asyncio.get_running_loop().time()
        self._pending = [event for event in self._pending if event.WhichOneof("event") not in _SAID_AGAIN]


_SAID_AGAIN = frozenset({"announcement", "prefill_finished"})


async def _write(call: _Call, request: scheduling_pb2.PlaceRequest) -> None:
    await call.write(request)


def _brief(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
