"""One report stream to each scheduler: loads up, manifests and corrections down.

- A stream begins with a hello that carries everything; a lost one is opened again after a short random
  wait. Requests that run are not touched by any of this.
- Reports are numbered 1, 2, 3, ... within a stream. Offered ones go out in order; while a stream is down they
  are dropped, because the next hello says more.
- From `offer` to the wire is one hop: the sender task wakes and writes. No polling, no buffering; only the
  start of a pass may wait for `MAX_START_DELAY_S`, and is not said at all when the pass has ended by then
  and nothing happened to the prefix cache.
- Names are looked up all the time (`Endpoints`): a new address gets a link of its own, and one that is no
  longer among the addresses keeps its stream as long as that works, and is not dialled again.
- Every scheduler is told what is seen of the leader (`LeaderFollower`). Only the leader is obeyed: whatever
  another one still has to say about requests may be about those of the leader.
- `leave` ends the streams in order, so that schedulers know at once that this worker is gone on purpose.
- When nothing was sent for the heartbeat interval (from the scheduler's welcome) the states are.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
import structlog

from hortator.rpc.scheduling.v1 import scheduling_pb2, scheduling_pb2_grpc
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.leader_follower import DEFAULT_TIMEOUT_S, LeaderFollower
from hortator.runtime.transport import Plaintext, Transport
from hortator.worker.client.cancellation import PeerCancelledError, peer_cancellation_as_error
from hortator.worker.codec import decode_correction, decode_manifest, encode_hello, encode_report
from hortator.worker.engine import ForwardPassEnded, ForwardPassStarted
from hortator.worker.report import (
    DrainingReported,
    LeaderReported,
    PassReported,
    ScheduledWorker,
    StatesReported,
    WorkerReport,
)

DEFAULT_HEARTBEAT_S = 1.0
MIN_HEARTBEAT_S, MAX_HEARTBEAT_S = 0.001, 10.0
"""What a scheduler may ask for; of anything else (NaN, the end of time, never) nothing is done."""
MAX_START_DELAY_S = 0.001
MAX_BACKLOG = 1_000
"""Reports that may wait for a scheduler that does not read, before its stream is opened anew."""

_Call = grpc.aio.StreamStreamCall[scheduling_pb2.ReportRequest, scheduling_pb2.ReportResponse]


class _StreamLostError(Exception):
    """The scheduler ended the stream, or does not read it."""


class SchedulerLink:
    """The stream to one scheduler; `run` keeps it up."""

    def __init__(
        self,
        address: str,
        worker: ScheduledWorker,
        *,
        min_backoff_s: float,
        max_backoff_s: float,
        on_welcome: Callable[[], None],
        transport: Transport,
        follower: LeaderFollower,
    ) -> None:
        self.address = address
        self._on_welcome = on_welcome
        self._follower = follower
        self._is_retired = False
        self._worker = worker
        self._transport = transport
        self._min_backoff_s = min_backoff_s
        self._max_backoff_s = max_backoff_s
        self._backlog: deque[WorkerReport] = deque()
        self._ready = asyncio.Event()
        self._is_up = False
        self._leaving = asyncio.Event()
        self._sequence = 0
        self._heartbeat_s = DEFAULT_HEARTBEAT_S
        self._loop = asyncio.get_running_loop()
        self._last_offer_at = 0.0
        self._log = structlog.get_logger("hortator.worker.report")

    @property
    def is_up(self) -> bool:
        """A hello was sent and the stream has not failed since."""
        return self._is_up

    def offer(self, report: WorkerReport) -> None:
        """Send soon, or drop when the stream is down."""
        if self._is_up:
            self._last_offer_at = self._loop.time()
            if self._backlog and _ends(report) and _says_only_start(self._backlog[-1]):
                self._backlog.pop()  # the pass has ended already
            self._backlog.append(report)
            if not _starts(report):
                self._ready.set()
            elif not self._ready.is_set():
                self._loop.call_later(MAX_START_DELAY_S, self._ready.set)

    def leave(self) -> None:
        """Say what is still to say and end the stream; `run` returns then."""
        self._leaving.set()
        self._ready.set()

    def retire(self) -> None:
        """Nobody names this address any more: use the stream while it works, then let `run` return."""
        self._is_retired = True
        if not self._is_up:
            self._leaving.set()

    def recall(self) -> bool:
        """The address is named again; False when it is too late for this link."""
        self._is_retired = False
        return not self._leaving.is_set()

    async def run(self) -> None:
        """Keep a stream open until cancelled or told to leave."""
        backoff_s = self._min_backoff_s
        while not self._leaving.is_set():
            connected_at = self._loop.time()
            # A channel of its own for every try: neither DNS answers nor gRPC's own backoff outlive it.
            async with self._transport.open_channel(
                self.address, "scheduler", options=(("grpc.use_local_subchannel_pool", 1),)
            ) as channel:
                # In a task of its own: what a failed TaskGroup leaves of a cancellation (Python 3.11 neither
                # takes its own back nor keeps ours when both happen) must not outlive the stream.
                reason = await asyncio.ensure_future(self._run_stream(channel))
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            if self._leaving.is_set() or self._is_retired:
                self._leaving.set()
                return
            if self._loop.time() - connected_at > self._max_backoff_s:
                backoff_s = self._min_backoff_s
            self._log.info("report stream down", scheduler=self.address, reason=reason, retry_in_s=backoff_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s * random.uniform(0.5, 1.0)):
                    await self._leaving.wait()
            backoff_s = min(2 * backoff_s, self._max_backoff_s)

    async def _run_stream(self, channel: grpc.aio.Channel) -> str:
        """Open a stream and serve it until it fails; returns why it did."""
        reason = ""
        call = scheduling_pb2_grpc.SchedulingServiceStub(channel).Report()
        try:
            with peer_cancellation_as_error():
                await self._say_hello(call)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_guarded(self._send(call)))
                tasks.create_task(_guarded(self._receive(call)))
                tasks.create_task(self._heartbeat())
        except* grpc.aio.AioRpcError as errors:
            error = errors.exceptions[0]
            reason = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
        except* (_StreamLostError, PeerCancelledError, asyncio.InvalidStateError) as errors:
            reason = str(errors.exceptions[0])
        finally:
            self._is_up = False
            self._backlog.clear()
            call.cancel()
            self._follower.lost(self.address)
        return reason

    async def _say_hello(self, call: _Call) -> None:
        worker = self._worker
        hello = encode_hello(
            worker.identity,
            worker.info,
            worker.load_snapshot(),
            worker.reusable_blocks(),
            worker.keyed_requests(),
        )
        self._sequence = 1
        hello.sequence = self._sequence
        self._is_up = True  # what happens from here on is not in the hello
        if worker.is_draining:
            self.offer(DrainingReported(loads=worker.load_snapshot()))
        self.offer(LeaderReported(seen=self._follower.seen, loads=worker.load_snapshot()))
        await call.write(hello)

    async def _send(self, call: _Call) -> None:
        while True:
            self._ready.clear()
            while self._backlog:
                if len(self._backlog) > MAX_BACKLOG:
                    raise _StreamLostError("the scheduler does not read")
                message = encode_report(self._worker.identity, self._backlog.popleft())
                self._sequence += 1
                message.sequence = self._sequence
                await call.write(message)
            if self._leaving.is_set():
                await call.done_writing()
                return
            await self._ready.wait()

    async def _heartbeat(self) -> None:
        while True:
            due_in_s = self._last_offer_at + self._heartbeat_s - self._loop.time()
            if due_in_s <= 0:
                self.offer(StatesReported(loads=self._worker.load_snapshot()))
                due_in_s = self._heartbeat_s
            await asyncio.sleep(due_in_s)

    async def _receive(self, call: _Call) -> None:
        async for message in call:
            self._handle(message)
        raise _StreamLostError("the scheduler ended the stream")

    def _handle(self, message: scheduling_pb2.ReportResponse) -> None:
        worker = self._worker
        is_obeyed = self._follower.spoke(self.address, message.epoch)
        match message.WhichOneof("event"):
            case "manifest" | "correction" | "drain" if not is_obeyed:
                self._log.info("ignored a former leader", scheduler=self.address, epoch=message.epoch)
            case "resigned":
                self._follower.lost(self.address)
            case "manifest":
                worker.on_manifest(decode_manifest(message.epoch, message.manifest))
            case "correction":
                worker.on_correction(decode_correction(message.epoch, message.correction))
            case "probe":
                self.offer(StatesReported(loads=worker.load_snapshot()))
            case "drain":
                worker.start_draining()
            case "welcome":
                asked_s = message.welcome.heartbeat_interval_s
                is_possible = MIN_HEARTBEAT_S <= asked_s <= MAX_HEARTBEAT_S
                self._heartbeat_s = asked_s if is_possible else DEFAULT_HEARTBEAT_S
                self._log.info("report stream up", scheduler=self.address, epoch=message.epoch)
                self._on_welcome()
            case _:  # nothing but an epoch, or an event of a newer scheduler
                pass


def _starts(report: WorkerReport) -> bool:
    return isinstance(report, PassReported) and isinstance(report.report, ForwardPassStarted)


def _says_only_start(report: WorkerReport) -> bool:
    """A start that also tells of blocks (evictions happen as a pass is formed) must be said."""
    return (
        isinstance(report, PassReported)
        and isinstance(report.report, ForwardPassStarted)
        and not any(rank.stored_blocks or rank.removed_blocks for rank in report.report.ranks)
    )


def _ends(report: WorkerReport) -> bool:
    return isinstance(report, PassReported) and isinstance(report.report, ForwardPassEnded)


async def _guarded(talk: Coroutine[Any, Any, None]) -> None:
    with peer_cancellation_as_error():
        await talk


class SchedulerLinks:
    """Links to all schedulers; a `ReportSink`."""

    def __init__(
        self,
        endpoints: Endpoints,
        worker: ScheduledWorker,
        *,
        min_backoff_s: float = 0.05,
        max_backoff_s: float = 1.0,
        on_welcome: Callable[[], None] = lambda: None,
        transport: Transport | None = None,
        leader_timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Nothing is dialled before `run`. Must be called in a running loop.

        Args:
            endpoints: of every scheduler, leader and standbys.
            worker: whose reports these are.
            min_backoff_s: pause after the first failure of a link.
            max_backoff_s: longest pause.
            on_welcome: called whenever a scheduler has taken the hello.
            transport: how to connect; in the clear by default.
            leader_timeout_s: a leader that has been silent for so long is away.
        """
        self._transport = transport or Plaintext()
        self._follower = LeaderFollower(timeout_s=leader_timeout_s, on_change=self._leader_changed)
        self._endpoints = endpoints
        self._worker = worker
        self._min_backoff_s = min_backoff_s
        self._max_backoff_s = max_backoff_s
        self._on_welcome = on_welcome
        self._links: dict[str, SchedulerLink] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def num_up(self) -> int:
        """Schedulers that hear us."""
        return sum(link.is_up for link in self._links.values())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where links go to now."""
        return tuple(self._links)

    def offer(self, report: WorkerReport) -> None:
        """To every scheduler whose stream is up."""
        for link in self._links.values():
            link.offer(report)

    def _leader_changed(self) -> None:
        """Tell everybody; a new leader places nothing here before it has our loads."""
        seen, worker = self._follower.seen, self._worker
        if seen.is_there:
            worker.on_epoch(seen.epoch)
        loads = worker.load_snapshot()
        self.offer(LeaderReported(seen=seen, loads=loads))
        if seen.is_there:
            self.offer(StatesReported(loads=loads))

    def leave(self) -> None:
        """End all streams in order; `run` returns once the schedulers have taken note."""
        if self._looking is not None:
            self._looking.cancel()
        for link in self._links.values():
            link.leave()

    async def run(self) -> None:
        """Keep all streams open until cancelled or told to leave."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._endpoints.on_change(self._follow)
                self._follow()
                self._looking = tasks.create_task(self._endpoints.run())
        finally:
            self._follower.close()

    def _follow(self) -> None:
        """One link to each address that there is now."""
        current = self._endpoints.current
        for address, link in self._links.items():
            if address not in current:
                link.retire()
        for address in current:
            known = self._links.get(address)
            if known is None or not known.recall():
                self._dial(address)

    def _dial(self, address: str) -> None:
        if self._tasks is None or (self._looking is not None and self._looking.cancelled()):
            return
        link = SchedulerLink(
            address,
            self._worker,
            min_backoff_s=self._min_backoff_s,
            max_backoff_s=self._max_backoff_s,
            on_welcome=self._on_welcome,
            transport=self._transport,
            follower=self._follower,
        )
        self._links[address] = link
        self._tasks.create_task(self._keep(link))

    async def _keep(self, link: SchedulerLink) -> None:
        await link.run()
        if self._links.get(link.address) is link:
            del self._links[link.address]
