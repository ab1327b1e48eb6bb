"""The one way in which a group that serves goes away on purpose.

    note drain-started-at -> ask the scheduler -> it places nothing more and nothing is in flight -> go on

"Go on" also happens once spec.drain.timeout has passed, whoever did not answer, and at once for a group that
takes no requests: there is nothing to drain. A drain that has begun is finished, even if the cause goes away:
the worker has been told to take nothing more, and only a new start makes it forget that.

Of a group that is closed with a member on a cordoned node, for whatever reason, that is noted (`vacated`): it
stays away for some seconds, until who drains the node has seen that the pods are gone (`waiting`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from hortator.operator.observed import GroupFacts, Memory
from hortator.operator.plan import rendering
from hortator.operator.plan.actions import Apply, Item, StartDrain, emitted, wake
from hortator.operator.situation import Situation, View
from hortator.operator.status.reasons import Reason
from hortator.operator.waiting import deadline, is_drained

LOOK_AGAIN_S = 1.0
"""While a group drains: the scheduler's count changes no object of the cluster."""


def start(situation: Situation, group: GroupFacts, reason: Reason) -> Iterator[Item]:
    """Note that the drain has begun; the scheduler is asked by the next plan, which sees the note."""
    memory = replace(group.memory, drain_started_at=situation.now, drain_reason=reason)
    yield Apply(
        obj=rendering.noted(group, memory=memory), why=f"group {group.name} starts to drain: {reason}"
    )
    yield emitted(Reason.DRAINING, f"group {group.name} drains: {reason}")


def ask(situation: Situation, group: GroupFacts) -> Iterator[Item]:
    """Tell the scheduler until it acknowledges, and look again."""
    load = group.load
    if load is not None and not load.is_draining:
        yield StartDrain(
            worker_id=group.worker_id,
            timeout_s=situation.spec.drain.timeout_s,
            why=f"group {group.name} drains: {group.memory.drain_reason}",
        )
    soon = situation.now + timedelta(seconds=LOOK_AGAIN_S)
    yield from wake(situation.now, min(soon, deadline(situation, group) or soon))


def opens_budget(situation: Situation, view: View) -> bool:
    """Whether the group's pods may be evicted: drained for a cordon, and few enough others are away."""
    memory = view.group.memory
    return (
        view.takes_requests
        and memory.drain_reason == Reason.NODE_CORDONED
        and memory.drain_started_at is not None
        and is_drained(situation, view.group, view.assessment)
        and situation.num_unavailable(but=view.wanted.name) < situation.spec.disruption.max_unavailable_groups
    )


def vacated(situation: Situation, view: View, memory: Memory) -> Memory:
    """The notes of a group that is being closed."""
    return replace(memory, vacated_at=situation.now) if view.is_cordoned else memory
