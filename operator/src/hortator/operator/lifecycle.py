"""In which stage of its life is an EP group: one function from facts to a closed set of stages.

    ABSENT ──create, replicas 0──► CLOSED ──admit, replicas N──► STARTING ──all ready, recorded──► SERVING
                                     ▲                              │ a member fails                 │
                                     └──── epoch + 1, replicas 0 ───┴────────── FAILED ◄─────────────┘
                                                                                  │ budget gone
                                                                               STALLED

Closing always writes epoch + 1 and replicas 0 together, so an epoch is admitted at most once and a template
with replicas 0 names an epoch that no pod has ever had. A drain on purpose is not a stage of its own: a group
that serves and has `drain-started-at` is draining.

What counts as a failure (`find_failure`), for a group that has been admitted:

- after all members were ready once (`members` is recorded): a member has another uid, is gone or being
  deleted, a container of it has restarted, it has ended, or its node is lost;
- before: the same, except that nothing is known of earlier pods, and only once every member has started:
  while an image is still being pulled somewhere a restart would help nobody;
- somebody else took replicas away (added ones are taken back without a restart: the members stay who
  they are).

A member that the cluster takes away (preempted, evicted: its condition DisruptionTarget says so) restarts the
group as well, but is no fault of it: such a failure is a disruption and takes nothing from
spec.restart.maxRestarts.

Not being ready is no failure by itself: the readiness of a member that runs comes and goes with its
scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from hortator.operator.observed import Failure, GroupFacts, Member, NodeFacts, Observed, PodFacts
from hortator.operator.observed.reading import seconds_later
from hortator.operator.status.reasons import Reason

NODE_LOST_GRACE_S = 30.0
"""How long a node may be not ready before its members count as lost, after the 40 s until it is told so."""

_LAST = datetime.max.replace(tzinfo=UTC)


class Stage(StrEnum):
    """Where a group stands."""

    ABSENT = "Absent"
    CLOSED = "Closed"
    STARTING = "Starting"
    SERVING = "Serving"
    FAILED = "Failed"
    STALLED = "Stalled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """A group's stage with what decides it."""

    stage: Stage
    failure: Failure | None
    """What has just been found in FAILED; in STALLED what is remembered."""
    num_members: int
    is_ready: bool
    """Every member of this epoch is ready, and is the one that was recorded."""
    is_draining: bool


def assess(group: GroupFacts, *, num_members: int, observed: Observed, now: datetime) -> Assessment:
    """The stage of a group that should have `num_members` pods. Total."""
    memory = group.memory
    failure: Failure | None = None
    if not group.exists:
        stage = Stage.ABSENT
    elif group.replicas == 0 and memory.admitted_at is None:
        stage = Stage.CLOSED
    elif memory.failure is not None and memory.failure.is_stalled and memory.failure.epoch == group.epoch:
        stage, failure = Stage.STALLED, memory.failure
    else:
        failure = find_failure(group, num_members=num_members, nodes=observed.nodes, now=now)
        is_recorded = len(memory.members) == num_members
        stage = Stage.FAILED if failure else Stage.SERVING if is_recorded else Stage.STARTING
    return Assessment(
        stage=stage,
        failure=failure,
        num_members=num_members,
        is_ready=stage is Stage.SERVING and are_all_ready(group, num_members),
        is_draining=memory.drain_started_at is not None,
    )


def takes_requests(group: GroupFacts, stage: Stage) -> bool:
    """Whether requests may be in flight: it serves, or its engine reports already and is about to.

    A group that has failed does not count, whatever the scheduler still believes: there is nothing to drain.
    """
    return stage is Stage.SERVING or (stage is Stage.STARTING and group.load is not None)


def are_all_ready(group: GroupFacts, num_members: int) -> bool:
    """Exactly the wanted members of this epoch exist, and all are ready."""
    ordinals = [pod.ordinal for pod in group.current_pods if pod.is_ready]
    return ordinals == list(range(num_members)) and len(group.pods) == num_members


def find_failure(
    group: GroupFacts, *, num_members: int, nodes: Mapping[str, NodeFacts], now: datetime
) -> Failure | None:
    """The failure of an admitted group that explains the others: the node before its pods, then the first."""
    if group.memory.admitted_at is None or group.replicas < num_members:
        message = f"replicas of StatefulSet {group.name} were changed to {group.replicas} by somebody else"
        return Failure(reason=Reason.REPLICAS_CHANGED, message=message, at=now, epoch=group.epoch)
    current = {pod.ordinal: pod for pod in group.current_pods}
    recorded = group.memory.members
    if not recorded and not has_everything_started(group, num_members):
        return None
    found: list[tuple[int, datetime, Failure]] = []
    for ordinal in range(num_members):
        member, pod = recorded.get(ordinal), current.get(ordinal)
        failure = _failure_of(group, ordinal, member, pod, nodes=nodes, now=now)
        if failure is not None:
            ended = pod.ending.finished_at if pod is not None and pod.ending is not None else None
            found.append((_RANK.get(failure.reason, 9), ended or _LAST, failure))
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def has_everything_started(group: GroupFacts, num_members: int) -> bool:
    """Every member of this epoch exists and has run at least once."""
    ordinals = {pod.ordinal for pod in group.current_pods if pod.is_started}
    return ordinals >= set(range(num_members))


def is_lost(node: NodeFacts | None, now: datetime) -> bool:
    """A node that is gone, out of service, or not ready for longer than the grace."""
    if node is None or node.is_out_of_service:
        return True
    since = node.unready_since
    return not node.is_ready and since is not None and now >= seconds_later(since, NODE_LOST_GRACE_S)


def is_gone(pod: PodFacts, nodes: Mapping[str, NodeFacts]) -> bool:
    """Nothing of a pod can run any more: its Node object is gone, or an administrator has tainted it so."""
    if not nodes or not pod.node:
        return False
    node = nodes.get(pod.node)
    return node is None or node.is_out_of_service


_RANK: dict[str, int] = {
    Reason.NODE_LOST: 0,
    Reason.POD_PREEMPTED: 1,
    Reason.POD_EVICTED: 1,
    Reason.POD_DELETED: 2,
    Reason.OOM_KILLED: 3,
}


def _failure_of(
    group: GroupFacts,
    ordinal: int,
    member: Member | None,
    pod: PodFacts | None,
    *,
    nodes: Mapping[str, NodeFacts],
    now: datetime,
) -> Failure | None:
    name = f"{group.name}-{ordinal}"
    node = pod.node if pod is not None and pod.node else member.node if member is not None else ""
    gone = node not in nodes
    if node and nodes and is_lost(nodes.get(node), now) and not (gone and _is_well(pod)):
        message = f"node {node} of pod {name} {'no longer exists' if gone else 'is not ready'}"
        return _made(Reason.NODE_LOST, message, group, name, node, now)
    if pod is not None and _is_going(pod) and pod.is_disrupted:
        return _disruption(group, pod, node, now)
    if pod is None or (member is not None and pod.uid != member.uid):
        departed = _departed(group, ordinal, member)
        if departed is not None:
            return _disruption(group, departed, departed.node, now)
        what = "is gone" if pod is None else "was replaced"
        return _made(Reason.POD_DELETED, f"pod {name} {what}", group, name, node, now)
    if pod.is_deleting:
        return _made(Reason.POD_DELETED, f"pod {name} is being deleted", group, name, node, now)
    if _is_going(pod) or pod.num_restarts > (member.restarts if member is not None else 0) or _has_ended(pod):
        return _ended(group, pod, node, now)
    return None


def _is_going(pod: PodFacts) -> bool:
    return pod.is_deleting or pod.phase in {"Failed", "Succeeded"}


def _departed(group: GroupFacts, ordinal: int, member: Member | None) -> PodFacts | None:
    """The pod of this epoch that the cluster took away and that is not there any more."""
    found = [pod for pod in group.departed if (pod.ordinal, pod.epoch) == (ordinal, group.epoch)]
    return next((pod for pod in reversed(found) if member is None or pod.uid == member.uid), None)


def _disruption(group: GroupFacts, pod: PodFacts, node: str, now: datetime) -> Failure:
    said = pod.status_message or pod.disruption_message
    if pod.disruption == "PreemptionByScheduler":
        reason, message = Reason.POD_PREEMPTED, "had to go for one of higher priority"
    elif pod.disruption in {"", "TerminationByKubelet", "DeletionByTaintManager"}:
        reason, message = Reason.POD_EVICTED, f"was evicted: {said}"
    else:
        reason, message = Reason.POD_DELETED, f"was taken away: {said}"
    failure = _made(reason, f"pod {pod.ref.name} {message}", group, pod.ref.name, node, now)
    return replace(failure, is_disruption=True)


def _is_well(pod: PodFacts | None) -> bool:
    """Ready and staying. A Node object may be made anew under running pods; if not, its pods are deleted."""
    return pod is not None and pod.is_ready and not pod.is_deleting


def _has_ended(pod: PodFacts) -> bool:
    """Its main container has ended and does not run again yet."""
    return (
        pod.is_started and pod.running_since is None and pod.waiting_reason == "" and pod.ending is not None
    )


def _ended(group: GroupFacts, pod: PodFacts, node: str, now: datetime) -> Failure:
    ending = pod.ending
    if ending is None:
        message = f"a container of pod {pod.ref.name} has restarted"
        return _made(Reason.CONTAINER_FAILED, message, group, pod.ref.name, node, now)
    is_oom = ending.reason == "OOMKilled"
    how = "ran out of memory" if is_oom else _how(ending.exit_code, ending.signal)
    said = f": {ending.message.strip()}" if ending.message.strip() else ""
    return Failure(
        reason=Reason.OOM_KILLED if is_oom else Reason.CONTAINER_FAILED,
        message=f"container {ending.container} of pod {pod.ref.name} {how}{said}",
        at=now,
        epoch=group.epoch,
        pod=pod.ref.name,
        node=node,
        container=ending.container,
        exit_code=ending.exit_code,
        signal=ending.signal,
    )


def _how(exit_code: int, signal: int | None) -> str:
    return f"was killed by signal {signal}" if signal else f"ended with exit code {exit_code}"


def _made(reason: Reason, message: str, group: GroupFacts, pod: str, node: str, now: datetime) -> Failure:
    return Failure(reason=reason, message=message, at=now, epoch=group.epoch, pod=pod, node=node)
