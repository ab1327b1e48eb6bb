"""The next step of one wanted group: at most one write to its StatefulSet.

not there                        create service, budget and identity, then the StatefulSet with replicas 0
closed, old pods still there     wait; delete for good only what is on a node that is gone
closed, no pods                  `admission`
starting                         record the members once all are ready; give nodes back after the gang timeout
serving                          drain when asked to go (suspend here, the rest in `disruption`)
failed                           `restarts`
stalled                          nothing
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hortator.operator import names
from hortator.operator.lifecycle import NODE_LOST_GRACE_S, Stage, are_all_ready, is_gone
from hortator.operator.objects import Obj, ref_of
from hortator.operator.observed import GroupFacts, Member, Memory, PodFacts
from hortator.operator.observed.reading import at, seconds_later
from hortator.operator.plan import drains, rendering, restarts
from hortator.operator.plan.actions import Apply, Create, Delete, Item, PatchLabels, emitted, wake
from hortator.operator.plan.drift import needs_apply
from hortator.operator.rollout import Turn
from hortator.operator.situation import Situation, View, fresh, kept
from hortator.operator.status.reasons import Reason, known
from hortator.operator.waiting import gang_deadline, is_drained

BROKEN_GRACE_S = 5
"""For pods of a group that has failed: nothing is in flight that could be finished."""
_ALLOWED = ("spec", "maxUnavailable")


def next_step(situation: Situation, view: View) -> Iterator[Item]:
    """What is to be done for a wanted group now, except admission and voluntary drains."""
    if situation.statefulset_ref(view.wanted.name) in situation.observed.leftovers:
        yield from cleared(situation, view.group, is_broken=False)
        return  # a StatefulSet of that name is on its way out
    yield from _children(situation, view)
    match view.stage:
        case Stage.ABSENT:
            yield from _creation(situation, view)
        case Stage.CLOSED:
            is_broken = view.group.memory.failure is not None
            yield from cleared(situation, view.group, is_broken=is_broken)
        case _:
            yield from _lost_nodes(situation, view.group)
            yield from _admitted(situation, view)


def cleared(situation: Situation, group: GroupFacts, *, is_broken: bool) -> Iterator[Item]:
    """Pods that must go before the group may start: its controller deletes them, this sees to the rest."""
    for pod in group.pods:
        if is_gone(pod, situation.observed.nodes):
            why = f"node {pod.node} of pod {pod.ref.name} is gone: nothing of it runs any more"
            yield Delete(ref=pod.ref, uid=pod.uid, grace_s=0, why=why)
        elif is_broken and pod.is_deleting and (pod.deletion_grace_s or 0) > BROKEN_GRACE_S:
            why = f"pod {pod.ref.name} belongs to an epoch that has failed: there is nothing to finish"
            yield Delete(ref=pod.ref, uid=pod.uid, grace_s=BROKEN_GRACE_S, why=why)


def _children(situation: Situation, view: View) -> Iterator[Item]:
    """The headless Service and the disruption budget, as they should be at this moment."""
    is_open = drains.opens_budget(situation, view)
    for obj in (view.wanted.service, view.wanted.pdb(is_open=is_open)):
        yield from applied(situation, obj)


def applied(situation: Situation, obj: Obj) -> Iterator[Item]:
    """Apply a child that is missing or says something else; leave one that is on its way out."""
    ref = ref_of(obj)
    if ref in situation.observed.leftovers:
        return
    live = situation.observed.objects.get(ref)
    if live is None or needs_apply(live, obj):
        yield Apply(obj=obj, why=f"{ref} {'is missing' if live is None else 'differs from what is wanted'}")


def _creation(situation: Situation, view: View) -> Iterator[Item]:
    if view.group.pods:
        yield from cleared(situation, view.group, is_broken=False)
        return  # pods of an earlier StatefulSet of that name: the first epoch may not begin beside them
    wanted = view.wanted
    yield Create(obj=wanted.identity, why=f"group {wanted.name} needs its identity")
    memory = Memory(restart_observed=situation.requested_restart)
    yield Apply(obj=rendering.created(wanted, memory=memory), why=f"group {wanted.name} is missing")


def _admitted(situation: Situation, view: View) -> Iterator[Item]:
    group, memory, failure = view.group, view.group.memory, view.assessment.failure
    if memory.drain_started_at is not None:
        yield from _draining(situation, view)
    elif not view.takes_requests and situation.spec.suspend:
        yield from _closed(situation, view, Reason.SUSPENDING)
    elif not view.takes_requests and view.is_outdated:
        reason = Reason.ROLLING_UPDATE if view.turn is Turn.MOVES else Reason.RESTART_REQUESTED
        yield from _closed(situation, view, reason)
    elif view.stage is Stage.FAILED and failure is not None:
        yield from restarts.after_failure(situation, view, failure)
    elif view.takes_requests and situation.spec.suspend:
        yield from drains.start(situation, group, Reason.SUSPENDING)
    elif view.group.replicas > view.assessment.num_members:
        yield from _taken_back(view)
    elif view.stage is Stage.STARTING:
        yield from _starting(situation, view)
    elif view.stage is Stage.SERVING:
        yield from _scale_unit(view)


def _draining(situation: Situation, view: View) -> Iterator[Item]:
    if not is_drained(situation, view.group, view.assessment):
        yield from drains.ask(situation, view.group)
        return
    if drains.opens_budget(situation, view) and not _is_open(situation, view):
        return  # `_children` opens it; the group is closed once that is seen
    yield from _closed(situation, view, known(view.group.memory.drain_reason, Reason.DRAINING))


def _closed(situation: Situation, view: View, reason: Reason) -> Iterator[Item]:
    """Close a group on purpose."""
    group = view.group
    if view.is_outdated or situation.spec.suspend:
        memory = fresh(group.memory)
    else:
        memory = kept(group.memory, now=situation.now, window_s=situation.spec.restart.window_s)
    memory = drains.vacated(situation, view, memory)
    if view.turn is Turn.MOVES and not situation.spec.suspend:
        why = f"group {group.name} moves from revision {group.revision} to {view.wanted.revision}"
        obj = rendering.moved(group, view.wanted, memory=replace(memory, moved_at=situation.now))
    else:
        why = f"group {group.name} is closed: {reason}"
        obj = rendering.closed(group, memory=memory)
    yield Apply(obj=obj, why=why)
    yield emitted(reason, why)


def _starting(situation: Situation, view: View) -> Iterator[Item]:
    group, memory = view.group, view.group.memory
    for pod in group.former_pods:
        if not pod.is_deleting:
            why = f"pod {pod.ref.name} is of epoch {pod.epoch}, the group of epoch {group.epoch}"
            yield Delete(ref=pod.ref, uid=pod.uid, grace_s=BROKEN_GRACE_S, why=why)
    yield from _scale_unit(view)
    if are_all_ready(group, view.assessment.num_members):
        failure = memory.failure
        is_over = failure is not None and failure.reason == Reason.GANG_TIMEOUT
        noted = replace(
            memory,
            members=_members(group.current_pods),
            failure=None if is_over else failure,
            moved_at=None,
        )
        num = view.assessment.num_members
        why = f"all {num} members of group {group.name} are ready in epoch {group.epoch}"
        yield Apply(obj=rendering.noted(group, memory=noted), why=why)
        yield emitted(Reason.ALL_GROUPS_READY, why)
    elif (end := gang_deadline(situation, view)) is not None:
        if situation.now >= end:
            yield from restarts.after_gang_timeout(situation, view)
        yield from wake(situation.now, end)


def _taken_back(view: View) -> Iterator[Item]:
    """Somebody added replicas, pods that belong to no rank: the members are untouched, the group goes on."""
    group, num = view.group, view.assessment.num_members
    why = f"somebody else changed the replicas of StatefulSet {group.name} to {group.replicas}: {num} again"
    yield Apply(obj=rendering.resized(group, replicas=num), why=why)
    yield emitted(Reason.REPLICAS_CHANGED, why, is_warning=True)


def _members(pods: tuple[PodFacts, ...]) -> dict[int, Member]:
    return {pod.ordinal: Member(uid=pod.uid, node=pod.node, restarts=pod.num_restarts) for pod in pods}


def _scale_unit(view: View) -> Iterator[Item]:
    """Which groups stand for role sets changes with the number of groups that a set has of a role."""
    for pod in view.group.current_pods:
        is_unit = pod.ref.name == view.wanted.scale_unit_pod
        if is_unit != pod.is_scale_unit and not pod.is_deleting:
            why = f"pod {pod.ref.name} stands for {'its role set' if is_unit else 'no role set any more'}"
            label = "true" if is_unit else None
            yield PatchLabels(ref=pod.ref, labels={names.LABEL_SCALE_UNIT: label}, why=why)


def _lost_nodes(situation: Situation, group: GroupFacts) -> Iterator[Item]:
    """Look again when a node that is not ready begins to count as lost."""
    for pod in group.current_pods:
        node = situation.observed.nodes.get(pod.node)
        if node is not None and not node.is_ready and node.unready_since is not None:
            yield from wake(situation.now, seconds_later(node.unready_since, NODE_LOST_GRACE_S))


def _is_open(situation: Situation, view: View) -> bool:
    """Whether the live budget lets the members go; an API server may have dropped some of the rest."""
    wanted = view.wanted.pdb(is_open=True)
    live = situation.observed.objects.get(ref_of(wanted))
    return live is not None and at(live, *_ALLOWED) == at(wanted, *_ALLOWED)
