"""A member's side of a group, without a wire: events in, commands out, time is an argument.

    dialling --welcome--> joined --complete--> complete --dismissed--> over (exit code 0)
        |                    |                     |
        +------------ something is wrong ----------+--> over (exit code not 0, one line says why)

Rules:

1. Until the leader has taken this boot, a failure means: dial again, up to the start-up timeout. After that a
   broken link is the end: a group that has lost a link has lost a member.
2. A refusal is the end, unless the leader says that it is itself the wrong one.
3. Silence of the leader for the heartbeat timeout is a broken link. As for the leader, only time in which
   this process runs is counted.
4. Told to stop, a member says so and stays until it is dismissed. A leader that is gone by then has nothing
   left to drain. Before it has joined, a member just ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from hortator.worker.group.member import GroupLimits

EXIT_GROUP_BROKEN = 71
"""The group has lost a member, or was never complete: all its processes are to be started again."""
EXIT_FENCED = 72
"""This boot may not be a member: its epoch is over, or another boot has its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcomed:
    """The leader has taken this boot."""

    heartbeat_interval_s: float
    heartbeat_timeout_s: float
    launch_key: str = ""
    """What ordinal 0 will log in with to start ranks; empty: it will not."""
    launch_proof: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The leader does not take this boot."""

    message: str
    try_again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderHeard:
    """The leader is here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """Everybody has joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStarted:
    """All ranks of this epoch are up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dismissed:
    """The leader has drained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBroke:
    """The leader says that the group is over."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFailed:
    """The leader could not be reached, or the link broke."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """SIGTERM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """`next_wakeup` has come."""


MembershipEvent = (
    Welcomed
    | Refused
    | LeaderHeard
    | Completed
    | EngineStarted
    | Dismissed
    | GroupBroke
    | LinkFailed
    | StopRequested
    | TimePassed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DialAgain:
    """Open a new link after a pause."""

    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHeartbeat:
    """Tell the leader that this member is here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLeaving:
    """Tell the leader that this member was told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """End the process. The last command."""

    exit_code: int
    message: str


MembershipCommand = DialAgain | SendHeartbeat | SendLeaving | End


class MembershipState(Enum):
    """Where this member stands."""

    DIALLING = "dialling"
    JOINED = "joined"
    COMPLETE = "complete"
    OVER = "over"


MIN_BACKOFF_S, MAX_BACKOFF_S = 0.1, 1.0


class Membership:
    """See the module docstring. One per boot of a member."""

    def __init__(self, limits: GroupLimits, *, leader_address: str, now: float) -> None:
        """The start-up timeout begins at `now`."""
        self._limits = limits
        self._leader_address = leader_address
        self._deadline_at = now + limits.startup_timeout_s
        self._interval_s = limits.heartbeat_interval_s
        self._timeout_s = limits.heartbeat_timeout_s
        self._next_beat_at = now
        self._heard_at = now
        self._looked_at = now
        self._backoff_s = MIN_BACKOFF_S
        self._is_stopping = False
        self.last_failure = ""
        """Why the last attempt to join failed."""
        self.state = MembershipState.DIALLING

    def next_wakeup(self) -> float | None:
        """When `TimePassed` must be said; None: never."""
        match self.state:
            case MembershipState.OVER:
                return None
            case MembershipState.DIALLING:
                return self._deadline_at
            case MembershipState.JOINED:
                return min(self._deadline_at, self._next_beat_at, self._silent_at())
            case MembershipState.COMPLETE:
                return min(self._next_beat_at, self._silent_at())
            case _:
                assert_never(self.state)

    def handle(self, event: MembershipEvent, now: float) -> list[MembershipCommand]:
        """Take one event; what is to be done now, in order."""
        if self.state is MembershipState.OVER:
            return []
        self._forgive_pause(now)
        match event:
            case Welcomed():
                return self._welcomed(event, now)
            case Refused(message=message, try_again=True):
                return self._dial_again(message)
            case Refused(message=message):
                return self._end(EXIT_FENCED, f"refused by the leader: {message}")
            case LeaderHeard() | EngineStarted():
                self._heard_at = now
                return []
            case Completed():
                self._heard_at = now
                if self.state is MembershipState.JOINED:
                    self.state = MembershipState.COMPLETE
                return []
            case Dismissed():
                return self._end(0, "the leader has drained")
            case GroupBroke(message=message):
                return self._end(EXIT_GROUP_BROKEN, f"the group is broken: {message}")
            case LinkFailed(why=why):
                return self._link_failed(why)
            case StopRequested():
                return self._stop()
            case TimePassed():
                return self._on_time(now)
            case _:
                assert_never(event)

    def _welcomed(self, event: Welcomed, now: float) -> list[MembershipCommand]:
        if self.state is not MembershipState.DIALLING:
            return []
        self.state = MembershipState.JOINED
        self._interval_s = event.heartbeat_interval_s or self._interval_s
        self._timeout_s = event.heartbeat_timeout_s or self._timeout_s
        self._heard_at = now
        self._next_beat_at = now + self._interval_s
        return []

    def _dial_again(self, why: str) -> list[MembershipCommand]:
        self.last_failure = why
        after_s = self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
        return [DialAgain(after_s=after_s)]

    def _link_failed(self, why: str) -> list[MembershipCommand]:
        if self.state is MembershipState.DIALLING:
            return self._dial_again(why)
        if self._is_stopping:
            return self._end(0, f"the leader is gone: {why}")
        return self._end(EXIT_GROUP_BROKEN, f"lost the leader at {self._leader_address}: {why}")

    def _stop(self) -> list[MembershipCommand]:
        if self._is_stopping:
            return []
        self._is_stopping = True
        if self.state is MembershipState.DIALLING:
            return self._end(0, "told to stop before it joined")
        return [SendLeaving()]

    def _end(self, exit_code: int, message: str) -> list[MembershipCommand]:
        self.state = MembershipState.OVER
        return [End(exit_code=exit_code, message=message)]

    def _on_time(self, now: float) -> list[MembershipCommand]:
        is_assembling = self.state in {MembershipState.DIALLING, MembershipState.JOINED}
        if is_assembling and self._deadline_at <= now:
            return self._end(EXIT_GROUP_BROKEN, self._why_late())
        if self.state is MembershipState.DIALLING:
            return []
        if self._silent_at() <= now:
            return self._link_failed(f"silent for {now - self._heard_at:.1f} s")
        if self._next_beat_at <= now:
            self._next_beat_at = now + self._interval_s
            return [SendHeartbeat()]
        return []

    def _why_late(self) -> str:
        timeout = f"within {self._limits.startup_timeout_s:g} s"
        if self.state is MembershipState.JOINED:
            return f"the group was not complete {timeout}"
        because = f": {self.last_failure}" if self.last_failure else ""
        return f"did not reach the leader at {self._leader_address} {timeout}{because}"

    def _silent_at(self) -> float:
        return self._heard_at + self._timeout_s

    def _forgive_pause(self, now: float) -> None:
        """Rule 3: this process looks at least every interval once it has joined, unless it does not run."""
        if self.state is not MembershipState.DIALLING and now - self._looked_at > self._timeout_s / 2:
            self._heard_at = now
        self._looked_at = now
