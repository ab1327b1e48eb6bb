"""Which groups that serve may be taken away on purpose, and in which order.

    shortfall   by how many groups the roles fall short of what is wanted, with the candidate away
    allowed     rollout.maxUnavailable for a group that moves to another revision,
                disruption.maxUnavailableGroups for a cordoned node, at least 1 for a restart on request
    a candidate is drained while shortfall <= allowed

Order: groups on a cordoned node first, then those that are not ready anyway, then the highest index. When a
group moves, and that a broken one does so whatever else is away, is decided in `rollout`.
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.operator.lifecycle import Stage, are_all_ready
from hortator.operator.plan import drains
from hortator.operator.plan.actions import Item
from hortator.operator.plan.pulls import given_up
from hortator.operator.rollout import Turn
from hortator.operator.situation import Situation, View
from hortator.operator.status.reasons import Reason


def voluntary_drains(situation: Situation) -> Iterator[Item]:
    """Start the drains that are allowed now. A suspended service drains as a whole, elsewhere."""
    if situation.spec.suspend:
        return
    started: set[str] = set()
    for view in sorted(candidates(situation), key=_order):
        name = view.wanted.name
        if _serves_nobody(view) or situation.shortfall(taken={*started, name}) <= _allowed(situation, view):
            started.add(name)
            yield from drains.start(situation, view.group, reason_for(view))
            if view.turn is Turn.MOVES:
                yield from given_up(view)


def candidates(situation: Situation) -> list[View]:
    """Groups that take requests and have a cause to go; one that is just being recorded has its turn next."""
    return [
        view
        for view in situation.all_views
        if view.takes_requests
        and not view.assessment.is_draining
        and (view.is_outdated or view.is_cordoned)
        and (view.stage is Stage.SERVING or not are_all_ready(view.group, view.assessment.num_members))
    ]


def reason_for(view: View) -> Reason:
    """The cause. A cordon is told first: it is the one that opens the disruption budget."""
    if view.is_cordoned:
        return Reason.NODE_CORDONED
    return Reason.ROLLING_UPDATE if view.turn is Turn.MOVES else Reason.RESTART_REQUESTED


def _serves_nobody(view: View) -> bool:
    """It moves, and takes nothing away by it."""
    return view.turn is Turn.MOVES and not view.is_available and not view.is_cordoned


def _allowed(situation: Situation, view: View) -> int:
    limit = situation.spec.disruption.max_unavailable_groups
    if view.turn is Turn.MOVES:
        rollout = situation.spec.rollout
        return max(limit, rollout.max_unavailable) if view.is_cordoned else rollout.max_unavailable
    return max(1, limit) if view.is_outdated else limit


def _order(view: View) -> tuple[bool, bool, int, str]:
    return not view.is_cordoned, view.assessment.is_ready, -view.wanted.index, view.wanted.role
