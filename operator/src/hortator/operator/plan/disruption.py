"""Which groups that serve may be taken away on purpose, and in which order.

    away    = wanted groups that are not available now, without the candidate itself
    allowed = maxUnavailableGroups for a cordoned node, at least 1 for what spec itself asks for
    a candidate is drained while away < allowed

Order: groups on a cordoned node first, then those that are not ready anyway, then the highest index. A group
that is not ready may thus always be replaced when nothing else is away, so a broken revision stops a roll at
the first group and its repair starts there.
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.operator.lifecycle import Stage, are_all_ready
from hortator.operator.plan import drains
from hortator.operator.plan.actions import Item
from hortator.operator.situation import Situation, View
from hortator.operator.status.reasons import Reason


def voluntary_drains(situation: Situation) -> Iterator[Item]:
    """Start the drains that are allowed now. A suspended service drains as a whole, elsewhere."""
    if situation.spec.suspend:
        return
    started: set[str] = set()
    for view in sorted(candidates(situation), key=_order):
        name = view.wanted.name
        away = {other.wanted.name for other in situation.views if not other.is_available} | started
        if len(away - {name}) < _allowed(situation, view):
            started.add(name)
            yield from drains.start(situation, view.group, reason_for(view))


def candidates(situation: Situation) -> list[View]:
    """Groups that take requests and have a cause to go; one that is just being recorded has its turn next."""
    return [
        view
        for view in situation.views
        if view.takes_requests
        and not view.assessment.is_draining
        and (view.is_outdated or view.is_cordoned)
        and (view.stage is Stage.SERVING or not are_all_ready(view.group, view.assessment.num_members))
    ]


def reason_for(view: View) -> Reason:
    """The cause. A cordon is told first: it is the one that opens the disruption budget."""
    if view.is_cordoned:
        return Reason.NODE_CORDONED
    is_same_revision = view.group.revision == view.wanted.revision
    return Reason.RESTART_REQUESTED if is_same_revision else Reason.ROLLING_UPDATE


def _allowed(situation: Situation, view: View) -> int:
    limit = situation.spec.disruption.max_unavailable_groups
    return max(1, limit) if view.is_outdated else limit


def _order(view: View) -> tuple[bool, bool, int, str]:
    return not view.is_cordoned, view.assessment.is_ready, -view.wanted.index, view.wanted.role
