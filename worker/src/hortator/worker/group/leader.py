"""The leader's shell: the assembly, the clock, and one outbox per member.

Everything but `run` and `dismiss` is synchronous and called on the event loop. What breaks the group comes
out of `run` as GroupBrokenError: the process must end then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, assert_never

import structlog

from hortator.worker.errors import GroupBrokenError
from hortator.worker.group.assembly import (
    Assembly,
    AssemblyCommand,
    AssemblyEvent,
    AssemblyState,
    Break,
    Dismiss,
    Drain,
    Heard,
    Joined,
    LeaderDrained,
    LeaderFailed,
    LeaderStarted,
    Leaving,
    LinkBroke,
    Refuse,
    SayComplete,
    SayHeartbeat,
    SayStarted,
    TimePassed,
    Welcome,
)
from hortator.worker.group.member import GroupLimits, Member
from hortator.worker.group.membership import EXIT_GROUP_BROKEN

DISMISS_TIMEOUT_S = 2.0
"""How long the leader waits for dismissed members to close their links."""

Outbox = asyncio.Queue[AssemblyCommand]


class Launch(Protocol):
    """Starts ranks in the pods of members, where the engine needs that."""

    launch_key: str

    def may_join(self, member: Member) -> str:
        """Why not; empty: it may."""

    def proof_for(self, member: Member) -> bytes:
        """Goes with the key to a member."""


class GroupLeader:
    """Ordinal 0 of a group of several pods."""

    def __init__(
        self,
        leader: Member,
        limits: GroupLimits,
        *,
        request_drain: Callable[[str], None],
        launch: Launch | None = None,
    ) -> None:
        """Must be called in a running loop.

        Args:
            leader: this process.
            limits: how long anybody waits.
            request_drain: called with the reason when a member was told to stop.
            launch: what members are told to let in; None: nothing.
        """
        self.limits = limits
        self.launch = launch
        self._loop = asyncio.get_running_loop()
        self._assembly = Assembly(leader, limits, now=self._loop.time())
        self._request_drain = request_drain
        self._outboxes: dict[int, Outbox] = {}
        self._next_link = 0
        self._timer: asyncio.TimerHandle | None = None
        self._complete = asyncio.Event()
        self._broken: asyncio.Future[str] = self._loop.create_future()
        self._all_gone = asyncio.Event()
        self._log = structlog.get_logger("hortator.worker.group")
        self._carry_out(self._assembly.start())

    # --- for the process

    @property
    def num_members(self) -> int:
        """Members that are here, this process included."""
        return len(self._assembly.members)

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody who is here, by ordinal, this process first."""
        return self._assembly.members

    def waits_for(self) -> str:
        """Who is missing, for people; empty once complete. May be called from other threads."""
        missing = self._assembly.missing
        if not missing:
            return ""
        size = self._assembly.leader.place.group_size
        return f"members {', '.join(map(str, missing))} of {size} have not joined"

    async def run(self) -> None:
        """Until cancelled. Raises GroupBrokenError when the group is over."""
        message = await asyncio.shield(self._broken)
        raise GroupBrokenError(message, exit_code=EXIT_GROUP_BROKEN)

    async def wait_complete(self) -> None:
        """Return once every member has joined."""
        await self._complete.wait()

    async def dismiss(self) -> None:
        """The leader has drained: tell everybody, and give them a moment to go."""
        self._handle(LeaderDrained())
        if self._outboxes:
            try:
                async with asyncio.timeout(DISMISS_TIMEOUT_S):
                    await self._all_gone.wait()
            except TimeoutError:
                self._log.warning("members did not go", num_links=len(self._outboxes))

    def started(self) -> None:
        """The engine has started: members are ready."""
        self._handle(LeaderStarted())

    def fail(self, why: str) -> None:
        """The leader cannot go on: tell everybody why."""
        self._handle(LeaderFailed(why=why))

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- for the service

    def open_link(self, member: Member) -> tuple[int, Outbox]:
        """A member said hello; what it is to be told comes into the outbox."""
        self._next_link += 1
        link, outbox = self._next_link, Outbox()
        self._outboxes[link] = outbox
        self._all_gone.clear()
        self._log.info(
            "member says hello",
            ordinal=member.place.ordinal,
            epoch=member.place.epoch,
            boot_id=member.boot_id,
            pod=member.place.pod_name,
            node=member.place.node_name,
        )
        stranger = self.launch.may_join(member) if self.launch is not None else ""
        if stranger:
            self._carry_out([Refuse(link=link, message=stranger, try_again=False)])
        else:
            self._handle(Joined(link=link, member=member))
        return link, outbox

    def heard(self, link: int) -> None:
        """A member is here."""
        self._handle(Heard(link=link))

    def leaving(self, link: int) -> None:
        """A member was told to stop."""
        self._handle(Leaving(link=link))

    def link_broke(self, link: int, why: str) -> None:
        """The link is gone, whoever ended it."""
        if self._outboxes.pop(link, None) is not None:
            self._handle(LinkBroke(link=link, why=why))
        if not self._outboxes:
            self._all_gone.set()

    # --- inside

    def _handle(self, event: AssemblyEvent) -> None:
        self._carry_out(self._assembly.handle(event, self._loop.time()))

    def _carry_out(self, commands: list[AssemblyCommand]) -> None:
        for command in commands:
            match command:
                case Welcome(link=link) | Refuse(link=link):
                    self._tell((link,), command)
                case SayHeartbeat(links=links) | SayStarted(links=links):
                    self._tell(links, command)
                case SayComplete(links=links):
                    self._tell(links, command)
                    self._complete.set()
                case Drain(why=why):
                    self._request_drain(why)
                case Dismiss(links=links):
                    self._tell(links, command)
                case Break(links=links, message=message):
                    self._tell(links, command)
                    if not self._broken.done():
                        self._broken.set_result(message)
                case _:
                    assert_never(command)
        self._arm()

    def _tell(self, links: tuple[int, ...], command: AssemblyCommand) -> None:
        for link in links:
            outbox = self._outboxes.get(link)
            if outbox is not None:
                outbox.put_nowait(command)

    def _arm(self) -> None:
        wakeup = self._assembly.next_wakeup()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if wakeup is None else self._loop.call_at(wakeup, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._handle(TimePassed())

    @property
    def is_complete(self) -> bool:
        """Every member has joined and none was lost."""
        return self._assembly.state is AssemblyState.COMPLETE
