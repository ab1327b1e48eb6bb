"""Who is connected: workers by boot and sequence, gateways by name, and what their coming and going means.

Rules:

1. A worker is one boot of one worker id. Another boot replaces it, whatever its stream was doing.
2. A stream that breaks starts a grace: the same boot (or the same gateway) that is back in time goes on where
   it was, with what was not yet written to it (a gateway also gets again what was written last, which may
   not have arrived). After the grace the peer is lost. A peer that closes its side has left: no grace.
3. A newer stream of the same peer takes over; the older one is closed and its end means nothing any more.
4. A report whose sequence is not above the last one, or that names another worker or boot than its stream,
   is dropped. Gaps are counted only: streams keep order, so what is missing is gone for good.
5. A worker of which MAX_NONSENSE reports in a row were dropped is doubted: nothing new is placed on it until
   a report makes sense. At MAX_NONSENSE_ON_STREAM its stream is closed: the hello of the next one says all
   that there is to know and begins a new sequence. A kind of report that only newer versions know does not
   count.
6. `included_dispatch_seq` speaks of our dispatches only if the report's epoch is ours and the number is one
   that this worker was given since it joined; otherwise it is 0 (an earlier leader's, or from before the
   worker was lost and its numbers began again).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from hortator.scheduler.core.commands import Abort, Attach, Probe, Reject
from hortator.scheduler.core.events import Event, GatewayLost, ReportsRefused, WorkerJoined, WorkerLost
from hortator.scheduler.core.model import Batch, GroupSpec, LostReason, Placement
from hortator.scheduler.core.snapshot import GroupSnapshot
from hortator.scheduler.errors import CloseReason
from hortator.scheduler.outbox import Outbox

MAX_NONSENSE = 3
"""Reports in a row that are dropped before the worker is doubted."""
MAX_NONSENSE_ON_STREAM = 30
"""And before it must begin anew."""
KEEP_FOR_GATEWAY = 2048
"""Messages to a gateway that are told again when its stream broke."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """First answer to a worker."""

    heartbeat_interval_s: float


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """Asks a worker to take nothing new."""


@dataclass(frozen=True, slots=True)
class PlacementNotice:
    """Tells a gateway where one of its requests goes."""

    batch: Batch
    placement: Placement
    group: GroupSpec


@dataclass(frozen=True, slots=True)
class AttachNotice:
    """Tells a gateway where one of its requests runs already."""

    attach: Attach
    group: GroupSpec


@dataclass(frozen=True, slots=True)
class InvalidRequest:
    """Refuses an announcement that makes no sense; it never reached the core."""

    request_id: str
    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Says that the leader is there, and its epoch."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """Tells a gateway what it needs to place by itself, should there be no leader."""

    groups: tuple[GroupSnapshot, ...]
    """Those on which something may be placed."""
    num_gateways: int
    heartbeat_s: float
    """Between two words of ours to a gateway."""


@dataclass(frozen=True, slots=True)
class Resignation:
    """Says that the leader of an epoch stops."""

    epoch: int


WorkerItem = Welcome | Batch | Abort | Probe | DrainOrder | Heartbeat | Resignation
GatewayItem = (
    PlacementNotice | AttachNotice | Reject | Abort | InvalidRequest | Heartbeat | FleetView | Resignation
)


class Timer(Protocol):
    """A call that may still be cancelled."""

    def cancel(self) -> None:
        """Make it not happen."""
        ...


CallLater = Callable[[float, Callable[[], None]], Timer]
"""`loop.call_later`, or a test's."""


@dataclass(slots=True, eq=False)
class WorkerStream:
    """One Report stream of one boot of a worker."""

    group: GroupSpec
    outbox: Outbox[WorkerItem]
    last_sequence: int
    is_draining: bool = False
    """The worker has said that it takes nothing new."""
    highest_dispatch_seq: int = 0
    """Of the batches given to this boot since it joined."""
    num_gaps: int = 0
    num_nonsense: int = 0
    """Reports dropped since the last one that made sense."""
    grace: Timer | None = None
    """Running while the stream is broken and its worker may come back."""

    def drop_reason(self, worker_id: str, boot_id: str, sequence: int) -> str | None:
        """Why a report must not be used, None to use it (and remember its sequence)."""
        if worker_id != self.group.group_id:
            return "wrong_worker"
        if boot_id != self.group.boot_id:
            return "wrong_boot"
        if sequence <= self.last_sequence:
            return "stale_sequence"
        if sequence > self.last_sequence + 1:
            self.num_gaps += 1
        self.last_sequence = sequence
        return None

    def included(self, *, report_epoch: int, included_dispatch_seq: int, our_epoch: int) -> int:
        """What a report includes of our own dispatches (rule 6)."""
        if report_epoch != our_epoch or included_dispatch_seq > self.highest_dispatch_seq:
            return 0
        return included_dispatch_seq


@dataclass(slots=True, eq=False)
class GatewayStream:
    """One Place stream of a gateway."""

    gateway_id: str
    outbox: Outbox[GatewayItem]
    grace: Timer | None = None


class WorkerRegistry:
    """Workers connected, or gone for less than the grace."""

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        call_later: CallLater,
        grace_s: float = 1.0,
        outbox_limit: int = 100_000,
    ) -> None:
        self._emit = emit
        self._call_later = call_later
        self._grace_s = grace_s
        self._outbox_limit = outbox_limit
        self._streams: dict[str, WorkerStream] = {}
        self._log = structlog.get_logger("hortator.scheduler.registry")

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, worker_id: str) -> WorkerStream | None:
        """The newest stream of a worker that is not lost."""
        return self._streams.get(worker_id)

    def addresses(self) -> list[str]:
        """Of those that are not lost, in the order in which they came."""
        return [stream.group.address for stream in self._streams.values()]

    def tell_all(self, item: Heartbeat | Resignation) -> None:
        """Something that every worker should hear."""
        for stream in self._streams.values():
            stream.outbox.put(item)

    def forget_unsaid(self) -> None:
        """What was still to be said is not to be said any more, and dispatches count from 1 again."""
        for stream in self._streams.values():
            stream.outbox.forget(but=(Welcome,))
            stream.highest_dispatch_seq = 0

    def acknowledged_drains(self) -> frozenset[str]:
        """Workers that have said that they take nothing new."""
        return frozenset(worker_id for worker_id, stream in self._streams.items() if stream.is_draining)

    def connect(self, group: GroupSpec, *, sequence: int) -> WorkerStream:
        """A worker said hello: emit WorkerJoined, also for a boot that is known already."""
        stream = WorkerStream(group=group, outbox=Outbox(limit=self._outbox_limit), last_sequence=sequence)
        older = self._streams.get(group.group_id)
        self._streams[group.group_id] = stream
        if older is not None:
            _end_grace(older)
        if older is not None and older.group == group:
            stream.is_draining = older.is_draining
            stream.highest_dispatch_seq = older.highest_dispatch_seq
            stream.outbox.take_over(older.outbox)
            self._log.info("worker reconnected", worker_id=group.group_id, boot_id=group.boot_id)
            self._emit(WorkerJoined(group=group))  # reports may have been lost: its pass is over for us
            return stream
        if older is not None:
            older.outbox.close(CloseReason.REPLACED)
        self._log.info(
            "worker joined",
            worker_id=group.group_id,
            boot_id=group.boot_id,
            phase=group.phase.value,
            dp_size=group.dp_size,
            address=group.address,
        )
        self._emit(WorkerJoined(group=group))
        return stream

    def disconnect(self, stream: WorkerStream, *, has_left: bool) -> None:
        """The stream ended: the worker closed it (`has_left`) or it broke."""
        if self._streams.get(stream.group.group_id) is not stream:
            return
        if has_left or self._grace_s <= 0:
            self._lose(stream, "left" if has_left else "stream broke")
        else:
            stream.grace = self._call_later(self._grace_s, lambda: self._lose(stream, "stream broke"))

    def report_made_sense(self, stream: WorkerStream) -> None:
        """A report was used."""
        if stream.num_nonsense >= MAX_NONSENSE:
            self._log.info("worker makes sense again", worker_id=stream.group.group_id)
        stream.num_nonsense = 0

    def report_dropped(self, stream: WorkerStream, reason: str) -> None:
        """A report made no sense: emit ReportsRefused if it is one of several in a row."""
        stream.num_nonsense += 1
        if stream.num_nonsense == MAX_NONSENSE:
            group = stream.group
            self._log.warning(
                "worker talks nonsense", worker_id=group.group_id, boot_id=group.boot_id, reason=reason
            )
            self._emit(ReportsRefused(group_id=group.group_id))
        if stream.num_nonsense == MAX_NONSENSE_ON_STREAM:
            stream.outbox.close(CloseReason.NONSENSE)

    def declare_lost(self, worker_id: str, boot_id: str, reason: LostReason = LostReason.SILENT) -> None:
        """The core gave up on this boot: close its stream. It may come back with a hello."""
        stream = self._streams.get(worker_id)
        if stream is None or stream.group.boot_id != boot_id:
            return
        _end_grace(stream)
        del self._streams[worker_id]
        is_stalled = reason is LostReason.STALLED
        stream.outbox.close(CloseReason.STALLED if is_stalled else CloseReason.DECLARED_LOST)
        self._log.warning("worker declared lost", worker_id=worker_id, boot_id=boot_id, reason=reason.value)

    def close(self, reason: CloseReason) -> None:
        """End every stream; nothing is emitted any more."""
        for stream in self._streams.values():
            _end_grace(stream)
            stream.outbox.close(reason)
        self._streams.clear()

    def _lose(self, stream: WorkerStream, why: str) -> None:
        worker_id = stream.group.group_id
        if self._streams.get(worker_id) is not stream:
            return
        _end_grace(stream)
        del self._streams[worker_id]
        self._log.warning("worker lost", worker_id=worker_id, boot_id=stream.group.boot_id, why=why)
        self._emit(WorkerLost(group_id=worker_id))


class GatewayRegistry:
    """Gateways connected, or gone for less than the grace."""

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        call_later: CallLater,
        grace_s: float = 1.0,
        outbox_limit: int = 100_000,
    ) -> None:
        self._emit = emit
        self._call_later = call_later
        self._grace_s = grace_s
        self._outbox_limit = outbox_limit
        self._streams: dict[str, GatewayStream] = {}
        self._log = structlog.get_logger("hortator.scheduler.registry")

    def __len__(self) -> int:
        return len(self._streams)

    def connect(self, gateway_id: str) -> GatewayStream:
        """A gateway said hello."""
        outbox: Outbox[GatewayItem] = Outbox(
            limit=self._outbox_limit, keep_taken=KEEP_FOR_GATEWAY, passing=(Heartbeat, FleetView)
        )
        stream = GatewayStream(gateway_id=gateway_id, outbox=outbox)
        older = self._streams.get(gateway_id)
        self._streams[gateway_id] = stream
        if older is not None:
            _end_grace(older)
            stream.outbox.take_over(older.outbox)
        self._log.info("gateway connected", gateway_id=gateway_id, is_again=older is not None)
        return stream

    def get(self, gateway_id: str) -> GatewayStream | None:
        """The newest stream of a gateway that is not lost."""
        return self._streams.get(gateway_id)

    def tell_all(self, item: Heartbeat | FleetView | Resignation) -> None:
        """Something that every gateway should hear."""
        for stream in self._streams.values():
            stream.outbox.put(item)

    def forget_unsaid(self) -> None:
        """What was still to be said, or to be said again, is not to be said any more."""
        for stream in self._streams.values():
            stream.outbox.forget()

    def put(self, gateway_id: str, item: GatewayItem) -> None:
        """Tell a gateway something; nobody hears it if the gateway is gone."""
        stream = self._streams.get(gateway_id)
        if stream is not None:
            stream.outbox.put(item)

    def disconnect(self, stream: GatewayStream, *, has_left: bool) -> None:
        """The stream ended: the gateway closed it (`has_left`) or it broke."""
        if self._streams.get(stream.gateway_id) is not stream:
            return
        if has_left or self._grace_s <= 0:
            self._lose(stream, "left" if has_left else "stream broke")
        else:
            stream.grace = self._call_later(self._grace_s, lambda: self._lose(stream, "stream broke"))

    def close(self, reason: CloseReason) -> None:
        """End every stream; nothing is emitted any more."""
        for stream in self._streams.values():
            _end_grace(stream)
            stream.outbox.close(reason)
        self._streams.clear()

    def _lose(self, stream: GatewayStream, why: str) -> None:
        if self._streams.get(stream.gateway_id) is not stream:
            return
        _end_grace(stream)
        del self._streams[stream.gateway_id]
        self._log.info("gateway lost", gateway_id=stream.gateway_id, why=why)
        self._emit(GatewayLost(gateway_id=stream.gateway_id))


def event_loop_call_later(loop: asyncio.AbstractEventLoop) -> CallLater:
    """`loop.call_later` in the form that the registries want."""
    return loop.call_later


def _end_grace(stream: WorkerStream | GatewayStream) -> None:
    if stream.grace is not None:
        stream.grace.cancel()
        stream.grace = None
