"""The leader's side of a group, without a wire: events in, commands out, time is an argument.

    assembling --everybody has joined--> complete --the leader has drained--> dismissed
         |                                  |
         +------- something is wrong -------+--> broken: tell all that are left, end the process

Rules:

1. An ordinal joins an epoch once. A second boot of it is refused and breaks the group: what the first boot
   had is gone, and only a new epoch makes a whole group again.
2. Only members of this epoch, group, incarnation and size are taken. One of another incarnation is refused
   whatever its epoch, and nothing else happens: epochs of two incarnations say nothing of each other. One of
   an older epoch is refused for good, and nothing else happens: it is a leftover. One of a newer epoch shows
   that the leader is the leftover: the leader ends, and the member may dial again.
3. A member whose link breaks, or that is silent for the heartbeat timeout, breaks the group, complete or not.
4. A member that was told to stop stays: the leader drains and dismisses everybody. If it goes before, rule 3.
5. Not complete within the start-up timeout: broken, and the missing ordinals are named.
6. Silence is counted only while the leader itself runs: after a pause of its own, everybody gets the timeout
   anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from hortator.worker.group.member import GroupLimits, GroupPlace, Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A member said hello on a link of its own."""

    link: int
    member: Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Anything else came on a link."""

    link: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A member was told to stop."""

    link: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBroke:
    """A link is gone."""

    link: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderStarted:
    """The leader's engine has started, with all its ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderDrained:
    """The leader has nothing in flight any more and ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderFailed:
    """The leader cannot go on, for a reason outside the group: its engine died."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """`next_wakeup` has come."""


AssemblyEvent = (
    Joined | Heard | Leaving | LinkBroke | LeaderStarted | LeaderDrained | LeaderFailed | TimePassed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Take a member."""

    link: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Do not take a process; `try_again`: it is right to dial again."""

    link: int
    message: str
    try_again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SayComplete:
    """Tell members that everybody is here."""

    links: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SayStarted:
    """Tell members that the engine has started: they are ready."""

    links: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SayHeartbeat:
    """Tell members that the leader is here."""

    links: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Finish what is in flight, then say LeaderDrained."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dismiss:
    """Tell members to end in order."""

    links: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Tell members that the group is over, and end with an error. After it there are only refusals."""

    links: tuple[int, ...]
    message: str


AssemblyCommand = Welcome | Refuse | SayComplete | SayStarted | SayHeartbeat | Drain | Dismiss | Break


class AssemblyState(Enum):
    """Where the group stands."""

    ASSEMBLING = "assembling"
    COMPLETE = "complete"
    DISMISSED = "dismissed"
    BROKEN = "broken"


@dataclass(slots=True, kw_only=True)
class _Seat:
    member: Member
    heard_at: float
    is_leaving: bool = False


class Assembly:
    """See the module docstring. One per boot of a leader."""

    def __init__(self, leader: Member, limits: GroupLimits, *, now: float) -> None:
        """The time that members have begins at `now`."""
        self.leader = leader
        self._limits = limits
        self._deadline_at = now + limits.startup_timeout_s
        self._next_beat_at = now + limits.heartbeat_interval_s
        self._looked_at = now
        self._seats: dict[int, _Seat] = {}
        """By link; members that are connected."""
        self._boots: dict[int, str] = {leader.place.ordinal: leader.boot_id}
        """By ordinal; every boot that ever joined this epoch."""
        self.state = AssemblyState.ASSEMBLING

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody who is here, by ordinal, the leader first."""
        others = sorted((seat.member for seat in self._seats.values()), key=lambda one: one.place.ordinal)
        return (self.leader, *others)

    @property
    def missing(self) -> tuple[int, ...]:
        """Ordinals that have not joined."""
        return tuple(ordinal for ordinal in range(self.leader.place.group_size) if ordinal not in self._boots)

    @property
    def links(self) -> tuple[int, ...]:
        """Links of members that are here."""
        return tuple(self._seats)

    @property
    def is_over(self) -> bool:
        """Nobody is taken any more."""
        return self.state in {AssemblyState.DISMISSED, AssemblyState.BROKEN}

    def start(self) -> list[AssemblyCommand]:
        """The first commands: a group of one is complete at once."""
        return self._complete_if_all_here()

    def next_wakeup(self) -> float | None:
        """When `TimePassed` must be said; None: never."""
        if self.is_over:
            return None
        times = [self._next_beat_at, *(self._silent_at(seat) for seat in self._seats.values())]
        if self.state is AssemblyState.ASSEMBLING:
            times.append(self._deadline_at)
        return min(times)

    def handle(self, event: AssemblyEvent, now: float) -> list[AssemblyCommand]:
        """Take one event; what is to be done now, in order."""
        self._forgive_pause(now)
        match event:
            case Joined():
                return self._join(event, now)
            case Heard(link=link):
                if link in self._seats:
                    self._seats[link].heard_at = now
                return []
            case Leaving(link=link):
                return self._leave(link, now)
            case LinkBroke(link=link, why=why):
                return self._lose(link, why)
            case LeaderStarted():
                return [] if self.is_over else [SayStarted(links=self.links)]
            case LeaderDrained():
                return self._dismiss()
            case LeaderFailed(why=why):
                return self._break(why)
            case TimePassed():
                return self._on_time(now)
            case _:
                assert_never(event)

    def _join(self, event: Joined, now: float) -> list[AssemblyCommand]:
        theirs, ours = event.member.place, self.leader.place
        wrong = _wrong_group(theirs, ours)
        if wrong or self.is_over:
            return [Refuse(link=event.link, message=wrong or "this group has ended", try_again=True)]
        if theirs.epoch < ours.epoch:
            message = f"epoch {theirs.epoch} is over: this group is in epoch {ours.epoch}"
            return [Refuse(link=event.link, message=message, try_again=False)]
        if theirs.epoch > ours.epoch:
            message = f"{event.member} is of epoch {theirs.epoch}, this leader of epoch {ours.epoch}"
            return [Refuse(link=event.link, message=message, try_again=True), *self._break(message)]
        first_boot = self._boots.get(theirs.ordinal)
        if first_boot is not None:
            message = f"{event.member}: epoch {ours.epoch} was joined by boot {first_boot} already"
            refusal = Refuse(link=event.link, message=message, try_again=False)
            return [refusal, *self._break(message)]
        self._boots[theirs.ordinal] = event.member.boot_id
        self._seats[event.link] = _Seat(member=event.member, heard_at=now)
        return [Welcome(link=event.link), *self._complete_if_all_here()]

    def _complete_if_all_here(self) -> list[AssemblyCommand]:
        if self.state is not AssemblyState.ASSEMBLING or self.missing:
            return []
        self.state = AssemblyState.COMPLETE
        return [SayComplete(links=self.links)]

    def _leave(self, link: int, now: float) -> list[AssemblyCommand]:
        seat = self._seats.get(link)
        if seat is None or seat.is_leaving or self.is_over:
            return []
        seat.heard_at, seat.is_leaving = now, True
        return [Drain(why=f"{seat.member} was told to stop")]

    def _lose(self, link: int, why: str) -> list[AssemblyCommand]:
        seat = self._seats.pop(link, None)
        if seat is None:
            return []
        return self._break(f"lost {seat.member}: {why}")

    def _dismiss(self) -> list[AssemblyCommand]:
        if self.is_over:
            return []
        self.state = AssemblyState.DISMISSED
        return [Dismiss(links=self.links)]

    def _break(self, message: str) -> list[AssemblyCommand]:
        if self.is_over:
            return []
        self.state = AssemblyState.BROKEN
        return [Break(links=self.links, message=message)]

    def _on_time(self, now: float) -> list[AssemblyCommand]:
        if self.is_over:
            return []
        for link, seat in list(self._seats.items()):
            if self._silent_at(seat) <= now:
                return self._lose(link, f"silent for {now - seat.heard_at:.1f} s")
        if self.state is AssemblyState.ASSEMBLING and self._deadline_at <= now:
            return self._break(self._why_incomplete())
        if self._next_beat_at <= now:
            self._next_beat_at = now + self._limits.heartbeat_interval_s
            return [SayHeartbeat(links=self.links)]
        return []

    def _why_incomplete(self) -> str:
        missing = ", ".join(str(ordinal) for ordinal in self.missing)
        place = self.leader.place
        return (
            f"epoch {place.epoch}: {len(self.members)} of {place.group_size} members joined within "
            f"{self._limits.startup_timeout_s:g} s (missing: {missing})"
        )

    def _silent_at(self, seat: _Seat) -> float:
        return seat.heard_at + self._limits.heartbeat_timeout_s

    def _forgive_pause(self, now: float) -> None:
        """Rule 6. The leader looks at least every heartbeat interval, unless it does not run."""
        if now - self._looked_at > self._limits.heartbeat_timeout_s / 2:
            for seat in self._seats.values():
                seat.heard_at = now
        self._looked_at = now


def _wrong_group(theirs: GroupPlace, ours: GroupPlace) -> str:
    """Why a process cannot belong to this group at all; empty if it can."""
    if theirs.worker_id != ours.worker_id:
        return f"this is the leader of {ours.worker_id}, not of {theirs.worker_id}"
    if theirs.group_size != ours.group_size:
        return f"this group has {ours.group_size} members, not {theirs.group_size}"
    if theirs.incarnation != ours.incarnation:
        return f"this is incarnation {ours.incarnation!r} of {ours.worker_id}, not {theirs.incarnation!r}"
    if not 0 < theirs.ordinal < ours.group_size:
        return f"no member {theirs.ordinal} in a group of {ours.group_size}"
    return ""
