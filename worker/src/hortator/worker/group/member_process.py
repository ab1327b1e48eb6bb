"""A process that holds a member's place: no engine, one link to the leader, its own admin port.

It is ready once the engine of the group has started, with the ranks in this pod. It ends when the leader says
so, when the link breaks, or when it is refused (see `membership` for the exit codes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

import structlog

from hortator.runtime.lifecycle import Drain
from hortator.runtime.transport import Plaintext, Transport
from hortator.worker.group.client import LeaderLink
from hortator.worker.group.member import GroupLimits, Member
from hortator.worker.group.membership import (
    Completed,
    DialAgain,
    End,
    EngineStarted,
    Membership,
    MembershipEvent,
    MembershipState,
    SendHeartbeat,
    SendLeaving,
    StopRequested,
    TimePassed,
    Welcomed,
)
from hortator.worker.startup import Startup, StartupPhase


class MemberProcess:
    """Runs one membership in the running event loop."""

    def __init__(
        self,
        member: Member,
        limits: GroupLimits,
        *,
        leader_address: str,
        startup: Startup,
        transport: Transport | None = None,
        on_welcome: Callable[[Welcomed], None] = lambda _: None,
    ) -> None:
        self._member = member
        self._on_welcome = on_welcome
        self._leader_address = leader_address
        self._startup = startup
        self._transport = transport or Plaintext()
        self._loop = asyncio.get_running_loop()
        self._membership = Membership(limits, leader_address=leader_address, now=self._loop.time())
        self._link: LeaderLink | None = None
        self._dials: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[End] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._dial_timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("hortator.worker.group")
        startup.waiting_for = self._waits_for

    async def run(self, drain: Drain) -> End:
        """Hold the place until the end; how it ended."""
        stopping = asyncio.ensure_future(drain.wait())
        stopping.add_done_callback(self._on_stop)
        self._dial()
        self._arm()
        try:
            return await self._ended
        finally:
            stopping.cancel()
            for timer in (self._timer, self._dial_timer):
                if timer is not None:
                    timer.cancel()
            for task in self._dials:
                task.cancel()
            await asyncio.gather(stopping, *self._dials, return_exceptions=True)

    def _dial(self) -> None:
        self._link = LeaderLink(self._leader_address, self._member, self._handle, transport=self._transport)
        task = asyncio.ensure_future(self._link.run())
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    def _on_stop(self, stopping: asyncio.Future[None]) -> None:
        if not stopping.cancelled():
            self._startup.is_draining = True
            self._handle(StopRequested())

    def _handle(self, event: MembershipEvent) -> None:
        match event:
            case Welcomed():
                self._log.info(
                    "joined the group",
                    leader=self._leader_address,
                    ordinal=self._member.place.ordinal,
                    epoch=self._member.place.epoch,
                    boot_id=self._member.boot_id,
                )
                self._on_welcome(event)
            case EngineStarted():
                self._startup.reached(StartupPhase.ENGINE_STARTED)
                self._log.info("the engine has started")
            case Completed():
                self._startup.reached(StartupPhase.MEMBERS_JOINED)
                self._log.info("the group is complete")
            case _:
                pass
        for command in self._membership.handle(event, self._loop.time()):
            match command:
                case DialAgain(after_s=after_s):
                    self._log.info(
                        "not joined", leader=self._leader_address, why=self._membership.last_failure
                    )
                    self._dial_timer = self._loop.call_later(after_s, self._dial)
                case SendHeartbeat():
                    if self._link is not None:
                        self._link.send_heartbeat()
                case SendLeaving():
                    if self._link is not None:
                        self._link.send_leaving()
                case End():
                    if not self._ended.done():
                        self._ended.set_result(command)
                case _:
                    assert_never(command)
        self._arm()

    def _arm(self) -> None:
        wakeup = self._membership.next_wakeup()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if wakeup is None else self._loop.call_at(wakeup, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._handle(TimePassed())

    def _waits_for(self) -> str:
        """For /readyz; may be called from other threads."""
        if self._membership.state is MembershipState.DIALLING:
            because = f": {self._membership.last_failure}" if self._membership.last_failure else ""
            return f"the leader at {self._leader_address} has not taken this member{because}"
        return "other members have not joined" if self._membership.state is MembershipState.JOINED else ""
