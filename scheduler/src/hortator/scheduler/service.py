"""The gRPC services: streams in, events to the shell, outboxes out.

- A stream's handler is its reader; one writer task beside it sleeps on the outbox. Everything a message holds
  is handled before the next is read, and written as soon as the loop turns.
- The first message of a stream is its hello; without one the call ends with INVALID_ARGUMENT. After that, a
  message that makes no sense is dropped, counted and (seldom) logged, and the stream goes on; a gateway that
  waits for an answer to it gets a rejection that says why.
- A peer that half-closes has left. Anything else that ends a stream starts the grace (see `registry`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as pb_grpc
from hortator.runtime.rpc_errors import FieldViolation, abort_invalid
from hortator.scheduler import codec
from hortator.scheduler.core.events import Event, KeyedRequestsListed, RankStateReported, WorkerDraining
from hortator.scheduler.driver import MAX_RECENT_PLACEMENTS
from hortator.scheduler.errors import (
    CloseReason,
    InvalidMessageError,
    NotLeaderError,
    OutboxClosedError,
    UnknownMessageError,
)
from hortator.scheduler.registry import (
    GatewayStream,
    Heartbeat,
    Welcome,
    WorkerStream,
)
from hortator.scheduler.shell import Shell, gateway_witness, worker_witness

SERVICE_NAMES = (
    pb.DESCRIPTOR.services_by_name["SchedulingService"].full_name,
    pb.DESCRIPTOR.services_by_name["AdminService"].full_name,
)
_SCHEDULING, _ADMIN = SERVICE_NAMES
_LOOK_AFTER = frozenset({"operator", "administrator"})
CALLERS = {
    f"/{_SCHEDULING}/Place": frozenset({"gateway"}),
    f"/{_SCHEDULING}/Report": frozenset({"worker"}),
    f"/{_SCHEDULING}/Workers": frozenset({"gateway"}),
    **{f"/{_ADMIN}/{method}": _LOOK_AFTER for method in ("Snapshot", "Watch", "Drain")},
    f"/{_ADMIN}/ChangePolicy": frozenset({"administrator"}),
}
"""Which components may call what, where they have certificates."""
DEFAULT_DRAIN_TIMEOUT_S = 600.0
MIN_WATCH_INTERVAL_S = 0.1
LOG_DROPPED_EVERY_S = 5.0
BUSY_GAP_S = 0.001
BUSY_PAUSE_S = 0.0005
FAREWELL_S = 0.05
"""A broken stream also reads as ended, but is cancelled a moment later. If not, the peer closed it."""

_CLOSE_CODES = {
    CloseReason.REPLACED: grpc.StatusCode.ABORTED,
    CloseReason.OVERFLOW: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CloseReason.DECLARED_LOST: grpc.StatusCode.ABORTED,
    CloseReason.NONSENSE: grpc.StatusCode.ABORTED,
    CloseReason.STALLED: grpc.StatusCode.ABORTED,
    CloseReason.STOPPED: grpc.StatusCode.UNAVAILABLE,
}

_Context = grpc.aio.ServicerContext[Any, Any]


def register(
    server: grpc.aio.Server, shell: Shell, *, heartbeat_interval_s: float, policy_names: Sequence[str]
) -> None:
    """Add both services to a server.

    Args:
        server: not yet started.
        shell: what they speak for.
        heartbeat_interval_s: told to workers; how often a silent one reports.
        policy_names: what ChangePolicy accepts.
    """
    scheduling = SchedulingService(shell, heartbeat_interval_s=heartbeat_interval_s)
    pb_grpc.add_SchedulingServiceServicer_to_server(scheduling, server)
    pb_grpc.add_AdminServiceServicer_to_server(AdminService(shell, policy_names=policy_names), server)


class SchedulingService(pb_grpc.SchedulingServiceServicer):
    """Place and Workers for gateways, Report for workers."""

    def __init__(self, shell: Shell, *, heartbeat_interval_s: float) -> None:
        self._shell = shell
        self._heartbeat_interval_s = heartbeat_interval_s
        self._dropped = _DroppedMessages(shell)

    # Place and Report read and write the context instead of being generators: a read costs one await less,
    # and the reader and the writer may end independently.
    async def Place(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: object,  # noqa: ARG002
        context: _Context,
    ) -> None:
        """One gateway's stream."""
        message = await context.read()
        if message is grpc.aio.EOF:
            return
        try:
            gateway_id = codec.decode_gateway_id(message)
        except InvalidMessageError as error:
            await abort_invalid(context, [_violation(error)])
        stream = self._shell.gateways.connect(gateway_id)
        first_events = message.events[1:]

        async def read() -> None:
            stream.outbox.put(Heartbeat())
            self._shell.tell_fleet()
            self._take_gateway_events(stream, first_events)
            while (message := await context.read()) is not grpc.aio.EOF:
                self._take_gateway_events(stream, message.events)

        async def write() -> None:
            pause = _BusyPause()
            while True:
                items = await stream.outbox.take()
                await context.write(codec.encode_place_response(self._shell.epoch, items))
                await pause.after_write()

        await self._run(
            read, write, lambda has_left: self._shell.disconnect_gateway(stream, has_left=has_left), context
        )

    async def Report(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: object,  # noqa: ARG002
        context: _Context,
    ) -> None:
        """One worker's stream."""
        message = await context.read()
        if message is grpc.aio.EOF:
            return
        shell = self._shell
        try:
            hello = codec.decode_hello(message)
        except InvalidMessageError as error:
            await abort_invalid(context, [_violation(error)])
        group, loads = hello.group, hello.loads
        stream = shell.workers.connect(group, sequence=message.sequence)
        included = self._included(stream, message)

        async def read() -> None:
            stream.outbox.put(Welcome(self._heartbeat_interval_s))
            # Before the loads: with them, what waits may be placed here.
            shell.handle(KeyedRequestsListed(group_id=group.group_id, requests=hello.keyed_requests))
            if loads is not None:
                shell.handle(
                    RankStateReported(group_id=group.group_id, included_dispatch_seq=included, loads=loads)
                )
            while (message := await context.read()) is not grpc.aio.EOF:
                self._take_report(stream, message)

        async def write() -> None:
            while True:
                items = await stream.outbox.take()
                messages = [codec.encode_report_response(shell.epoch, item) for item in items]
                for message in messages:  # of the epoch in which they were taken
                    await context.write(message)

        await self._run(
            read, write, lambda has_left: shell.disconnect_worker(stream, has_left=has_left), context
        )

    async def Workers(  # noqa: N802
        self,
        request: pb.WorkersRequest,  # noqa: ARG002
        context: _Context,  # noqa: ARG002
    ) -> pb.WorkersResponse:
        """Addresses of the workers that are here."""
        return pb.WorkersResponse(addresses=self._shell.workers.addresses())

    def _take_gateway_events(self, stream: GatewayStream, messages: Sequence[pb.GatewayEvent]) -> None:
        now = self._shell.now()
        events: list[Event] = []
        for message in messages:
            is_seen = message.WhichOneof("event") == "leader_seen"
            if not (is_seen or self._shell.is_leader):
                self._dropped.count("not_leader", gateway_id=stream.gateway_id)
                continue
            try:
                if is_seen:
                    epoch, is_there = codec.decode_leader_seen(message.leader_seen)
                    self._shell.saw_leader(gateway_witness(stream), epoch=epoch, is_there=is_there)
                    continue
                events.append(codec.decode_gateway_event(message, stream.gateway_id, now))
            except InvalidMessageError as error:
                self._dropped.count("invalid_gateway_event", gateway_id=stream.gateway_id, error=str(error))
                answer = codec.invalid_request(message, error)
                if answer is not None:
                    stream.outbox.put(answer)
        if events:
            self._shell.handle_all(events)

    def _take_report(self, stream: WorkerStream, message: pb.ReportRequest) -> None:
        group = stream.group
        workers = self._shell.workers
        if workers.get(group.group_id) is not stream:
            return  # a newer stream took over
        reason = stream.drop_reason(message.worker_id, message.boot_id, message.sequence)
        if reason is not None:
            self._dropped.count(reason, worker_id=group.group_id, sequence=message.sequence)
            workers.report_dropped(stream, reason)
            return
        try:
            if message.WhichOneof("event") == "leader_seen":
                epoch, is_there = codec.decode_leader_seen(message.leader_seen)
                self._shell.saw_leader(worker_witness(stream), epoch=epoch, is_there=is_there)
                return
            event = codec.decode_report(message, group, self._included(stream, message))
        except InvalidMessageError as error:
            self._dropped.count("invalid_report", worker_id=group.group_id, error=str(error))
            if not isinstance(error, UnknownMessageError):
                workers.report_dropped(stream, str(error))
            return
        workers.report_made_sense(stream)
        if isinstance(event, WorkerDraining):
            stream.is_draining = True
        self._shell.handle(event)

    def _included(self, stream: WorkerStream, message: pb.ReportRequest) -> int:
        return stream.included(
            report_epoch=message.epoch,
            included_dispatch_seq=message.included_dispatch_seq,
            our_epoch=self._shell.epoch,
        )

    @staticmethod
    async def _run(
        read: Callable[[], Awaitable[None]],
        write: Callable[[], Awaitable[None]],
        disconnect: Callable[[bool], None],
        context: _Context,
    ) -> None:
        """Read to the peer's end with the writer beside; whatever ends it, the peer is disconnected."""
        has_left = False
        closed: CloseReason | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(_coroutine(write))
                await read()
                await asyncio.sleep(FAREWELL_S)
                has_left = True
                writer.cancel()
        except* OutboxClosedError as group:
            closed = next(error.reason for error in group.exceptions if isinstance(error, OutboxClosedError))
        except* (grpc.aio.AbortError, grpc.aio.BaseError, asyncio.InvalidStateError):
            pass  # the peer vanished in the middle of a write
        finally:
            disconnect(has_left)
        if closed is not None:
            await context.abort(_CLOSE_CODES[closed], closed.value)


class AdminService(pb_grpc.AdminServiceServicer):
    """For operators and tools."""

    def __init__(self, shell: Shell, *, policy_names: Sequence[str]) -> None:
        self._shell = shell
        self._policy_names = tuple(policy_names)

    async def Snapshot(  # noqa: N802
        self,
        request: pb.SnapshotRequest,
        context: _Context,  # noqa: ARG002
    ) -> pb.SnapshotResponse:
        """The machine now."""
        return pb.SnapshotResponse(snapshot=self._snapshot(request.num_recent_placements))

    async def Watch(  # noqa: N802
        self, request: pb.WatchRequest, context: _Context
    ) -> AsyncIterator[pb.WatchResponse]:
        """The machine now and again, until the caller goes."""
        if not MIN_WATCH_INTERVAL_S <= request.interval_s < float("inf"):
            text = f"must be at least {MIN_WATCH_INTERVAL_S}, got {request.interval_s}"
            await abort_invalid(context, [FieldViolation(field="interval_s", description=text)])
        while not self._shell.is_closed:
            yield pb.WatchResponse(snapshot=self._snapshot(request.num_recent_placements))
            await asyncio.sleep(request.interval_s)

    async def Drain(  # noqa: N802
        self, request: pb.DrainRequest, context: _Context
    ) -> pb.DrainResponse:
        """Take a worker out of service."""
        timeout_s = request.timeout_s or DEFAULT_DRAIN_TIMEOUT_S
        if not 0.0 < timeout_s <= codec.MAX_SECONDS:
            text = f"must be 0..{codec.MAX_SECONDS:g}, got {request.timeout_s}"
            await abort_invalid(context, [FieldViolation(field="timeout_s", description=text)])
        try:
            num_in_flight = await self._shell.drain_worker(request.worker_id, timeout_s=timeout_s)
        except KeyError:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no worker {request.worker_id!r}")
        except NotLeaderError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return pb.DrainResponse(drained=num_in_flight == 0, num_in_flight=num_in_flight)

    async def ChangePolicy(  # noqa: N802
        self, request: pb.ChangePolicyRequest, context: _Context
    ) -> pb.ChangePolicyResponse:
        """Switch the policy; nothing waiting is lost."""
        if request.policy not in self._policy_names:
            text = f"one of {', '.join(self._policy_names)}; got {request.policy!r}"
            await abort_invalid(context, [FieldViolation(field="policy", description=text)])
        return pb.ChangePolicyResponse(previous_policy=self._shell.change_policy(request.policy))

    def _snapshot(self, num_recent: int) -> pb.Snapshot:
        tally = self._shell.tally
        num_recent = min(num_recent, MAX_RECENT_PLACEMENTS, len(tally.recent_placements))
        newest = list(tally.recent_placements)[-num_recent:] if num_recent else []
        return codec.encode_snapshot(
            self._shell.snapshot(),
            at_s=time.time(),
            num_gateways=len(self._shell.gateways),
            num_finished=tally.num_finished,
            num_rejected=tally.num_rejected,
            recent=[(placed.batch, placed.placement) for placed in newest],
            acknowledged=self._shell.workers.acknowledged_drains(),
        )


class _BusyPause:
    """Lets a busy stream's answers gather for a moment, so that each write (a system call) carries several.

    The pause comes after a write, and only when the write before it was less than `BUSY_GAP_S` ago: what
    comes to an idle stream is written at once.
    """

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._written_at = -math.inf

    async def after_write(self) -> None:
        now = self._clock()
        if now - self._written_at < BUSY_GAP_S:
            await asyncio.sleep(BUSY_PAUSE_S)
            now = self._clock()
        self._written_at = now


class _DroppedMessages:
    """Counts every dropped message and logs the first of each reason in a while."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._logged_at: dict[str, float] = {}
        self._log = structlog.get_logger("hortator.scheduler.service")

    def count(self, reason: str, **details: object) -> None:
        self._shell.metrics.observe_dropped(reason)
        now = self._shell.now()
        if now - self._logged_at.get(reason, -LOG_DROPPED_EVERY_S) >= LOG_DROPPED_EVERY_S:
            self._logged_at[reason] = now
            self._log.warning("message dropped", reason=reason, **details)


async def _coroutine(call: Callable[[], Awaitable[None]]) -> None:
    await call()


def _violation(error: InvalidMessageError) -> FieldViolation:
    return FieldViolation(field=error.field, description=error.description)
