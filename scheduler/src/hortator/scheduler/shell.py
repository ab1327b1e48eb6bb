"""The shell: one place where events meet the clock and commands meet the streams. Knows asyncio, not gRPC.

- `loop.time()` is the only clock; it never goes back for the machine.
- Everything runs in the loop's thread and nothing here waits: an event is handled, and its commands are in
  the outboxes, before the next one is looked at.
- One timer handle follows `next_wakeup()`. It is moved only to come earlier; one that comes too early looks
  again and goes back to sleep. That saves a cancel and a heap push for nearly every event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import assert_never

import structlog

from hortator.scheduler.core.commands import Abort, Attach, Command, DeclareLost, Dispatch, Probe, Reject
from hortator.scheduler.core.events import (
    AdmissionStopped,
    Event,
    LeaderChanged,
    PolicyChanged,
    TimerFired,
    WorkerDraining,
    WorkerLost,
)
from hortator.scheduler.core.leadership import Lead, Leadership, StepDown
from hortator.scheduler.core.model import AbortReason, Batch
from hortator.scheduler.core.snapshot import SchedulerSnapshot
from hortator.scheduler.driver import Driver, Tally
from hortator.scheduler.errors import CloseReason, NotLeaderError
from hortator.scheduler.metrics import SchedulerMetrics
from hortator.scheduler.registry import (
    AttachNotice,
    DrainOrder,
    FleetView,
    GatewayRegistry,
    GatewayStream,
    Heartbeat,
    PlacementNotice,
    Resignation,
    WorkerRegistry,
    WorkerStream,
    event_loop_call_later,
)

REFRESH_INTERVAL_S = 1.0
MIN_TIMER_DELAY_S = 0.000_5
GATEWAY_BEATS = 3
"""A gateway hears a leader so many times as often as a worker does: it may have to do without."""
FLEET_DELAY_S = 0.05
"""Workers that come and go are told to gateways this much later, together."""
DRAIN_POLL_S = 0.02

_LEAVING = (WorkerLost, WorkerDraining)
_UNTOLD = frozenset({AbortReason.CANCELLED, AbortReason.GATEWAY_LOST, AbortReason.SUPERSEDED})
"""The gateway asked for it, or is not there to hear it."""


class Shell:
    """Runs one driver in the running event loop."""

    def __init__(
        self,
        driver: Driver,
        *,
        leadership: Leadership,
        metrics: SchedulerMetrics,
        leader_heartbeat_s: float = 0.5,
        worker_grace_s: float = 1.0,
        gateway_grace_s: float = 1.0,
        outbox_limit: int = 100_000,
    ) -> None:
        """Must be called in a running loop. `start` begins the regular refresh of the gauges."""
        self._driver = driver
        self._leadership = leadership
        self._gateway_beat_s = leader_heartbeat_s / GATEWAY_BEATS
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        self._fleet_timer: asyncio.TimerHandle | None = None
        self._refreshed_at = self._now
        self._is_closed = False
        self._log = structlog.get_logger("hortator.scheduler.shell")
        call_later = event_loop_call_later(self._loop)
        self.workers = WorkerRegistry(
            self.handle, call_later=call_later, grace_s=worker_grace_s, outbox_limit=outbox_limit
        )
        self.gateways = GatewayRegistry(
            self.handle, call_later=call_later, grace_s=gateway_grace_s, outbox_limit=outbox_limit
        )

    @property
    def epoch(self) -> int:
        """The leadership epoch that commands carry; 0: a standby."""
        return self._leadership.epoch

    @property
    def is_leader(self) -> bool:
        """Whether this scheduler places."""
        return self._leadership.is_leader

    @property
    def policy(self) -> str:
        """The policy in force."""
        return self._driver.policy

    @property
    def tally(self) -> Tally:
        """Recent placements, rejections and finished requests."""
        return self._driver.tally

    @property
    def metrics(self) -> SchedulerMetrics:
        """Where dropped messages are counted."""
        return self._metrics

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""
        return self._is_closed

    def now(self) -> float:
        """Seconds of the loop's clock; never less than any event's time so far."""
        self._now = max(self._now, self._loop.time())
        return self._now

    def handle(self, event: Event) -> None:
        """Take one event now, and put its commands where they go."""
        self.handle_all((event,))

    def handle_all(self, events: Iterable[Event]) -> None:
        """Take several events now, one after the other, and look at the timer once."""
        if self._is_closed:
            return
        now = self.now()
        for event in events:
            for command in self._driver.handle(event, now):
                self._carry_out(command)
            if isinstance(event, _LEAVING):
                self.tell_fleet()
        self._arm(0.0)

    def snapshot(self) -> SchedulerSnapshot:
        """The machine as it is now."""
        return self._driver.snapshot(self.now())

    def start(self) -> None:
        """Begin to refresh the gauges, and to say that we lead if we do."""
        self._refresh()
        self._beat()

    def is_alive(self, *, within_s: float = 10.0) -> bool:
        """Whether the loop has run lately. May be called from other threads."""
        return self._loop.time() - self._refreshed_at < within_s

    def change_policy(self, policy: str) -> str:
        """Switch; returns the previous policy. The caller has checked the name."""
        previous = self.policy
        self.handle(PolicyChanged(policy=policy))
        self._log.info("policy changed", previous=previous, policy=policy)
        return previous

    async def drain_worker(self, worker_id: str, *, timeout_s: float) -> int:
        """Stop placements on a worker, tell it, and wait until it has acknowledged and nothing is in flight.

        Returns:
            Requests still in flight there: 0 once drained (a worker that left is drained), else what the
            timeout left behind, at least 1 if only the acknowledgement is missing.

        Raises:
            KeyError: no such worker.
            NotLeaderError: this is a standby, or became one: it does not know what is in flight.
        """
        if not self.is_leader:
            raise NotLeaderError
        stream = self.workers.get(worker_id)
        if stream is None:
            raise KeyError(worker_id)
        self._log.info("worker drains", worker_id=worker_id, timeout_s=timeout_s)
        self.handle(WorkerDraining(group_id=worker_id))
        stream.outbox.put(DrainOrder())
        ends_at = self.now() + timeout_s
        while True:
            current = self.workers.get(worker_id)
            if not self.is_leader:
                raise NotLeaderError
            if current is None or current.group.boot_id != stream.group.boot_id:
                return 0
            num_in_flight = self._num_in_flight(worker_id)
            if num_in_flight == 0 and current.is_draining:
                return 0
            if self.now() >= ends_at:
                return max(num_in_flight, 1)
            await asyncio.sleep(min(DRAIN_POLL_S, max(ends_at - self.now(), 0.001)))

    async def drain(self, *, timeout_s: float) -> bool:
        """Refuse arrivals and wait until nothing waits for a placement; False if the timeout came first."""
        self.handle(AdmissionStopped())
        ends_at = self.now() + timeout_s
        while True:
            snapshot = self.snapshot()
            num_waiting = snapshot.num_waiting + snapshot.num_waiting_decode
            if num_waiting == 0:
                return True
            if self.now() >= ends_at:
                self._log.warning("drain timed out", num_waiting=num_waiting)
                return False
            await asyncio.sleep(DRAIN_POLL_S)

    async def hand_over(self, *, timeout_s: float) -> bool:
        """Lead no more, and wait until another scheduler does; False if none did in time."""
        change = self._leadership.resign()
        if change is None:
            return True
        epoch = self._leadership.newest_epoch
        self._step_down(change)
        for registry in (self.gateways, self.workers):
            registry.tell_all(Resignation(epoch))
        self._log.info("resigned", epoch=epoch)
        ends_at = self.now() + timeout_s
        while self._leadership.newest_epoch <= epoch:
            if not self._leadership.num_witnesses or self.now() >= ends_at:
                return False
            await asyncio.sleep(DRAIN_POLL_S)
        return True

    def close(self) -> None:
        """Stop the timers and end every stream. Later events are ignored."""
        self._is_closed = True
        for timer in (
            self._timer,
            self._refresh_timer,
            self._look_timer,
            self._heartbeat_timer,
            self._fleet_timer,
        ):
            if timer is not None:
                timer.cancel()
        self._timer = self._refresh_timer = self._look_timer = None
        self._heartbeat_timer = self._fleet_timer = None
        self.workers.close(CloseReason.STOPPED)
        self.gateways.close(CloseReason.STOPPED)

    # -- who leads --------------------------------------------------------------------------------------

    def saw_leader(self, witness: str, *, epoch: int, is_there: bool) -> None:
        """A worker or gateway says what it knows of the leader."""
        self._leadership.saw(witness, epoch=epoch, is_there=is_there, now=self.now())
        self._look()

    def disconnect_worker(self, stream: WorkerStream, *, has_left: bool) -> None:
        """A worker's stream ended: the worker closed it (`has_left`) or it broke."""
        if self.workers.get(stream.group.group_id) in {stream, None}:
            self._leadership.lost(worker_witness(stream), self.now())
            self._look()
        self.workers.disconnect(stream, has_left=has_left)

    def disconnect_gateway(self, stream: GatewayStream, *, has_left: bool) -> None:
        """A gateway's stream ended: the gateway closed it (`has_left`) or it broke."""
        if self.gateways.get(stream.gateway_id) in {stream, None}:
            self._leadership.lost(gateway_witness(stream), self.now())
            self._look()
        self.gateways.disconnect(stream, has_left=has_left)

    def _look(self) -> None:
        if self._is_closed:
            return
        now = self.now()
        since = self._leadership.unled_since()
        match self._leadership.look(now, wall_ms=time.time_ns() // 1_000_000):
            case Lead(epoch):
                unled_s = now - since if since is not None else 0.0
                self._log.info("leads", epoch=epoch, unled_s=round(unled_s, 3))
                self._metrics.observe_lead(unled_s=unled_s)
                self.handle(LeaderChanged(epoch=epoch))
                self._beat()
            case StepDown() as change:
                self._step_down(change)
            case None:
                pass
        self._arm_look()

    def _step_down(self, change: StepDown) -> None:
        self._log.info("is a standby", newer_epoch=change.newer_epoch)
        self._metrics.observe_step_down()
        for registry in (self.gateways, self.workers):
            registry.forget_unsaid()
        self.handle(LeaderChanged(epoch=0))

    def _arm_look(self) -> None:
        at = self._leadership.next_look_at()
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._look_timer = None if at is None else self._loop.call_at(at, self._on_look_due, at)

    def _on_look_due(self, due_at: float) -> None:
        self._look_timer = None
        self._now = max(self._now, due_at)
        self._look()

    def _beat(self, number: int = 0) -> None:
        """Say that we lead, now and regularly, as long as we do."""
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
            self._heartbeat_timer = None
        if self.is_leader:
            self.gateways.tell_all(Heartbeat())
            if number % GATEWAY_BEATS == 0:
                self.workers.tell_all(Heartbeat())
            self._heartbeat_timer = self._loop.call_later(self._gateway_beat_s, self._beat, number + 1)

    # -- what gateways know of workers, should nobody lead ------------------------------------------------

    def tell_fleet(self) -> None:
        """Tell every gateway soon what workers there are; told again and again in any case."""
        if self._fleet_timer is None and not self._is_closed:
            self._fleet_timer = self._loop.call_later(FLEET_DELAY_S, self._tell_fleet_due)

    def _tell_fleet_due(self) -> None:
        self._fleet_timer = None
        self._tell_fleet(self.snapshot())

    def _tell_fleet(self, snapshot: SchedulerSnapshot) -> None:
        if not self.is_leader or not len(self.gateways):
            return
        groups = tuple(group for group in snapshot.groups if group.is_placeable)
        if not groups:
            return  # a new leader has heard of none yet: what the last one told is better
        view = FleetView(groups, num_gateways=len(self.gateways), heartbeat_s=self._gateway_beat_s)
        self.gateways.tell_all(view)

    # -- commands ---------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        match command:
            case Dispatch():
                self._dispatch(command.batch)
            case Reject():
                self.gateways.put(command.gateway_id, command)
            case Abort():
                worker = self.workers.get(command.group_id)
                if worker is not None:
                    worker.outbox.put(command)
                if command.reason not in _UNTOLD:
                    self.gateways.put(command.gateway_id, command)
            case Attach():
                worker = self.workers.get(command.group_id)
                if worker is not None:
                    self.gateways.put(command.gateway_id, AttachNotice(command, worker.group))
            case Probe():
                worker = self.workers.get(command.group_id)
                if worker is not None:
                    worker.outbox.put(command)
            case DeclareLost():
                worker = self.workers.get(command.group_id)
                if worker is not None:
                    self._leadership.lost(worker_witness(worker), self.now())
                self.workers.declare_lost(command.group_id, command.boot_id, command.reason)
                self.tell_fleet()
            case _:
                assert_never(command)

    def _dispatch(self, batch: Batch) -> None:
        worker = self.workers.get(batch.group_id)
        if worker is None:
            self._log.error(
                "dispatch to an unknown worker", worker_id=batch.group_id, batch_id=batch.batch_id
            )
            return
        worker.highest_dispatch_seq = batch.dispatch_seq
        group = worker.group
        for placement in batch.placements:  # before the manifest: theirs is the longer way to the worker
            self.gateways.put(placement.gateway_id, PlacementNotice(batch, placement, group))
        worker.outbox.put(batch)

    def _arm(self, min_delay_s: float) -> None:
        wakeup = self._driver.next_wakeup()
        if wakeup is None:
            return
        if min_delay_s:
            wakeup = max(wakeup, self._now + min_delay_s)
        timer = self._timer
        if timer is not None:
            if timer.when() <= wakeup:
                return
            timer.cancel()
        self._timer = self._loop.call_at(wakeup, self._on_timer, wakeup)

    def _on_timer(self, due_at: float) -> None:
        self._timer = None
        self._now = max(self._now, due_at)  # the loop may call a clock tick early
        wakeup = self._driver.next_wakeup()
        if wakeup is None:
            return
        if wakeup <= self.now():
            for command in self._driver.handle(TimerFired(), self._now):
                self._carry_out(command)
            self._arm(MIN_TIMER_DELAY_S)  # a wakeup that stays in the past must not spin
        else:
            self._arm(0.0)

    def _refresh(self) -> None:
        self._refresh_timer = self._loop.call_later(REFRESH_INTERVAL_S, self._refresh)
        snapshot = self.snapshot()
        self._metrics.refresh(snapshot, num_gateways=len(self.gateways))
        self._metrics.refresh_leadership(self._leadership)
        self._refreshed_at = self._loop.time()
        self._tell_fleet(snapshot)

    def _num_in_flight(self, worker_id: str) -> int:
        for group in self.snapshot().groups:
            if group.spec.group_id == worker_id:
                return group.num_in_flight
        return 0


def worker_witness(stream: WorkerStream) -> str:
    """What the leadership calls a worker."""
    return f"worker {stream.group.group_id}"


def gateway_witness(stream: GatewayStream) -> str:
    """What the leadership calls a gateway."""
    return f"gateway {stream.gateway_id}"
