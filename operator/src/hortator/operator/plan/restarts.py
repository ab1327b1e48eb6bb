"""A member has failed: the whole group starts again, a limited number of times.

One write fences the old epoch: epoch + 1, replicas 0, and the record of the restart together. A plan that is
made before that write fences; one that is made after it finds a closed group, so one failure is one restart.
With the budget gone nothing is closed: the failure is noted as final and the pods stay. A disruption (a
member that was preempted or evicted) restarts the group whatever is left of the budget, and takes none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from hortator.operator.avoidance import blamed
from hortator.operator.observed import Failure, Memory
from hortator.operator.observed.memory import MAX_DISRUPTIONS
from hortator.operator.plan import drains, rendering
from hortator.operator.plan.actions import Apply, Item, emitted
from hortator.operator.situation import Situation, View, kept
from hortator.operator.status.reasons import Reason
from hortator.operator.waiting import num_unplaced


def after_failure(situation: Situation, view: View, failure: Failure) -> Iterator[Item]:
    """Fence and restart the group, or leave it as it is because it has failed too often."""
    restart, group = situation.spec.restart, view.group
    if restart.policy == "None":
        return
    past = blamed(kept(group.memory, now=situation.now, window_s=restart.window_s), failure)
    if not failure.is_disruption and len(past.restarts) >= restart.max_restarts:
        final = replace(failure, is_stalled=True)
        memory = replace(
            group.memory,
            restarts=past.restarts,
            disruptions=past.disruptions,
            node_failures=past.node_failures,
            failure=final,
        )
        why = f"group {group.name} has used up its {restart.max_restarts} restarts: {failure.message}"
        yield Apply(obj=rendering.noted(group, memory=memory), why=why)
        yield emitted(Reason.STALLED, why, is_warning=True)
        return
    memory = replace(_counted(past, failure, situation.now), failure=failure)
    why = f"group {group.name} restarts: {failure.message}"
    yield Apply(obj=rendering.closed(group, memory=drains.vacated(situation, view, memory)), why=why)
    yield emitted(Reason.GROUP_RESTARTING, why, is_warning=True)


def _counted(memory: Memory, failure: Failure, now: datetime) -> Memory:
    if failure.is_disruption:
        return replace(memory, disruptions=(*memory.disruptions, now)[-MAX_DISRUPTIONS:])
    return replace(memory, restarts=(*memory.restarts, now))


def after_gang_timeout(situation: Situation, view: View) -> Iterator[Item]:
    """Give back the nodes of a group that could not be placed as a whole; it tries again after a while."""
    group = view.group
    missing = num_unplaced(view)
    past = kept(group.memory, now=situation.now, window_s=situation.spec.restart.window_s)
    previous = group.memory.failure
    attempt = 1 + (previous.attempt if previous is not None else 0)
    why = f"{missing} of {view.assessment.num_members} pods of group {group.name} found no node in time"
    failure = Failure(
        reason=Reason.GANG_TIMEOUT, message=why, at=situation.now, epoch=group.epoch, attempt=attempt
    )
    memory = drains.vacated(situation, view, replace(past, failure=failure))
    yield Apply(obj=rendering.closed(group, memory=memory), why=why)
    yield emitted(Reason.GANG_TIMEOUT, why, is_warning=True)
