"""Whose turn is it? Which groups may go over to the revision that spec asks for, and which stay as they are.

    shortfall   sum over roles of max(0, wanted groups - available groups, surge groups among them)
    moving      groups of the wanted revision, or on the way to it, that are not available
    share       ceil(moved groups of the other role x groups of this role / groups of the other role)

For a group that runs another revision than spec asks for, the first of these rules that applies decides:

1. paused, or its index is below the partition: HELD. It stays at what it runs, also when it fails.
2. It has begun to drain in order to move: MOVES.
3. It serves nobody (broken, stalled, closed, still starting): MOVES, before any that serves and whatever else
   is away, while the model is in the cache and fewer than maxUnavailable groups are moving, or if no other
   group of its revision serves. Else it WAITS, and starts again as it was: a new revision that never gets
   ready takes no group more than allowed with it, while an old one that never worked holds nothing up. It
   WAITS as well while a node cannot pull the image of the role.
4. It serves: MOVES while the model is in the cache, its nodes have the image (`pulls`) and the shortfall
   without it is at most maxUnavailable, unless it is the last available group of its role (allowOutage), or
   its role is more than maxSkew ahead of its share. The role that has moved the smaller part goes first, in
   it the highest index.

Nothing is remembered: the answer follows from what is there, so it is the same for an operator that starts in
the middle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hortator.api.v1alpha1 import RoleName, RolloutSpec
from hortator.operator.status.evidence import Finding
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
    """That it runs; "" where somebody took the label away.

    Of a group that is not there: what the groups around it run that it is to be like, "" for none.
    """
    update: str
    """That spec asks for."""
    exists: bool
    is_available: bool
    is_on_its_way: bool = False
    """It drains in order to move."""
    is_surge: bool = False
    """Beside the wanted ones, while these move."""
    pull: Finding | None = None
    """What keeps its nodes from having the image that it is to move to; None: nothing."""

    @property
    def is_old(self) -> bool:
        """It runs another revision than spec asks for, or one without a name, or the groups around it do."""
        return self.revision != self.update and (self.exists or self.revision != "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whose turn it is, and why not."""

    turn: Turn
    reason: Reason | None = None
    message: str = ""


_CURRENT = Decision(turn=Turn.CURRENT)
_MOVES = Decision(turn=Turn.MOVES)


def decisions(
    standings: Sequence[Standing], rollout: RolloutSpec, *, is_model_there: bool = True
) -> dict[str, Decision]:
    """The decision for every group, by name; `is_model_there` is about the one that spec asks for. Total."""
    tally = _Tally(rollout=rollout, is_model_there=is_model_there)
    found: dict[str, Decision] = {}
    broken, serving = [], []
    for one in standings:
        tally.see(one)
        decision = _of_itself(one, rollout)
        if decision.turn is not Turn.WAITS:
            found[one.name] = tally.note(one, decision)
        elif one.is_available:
            serving.append(one)
        else:
            broken.append(one)
    for one in sorted(broken, key=_highest_first):
        found[one.name] = tally.note(one, tally.of_broken(one))
    waiting: dict[RoleName, list[Standing]] = {}
    for one in sorted(serving, key=_highest_first, reverse=True):
        waiting.setdefault(one.role, []).append(one)
    while waiting:  # each time the next of the role that has moved the smaller part
        role = min(waiting, key=lambda name: (tally.part(name), *_highest_first(waiting[name][-1])))
        one = waiting[role].pop()
        found[one.name] = tally.note(one, tally.of_serving(one))
        waiting = {name: rest for name, rest in waiting.items() if rest}
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
    """What has been decided so far, counted: a service may have thousands of groups."""

    rollout: RolloutSpec
    is_model_there: bool
    missing: Counter[RoleName] = field(default_factory=Counter)
    """Wanted groups less available ones."""
    serving: Counter[tuple[RoleName, str]] = field(default_factory=Counter)
    """Available groups of a role and a revision."""
    may: Counter[RoleName] = field(default_factory=Counter)
    """Groups that are not held."""
    moved: Counter[RoleName] = field(default_factory=Counter)
    """Those of them that have moved, or are on their way."""
    coming: dict[RoleName, list[Standing]] = field(default_factory=dict)
    """On their way to the wanted revision, and not there yet."""
    away: list[str] = field(default_factory=list)
    failed_pulls: dict[RoleName, Finding] = field(default_factory=dict)
    """Why an image of a role is not to be had, on any node."""

    def see(self, one: Standing) -> None:
        """Count a group as it is."""
        self.missing[one.role] += (0 if one.is_surge else 1) - (1 if one.is_available else 0)
        self.serving[one.role, one.revision] += one.is_available
        self.may[one.role] += not one.is_surge and not is_held(one.index, self.rollout)
        if not one.is_available:
            self.away.append(one.name)
        if one.pull is not None and one.pull.reason is Reason.PRE_PULL_FAILED:
            self.failed_pulls.setdefault(one.role, one.pull)

    def note(self, one: Standing, decision: Decision) -> Decision:
        """Count a decision."""
        if decision.turn is Turn.MOVES and one.is_available:
            self.missing[one.role] += 1
            self.serving[one.role, one.revision] -= 1
            self.away.append(one.name)
        if decision.turn is Turn.MOVES or (decision.turn is Turn.CURRENT and not one.is_available):
            self.coming.setdefault(one.role, []).append(one)
        if decision.turn in {Turn.MOVES, Turn.CURRENT}:
            self.moved[one.role] += not one.is_surge and not is_held(one.index, self.rollout)
        return decision

    def of_broken(self, one: Standing) -> Decision:
        """Rule 3."""
        if self.serving[one.role, one.revision] == 0:
            return _MOVES
        if not self.is_model_there:
            return _waits_for_model(one)
        failed = self.failed_pulls.get(one.role)
        if failed is not None:
            return _waits(one, failed.reason, failed.message)
        moving = [other.name for role in self.coming for other in self.coming[role] if not other.is_surge]
        if len(moving) < max(1, self.rollout.max_unavailable):
            return _MOVES
        return _waits(one, Reason.ROLLING_UPDATE, f"until {_named(moving)} can be used")

    def of_serving(self, one: Standing) -> Decision:
        """Rule 4."""
        if not self.is_model_there:
            return _waits_for_model(one)
        if not self.rollout.allow_outage and self._num_serving(one.role) <= 1:
            coming = [other.name for other in self.coming.get(one.role, ())]
            if coming:
                return _waits(one, Reason.ROLLING_UPDATE, f"until {_named(coming)} can be used")
            message = (
                f"group {one.name} still runs revision {one.revision}, wanted is {one.update}: it is the "
                f"last available group of role {one.role}, and spec.rollout.allowOutage is false"
            )
            return Decision(turn=Turn.WAITS, reason=Reason.LAST_AVAILABLE_GROUP, message=message)
        ahead_of = self._ahead_of(one.role)
        if ahead_of is not None:
            return _waits(one, Reason.ROLLOUT_SKEW, f"for role {ahead_of} (spec.rollout.maxSkew)")
        short = sum(max(0, number + (role == one.role)) for role, number in self.missing.items())
        if short > self.rollout.max_unavailable:
            return _waits(one, Reason.ROLLING_UPDATE, f"until {_named(self.away)} can be used")
        if one.pull is not None:
            return _waits(one, one.pull.reason, one.pull.message)
        return _MOVES

    def part(self, role: RoleName) -> float:
        """How much of a role has moved."""
        return self.moved[role] / self.may[role] if self.may[role] else 1.0

    def _num_serving(self, role: RoleName) -> int:
        return sum(number for (other, _), number in self.serving.items() if other == role)

    def _ahead_of(self, role: RoleName) -> RoleName | None:
        """The role that must move first."""
        for other in sorted(self.may.keys() - {role}):
            total, of_them = self.may[role], self.may[other]
            share = -(-self.moved[other] * total // of_them) if of_them else total
            if self.moved[role] + 1 > share + self.rollout.max_skew:
                return other
        return None


def _waits(one: Standing, reason: Reason, until: str) -> Decision:
    message = f"group {one.name} still runs revision {one.revision}, wanted is {one.update}: it waits {until}"
    return Decision(turn=Turn.WAITS, reason=reason, message=message)


def _waits_for_model(one: Standing) -> Decision:
    return _waits(one, Reason.MODEL_DOWNLOADING, "until the model is in the cache")


def _named(groups: Sequence[str]) -> str:
    """The groups for people: `group a`, `groups a, b and 3 more`."""
    if not groups:
        return "another group"
    shown = ", ".join(groups[:2])
    more = f" and {len(groups) - 2} more" if len(groups) > 2 else ""
    return f"group{'s' if len(groups) > 1 else ''} {shown}{more}"
