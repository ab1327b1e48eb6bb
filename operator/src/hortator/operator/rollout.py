"""Whose turn is it? Which groups may go over to the revision that spec asks for, and which stay as they are.

    shortfall   sum over roles of max(0, wanted groups - available groups, surge groups among them)
    moving      groups of the wanted revision, or on the way to it, that are not available
    share       ceil(moved groups of the other role x groups of this role / groups of the other role)

For a group that runs another revision than spec asks for, the first of these rules that applies decides:

1. paused, or its index is below the partition: HELD. It stays at what it runs, also when it fails.
2. It has begun to drain in order to move: MOVES.
3. It serves nobody (broken, stalled, closed, still starting): MOVES, before any that serves and whatever else
   is away, while fewer than maxUnavailable groups are moving or no other group of its revision serves. Else
   it WAITS, and starts again as it was: a new revision that never gets ready takes no group more than
   allowed with it, while an old one that never worked holds nothing up.
4. It serves: MOVES while the shortfall without it is at most maxUnavailable, unless it is the last available
   group of its role (allowOutage), or its role is more than maxSkew ahead of its share. The role that has
   moved the smaller part goes first, in it the highest index.

Nothing is remembered: the answer follows from what is there, so it is the same for an operator that starts in
the middle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hortator.api.v1alpha1 import RoleName, RolloutSpec
from hortator.operator.status.reasons import Reason


class Turn(StrEnum):
    """What a group may do about its revision."""

    CURRENT = "Current"
    """It runs what spec says, or is not there and will start with it."""
    MOVES = "Moves"
    WAITS = "Waits"
    HELD = "Held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a rollout looks at in a group."""

    name: str
    role: RoleName
    index: int
    revision: str
    """That it runs; of one that is not there what the groups around it run; "": nothing."""
    update: str
    """That spec asks for."""
    exists: bool
    is_available: bool
    is_on_its_way: bool = False
    """It drains in order to move."""
    is_surge: bool = False
    """Beside the wanted ones, while these move."""

    @property
    def is_old(self) -> bool:
        """It runs another revision than spec asks for, or did the groups around it."""
        return self.revision not in {"", self.update}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whose turn it is, and why not."""

    turn: Turn
    reason: Reason | None = None
    message: str = ""


_CURRENT = Decision(turn=Turn.CURRENT)
_MOVES = Decision(turn=Turn.MOVES)


def decisions(standings: Sequence[Standing], rollout: RolloutSpec) -> dict[str, Decision]:
    """The decision for every group, by name. Total."""
    found: dict[str, Decision] = {}
    for one in standings:
        found[one.name] = _of_itself(one, rollout)
    undecided = [one for one in standings if found[one.name].turn is Turn.WAITS]
    tally = _Tally(standings=standings, rollout=rollout, decided=found)
    for one in sorted((one for one in undecided if not one.is_available), key=_highest_first):
        found[one.name] = tally.of_broken(one)
    for one in tally.in_order([one for one in undecided if one.is_available]):
        found[one.name] = tally.of_serving(one)
    return found


def shortfall(standings: Iterable[Standing], *, taken: Iterable[str] = ()) -> int:
    """By how many groups the roles fall short of what is wanted, with those `taken` away."""
    gone = set(taken)
    missing: dict[RoleName, int] = {}
    for one in standings:
        wanted = 0 if one.is_surge else 1
        there = 1 if one.is_available and one.name not in gone else 0
        missing[one.role] = missing.get(one.role, 0) + wanted - there
    return sum(max(0, number) for number in missing.values())


def is_held(index: int, rollout: RolloutSpec) -> bool:
    """Whether no group of that index may change its revision."""
    return rollout.paused or index < rollout.partition


def _highest_first(one: Standing) -> tuple[int, str]:
    return -one.index, one.role


def _of_itself(one: Standing, rollout: RolloutSpec) -> Decision:
    """Rules 1 and 2; WAITS where the other groups matter."""
    if not one.is_old:
        return _CURRENT
    if is_held(one.index, rollout):
        what = "is paused (spec.rollout.paused)"
        if not rollout.paused:
            what = f"leaves groups below index {rollout.partition} as they are (spec.rollout.partition)"
        reason = Reason.ROLLOUT_PAUSED if rollout.paused else Reason.ROLLOUT_PARTITION
        message = (
            f"group {one.name} stays at revision {one.revision}, wanted is {one.update}: the rollout {what}"
        )
        return Decision(turn=Turn.HELD, reason=reason, message=message)
    if not one.exists:
        return _CURRENT
    return _MOVES if one.is_on_its_way else Decision(turn=Turn.WAITS)


@dataclass(slots=True, kw_only=True)
class _Tally:
    """The groups with what has been decided so far."""

    standings: Sequence[Standing]
    rollout: RolloutSpec
    decided: Mapping[str, Decision]
    taken: set[str] = field(default_factory=set)
    """Groups that serve and have got their turn just now."""

    def of_broken(self, one: Standing) -> Decision:
        """Rule 3."""
        moving = [other.name for other in self.standings if self._is_moving(other) and not other.is_surge]
        is_proven = any(
            other.is_available and other.role == one.role and other.revision == one.revision
            for other in self.standings
        )
        if len(moving) < max(1, self.rollout.max_unavailable) or not is_proven:
            return _MOVES
        return _waits(one, Reason.ROLLING_UPDATE, f"until {_named(moving)} can be used")

    def of_serving(self, one: Standing) -> Decision:
        """Rule 4."""
        if not self.rollout.allow_outage and not self._has_another(one):
            coming = [other.name for other in self.standings if self._is_beside(one, other)]
            if coming:
                return _waits(one, Reason.ROLLING_UPDATE, f"until {_named(coming)} can be used")
            message = (
                f"group {one.name} still runs revision {one.revision}, wanted is {one.update}: it is the "
                f"last available group of role {one.role}, and spec.rollout.allowOutage is false"
            )
            return Decision(turn=Turn.WAITS, reason=Reason.LAST_AVAILABLE_GROUP, message=message)
        ahead_of = self._ahead_of(one)
        if ahead_of is not None:
            return _waits(one, Reason.ROLLOUT_SKEW, f"for role {ahead_of} (spec.rollout.maxSkew)")
        if shortfall(self.standings, taken={*self.taken, one.name}) > self.rollout.max_unavailable:
            away = [
                other.name for other in self.standings if not other.is_available or other.name in self.taken
            ]
            return _waits(one, Reason.ROLLING_UPDATE, f"until {_named(away)} can be used")
        self.taken.add(one.name)
        return _MOVES

    def in_order(self, serving: Sequence[Standing]) -> Iterable[Standing]:
        """Those that serve, each time the next of the role that has moved the smaller part."""
        rest = sorted(serving, key=_highest_first)
        while rest:
            one = min(rest, key=lambda other: (self._part(other.role), *_highest_first(other)))
            rest.remove(one)
            yield one

    def _is_moving(self, one: Standing) -> bool:
        """On its way to the wanted revision, and not there yet."""
        turn = self.decided[one.name].turn
        return turn is Turn.MOVES or (turn is Turn.CURRENT and not one.is_available)

    def _has_another(self, one: Standing) -> bool:
        return any(
            other.is_available and other.role == one.role and other.name not in {one.name, *self.taken}
            for other in self.standings
        )

    def _is_beside(self, one: Standing, other: Standing) -> bool:
        """Of the same role, and about to serve."""
        return other.role == one.role and other.name != one.name and self._is_moving(other)

    def _part(self, role: RoleName) -> float:
        moved, total = self._moved(role)
        return moved / total if total else 1.0

    def _moved(self, role: RoleName) -> tuple[int, int]:
        """Groups of a role that have moved or are on their way, of those that may."""
        may = [
            one
            for one in self.standings
            if one.role == role and not one.is_surge and not is_held(one.index, self.rollout)
        ]
        moved = [one for one in may if self.decided[one.name].turn in {Turn.CURRENT, Turn.MOVES}]
        return len(moved), len(may)

    def _ahead_of(self, one: Standing) -> RoleName | None:
        """The role that must move first."""
        moved, total = self._moved(one.role)
        for role in sorted({other.role for other in self.standings} - {one.role}):
            theirs, of_them = self._moved(role)
            share = -(-theirs * total // of_them) if of_them else total
            if moved + 1 > share + self.rollout.max_skew:
                return role
        return None


def _waits(one: Standing, reason: Reason, until: str) -> Decision:
    message = f"group {one.name} still runs revision {one.revision}, wanted is {one.update}: it waits {until}"
    return Decision(turn=Turn.WAITS, reason=reason, message=message)


def _named(groups: Sequence[str]) -> str:
    """The groups for people: `group a`, `groups a, b and 3 more`."""
    shown = ", ".join(groups[:2])
    more = f" and {len(groups) - 2} more" if len(groups) > 2 else ""
    return f"group{'s' if len(groups) > 1 else ''} {shown}{more}"
