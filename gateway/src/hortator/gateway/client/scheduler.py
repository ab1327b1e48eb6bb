"""What is said to the scheduler that leads, and heard from it; the streams are `scheduler_link`'s.

Theory of operation:

- There is a stream to every scheduler, so that the one that leads next is known already. Which one leads is
  `LeaderFollower`'s to say: the one that spoke in the highest epoch. Only that one is obeyed.
- Whatever is to be said is put into one list; the writer of the leader's stream takes all there is and sends
  it as one PlaceRequest. Under load messages grow by themselves; idle, an event leaves in the same loop turn.
- Names among the addresses are looked up all the time (`Endpoints`).
- A leader that is new to us knows nothing. The owner is asked (`scheduler_connected`) to announce again what
  wants a placement, so announcements are not kept while nobody is there. Everything else is kept and sent
  again: a scheduler ignores what it knows already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from hortator.gateway import codec
from hortator.gateway.absence import LeaderAbsence
from hortator.gateway.client.scheduler_link import SchedulerLink
from hortator.gateway.fleet_view import FleetView
from hortator.gateway.placement import NO_CLAIM, Claim, Placement, Rejection, Retraction
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.leader_follower import DEFAULT_TIMEOUT_S, LeaderFollower
from hortator.runtime.leader_watch import LeaderSeen
from hortator.runtime.transport import Plaintext, Transport

MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
MAX_LAZY_S = 0.01
"""Events that nobody waits for may be said this much later, together: every message costs both sides."""
MAX_EVENTS_PER_MESSAGE = 256
MAX_KEPT_EVENTS = 100_000


class SchedulerEvents(Protocol):
    """Who wants to know what the scheduler says. Called in the event loop; must not block."""

    def scheduler_connected(self) -> None:
        """A leader is there that knows nothing of us: announce again what waits."""
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

    def fleet_viewed(self, view: FleetView) -> None:
        """The leader tells of the workers."""
        ...

    def left_alone(self) -> None:
        """There has been no leader for so long that requests are to be placed here."""
        ...

    def leader_back(self) -> None:
        """There is a leader again, who places; what waits was announced to it, or will be."""
        ...


class SchedulerClient:
    """Keeps a Place stream to each scheduler. `run` does the work; the rest only takes notes."""

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        gateway_id: str,
        events: SchedulerEvents,
        transport: Transport | None = None,
        leader_timeout_s: float = DEFAULT_TIMEOUT_S,
        alone_after_s: float = 0.0,
        min_backoff_s: float = MIN_BACKOFF_S,
        max_backoff_s: float = MAX_BACKOFF_S,
    ) -> None:
        """Nothing happens before `run`. Must be called in a running loop.

        Args:
            endpoints: of every scheduler.
            gateway_id: unique per process.
            events: told what the leader says.
            transport: how to connect; in the clear by default.
            leader_timeout_s: a leader that has been silent for so long is away.
            alone_after_s: without a leader for so long, `events` are told (see `LeaderAbsence`); 0: never.
            min_backoff_s: shortest pause before a stream that ended is opened again.
            max_backoff_s: longest pause.
        """
        self._endpoints = endpoints
        self._transport = transport or Plaintext()
        self._gateway_id = gateway_id
        self._events = events
        self._min_backoff_s = min_backoff_s
        self._max_backoff_s = max_backoff_s
        self._links: dict[str, SchedulerLink] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._follower = LeaderFollower(timeout_s=leader_timeout_s, on_change=self._leader_changed)
        self._followed: tuple[str | None, int] = (None, 0)
        self._absence = LeaderAbsence(after_s=alone_after_s)
        self._absence_timer: asyncio.TimerHandle | None = None
        self._pending: list[scheduling_pb2.GatewayEvent] = []
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("hortator.gateway.client.scheduler")
        self._task: asyncio.Task[object] | None = None
        self._is_closing = False
        self.disconnected_at: float | None = None
        """Loop time since when there has been no leader; None while there is one, or before `run`."""
        self.num_connects = 0
        """Leaders found, the same one again included."""

    @property
    def is_connected(self) -> bool:
        """A leader is there."""
        return self._follower.leader is not None

    @property
    def epoch(self) -> int:
        """Newest leadership epoch heard of."""
        return self._follower.epoch

    @property
    def seen(self) -> LeaderSeen:
        """What is seen of the leader."""
        return self._follower.seen

    async def run(self) -> None:
        """Keep the streams up until `close`."""
        self._task = asyncio.current_task()
        self.disconnected_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._endpoints.on_change(self._dial_all)
                self._dial_all()
                tasks.create_task(self._endpoints.run())
                await asyncio.Event().wait()
        finally:
            self._tasks = None
            self._follower.close()
            if self._absence_timer is not None:
                self._absence_timer.cancel()

    def close(self) -> None:
        """End `run`."""
        self._is_closing = True
        for link in self._links.values():
            link.close()
        if self._task is not None:
            self._task.cancel()

    def _dial_all(self) -> None:
        """One link to each address that there is now."""
        current = self._endpoints.current
        for address, link in self._links.items():
            if address not in current:
                link.retire()
        for address in current:
            known = self._links.get(address)
            if (known is None or not known.recall()) and self._tasks is not None and not self._is_closing:
                link = self._links[address] = SchedulerLink(
                    address,
                    self,
                    gateway_id=self._gateway_id,
                    transport=self._transport,
                    min_backoff_s=self._min_backoff_s,
                    max_backoff_s=self._max_backoff_s,
                )
                self._tasks.create_task(self._keep(link))

    async def _keep(self, link: SchedulerLink) -> None:
        await link.run()
        if self._links.get(link.address) is link:
            del self._links[link.address]

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
        age_s: float = 0.0,
        tokenizer: bytes = b"",
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
            age_s=age_s,
            tokenizer=tokenizer,
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
        tokenizer: bytes = b"",
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
            tokenizer=tokenizer,
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
            self._wake()
        elif self._lazy_timer is None:
            self._lazy_timer = asyncio.get_running_loop().call_later(MAX_LAZY_S, self._say_lazy)

    def _say_lazy(self) -> None:
        self._lazy_timer = None
        self._wake()

    def _wake(self) -> None:
        link = self._links.get(self._follower.leader or "")
        if link is not None:
            link.wake()

    # --- the streams ----------------------------------------------------------------------------------

    def take(self, address: str) -> list[scheduling_pb2.GatewayEvent]:
        """What the scheduler there is to be told now; nothing unless it leads."""
        if address != self._follower.leader:
            return []
        events = self._pending[:MAX_EVENTS_PER_MESSAGE]
        del self._pending[: len(events)]
        if len(events) == MAX_EVENTS_PER_MESSAGE:
            self._wake()  # there may be more that is urgent
        return events

    def put_back(self, events: Sequence[scheduling_pb2.GatewayEvent]) -> None:
        """These were taken and not sent."""
        self._pending[:0] = _kept(events)

    def heard(self, address: str, response: scheduling_pb2.PlaceResponse) -> None:
        """A scheduler said something; it is obeyed if it leads."""
        epoch = response.epoch
        if not self._follower.spoke(address, epoch):
            if epoch:
                self._events.placement_was_stale()
                self._log.warning("ignored a former leader", epoch=epoch, newest_epoch=self.epoch)
            return
        self._is_there()
        if response.HasField("fleet_view"):
            view = codec.fleet_view(response.fleet_view)
            self._absence.speaks_every(view.heartbeat_s)
            self._events.fleet_viewed(view)
        for rejection in response.rejections:
            self._events.rejected(codec.rejection(rejection))
        for retraction in response.retractions:
            self._events.retracted(codec.retraction(retraction))
        for message in response.placements:
            placement = codec.placement(message, epoch)
            if placement is not None:
                self._events.placed(placement)
        if response.resigned:
            self._follower.lost(address)

    def lost(self, address: str) -> None:
        """A scheduler's stream is over."""
        self._follower.lost(address)

    def _leader_changed(self) -> None:
        """Tell every scheduler what is seen; a leader that is new is told everything."""
        leader, epoch = self._follower.leader, self._follower.epoch
        if leader is None:
            self._absence.lost(asyncio.get_running_loop().time())
            self._watch_absence()
        else:
            self._is_there()
        for link in self._links.values():
            link.wake()
        if (leader, epoch) == self._followed:
            return
        if epoch != self._followed[1]:
            self._absence.speaks_every(0.0)  # that was another leader's word
        self._followed = (leader, epoch)
        self._pending = _kept(self._pending)
        if leader is None:
            self._log.warning("lost the leader", epoch=epoch)
            if self.disconnected_at is None:
                self.disconnected_at = asyncio.get_running_loop().time()
            return
        self._log.info("follows a leader", address=leader, epoch=epoch)
        self.disconnected_at = None
        self.num_connects += 1
        self._events.scheduler_connected()

    def _is_there(self) -> None:
        """A leader spoke."""
        if self._absence.heard(asyncio.get_running_loop().time()):
            self._events.leader_back()
        if self._absence_timer is None:
            self._watch_absence()

    def _watch_absence(self) -> None:
        """One timer, moved on only when it fires or the leader is lost: a leader speaks often."""
        due_at = self._absence.next_look_at()
        if self._absence_timer is not None:
            self._absence_timer.cancel()
        loop = asyncio.get_running_loop()
        self._absence_timer = None if due_at is None else loop.call_at(due_at, self._look_for_absence)

    def _look_for_absence(self) -> None:
        self._absence_timer = None
        if self._absence.look(asyncio.get_running_loop().time()):
            self._events.left_alone()
        self._watch_absence()


_SAID_AGAIN = frozenset({"announcement", "prefill_finished"})


def _kept(events: Sequence[scheduling_pb2.GatewayEvent]) -> list[scheduling_pb2.GatewayEvent]:
    """What is not said again to a leader that is new."""
    return [event for event in events if event.WhichOneof("event") not in _SAID_AGAIN]
