"""What is said of one group: its phase, what keeps it from being ready, its members, its timeline.

    phase       Waiting, Starting, Ready, Draining, Restarting, Stalled, Suspended
    finding     the one reason, with the pod, node or resource in its message; None for a group as wanted

How many requests are in flight is told only while a group drains, when somebody waits for it; else the status
would be written with every request. The live count is the scheduler's to tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from hortator.api.v1alpha1.status import GroupStatus, LastFailure, MemberStatus, Timeline
from hortator.operator import topology
from hortator.operator.capacity import room_for
from hortator.operator.lifecycle import Stage, is_lost
from hortator.operator.observed import Failure, GroupFacts, PodFacts
from hortator.operator.observed.reading import format_time, seconds_later
from hortator.operator.rollout import Turn
from hortator.operator.situation import Situation, View
from hortator.operator.status import evidence
from hortator.operator.status.evidence import Finding
from hortator.operator.status.reasons import Reason, known
from hortator.operator.waiting import (
    deadline,
    lacking,
    model_wait_of,
    need_for,
    next_start,
    num_unplaced,
    why_not,
)

MAX_MESSAGE = 1024

_NO_PLACE = {
    Reason.INSUFFICIENT_GPU,
    Reason.INSUFFICIENT_RDMA,
    Reason.INSUFFICIENT_RESOURCES,
    Reason.TOPOLOGY_UNSATISFIED,
    Reason.UNSCHEDULABLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """A wanted group and what is said of it."""

    view: View
    phase: str
    finding: Finding | None

    @property
    def is_ready(self) -> bool:
        """Ready, and not about to go; one that stays at an earlier revision for now counts."""
        is_kept = self.view.turn in {Turn.WAITS, Turn.HELD} and not self.view.is_outdated
        return self.view.is_available and (self.finding is None or is_kept)

    @property
    def is_placed(self) -> bool:
        """Every pod has a node."""
        return self.view.group.replicas > 0 and num_unplaced(self.view) <= 0


def report(situation: Situation, view: View) -> GroupReport:
    """What is said of one wanted group. Total."""
    phase, finding = _told(situation, view)
    if finding is not None:
        finding = replace(finding, message=finding.message[:MAX_MESSAGE])
    return GroupReport(view=view, phase=phase, finding=finding)


def group_status(situation: Situation, said: GroupReport) -> GroupStatus:
    """The entry in `status.groups`."""
    view, group = said.view, said.view.group
    end = deadline(situation, group)
    start = next_start(situation, view) if view.stage is Stage.CLOSED else None
    key = situation.spec.placement.topology_key
    window_s = situation.spec.restart.window_s
    is_draining = view.assessment.is_draining
    return GroupStatus(
        name=view.wanted.name,
        role=view.wanted.role,
        index=view.wanted.index,
        worker_id=view.wanted.worker_id,
        revision=group.revision,
        epoch=group.epoch,
        phase=said.phase,
        reason=said.finding.reason if said.finding else Reason.ALL_GROUPS_READY,
        message=said.finding.message if said.finding else "",
        domain=group.node_selector.get(key, "") if key else "",
        members=_members(view),
        restarts=sum(seconds_later(time, window_s) > situation.now for time in group.memory.restarts),
        next_restart_at=format_time(start) if start else None,
        last_failure=_last_failure(group.memory.failure),
        timeline=_timeline(view),
        in_flight=group.load.num_in_flight if group.load is not None and is_draining else None,
        drain_deadline=format_time(end) if end else None,
    )


def _told(situation: Situation, view: View) -> tuple[str, Finding | None]:
    group, name = view.group, view.wanted.name
    if situation.statefulset_ref(name) in situation.observed.leftovers:
        message = f"StatefulSet {name} belongs to another owner or is being deleted"
        return "Waiting", Finding(reason=Reason.NAME_TAKEN, message=message)
    match view.stage:
        case Stage.ABSENT:
            return "Waiting", _leaving(situation, group) or _creating(f"group {name} is being created")
        case Stage.CLOSED:
            return _closed(situation, view)
        case Stage.STARTING if view.assessment.is_draining and view.takes_requests:
            return _serving(view)
        case Stage.STARTING:
            return "Starting", _starting(situation, view)
        case Stage.STALLED:
            return "Stalled", _stalled(situation, group)
        case Stage.FAILED:
            failure = view.assessment.failure
            phase = "Stalled" if situation.spec.restart.policy == "None" else "Restarting"
            return phase, _failed(failure) if failure else None
        case Stage.SERVING:
            return _serving(view)


def _closed(situation: Situation, view: View) -> tuple[str, Finding | None]:
    group, name, failure = view.group, view.wanted.name, view.group.memory.failure
    if situation.spec.suspend:
        if group.pods:
            message = f"pod {group.pods[0].ref.name} is still going"
            return "Draining", Finding(reason=Reason.SUSPENDING, message=message)
        return "Suspended", Finding(reason=Reason.SUSPENDED, message="spec.suspend is true")
    leaving = _leaving(situation, group)
    if leaving is not None:
        return "Restarting", leaving
    model = model_wait_of(situation, view)
    if model is not None:
        return "Waiting", model
    refused = why_not(situation, view)
    start = next_start(situation, view)
    if start is not None and failure is None:
        message = f"group {name} has left a cordoned node, and starts elsewhere at {format_time(start)}"
        return "Restarting", refused or Finding(reason=Reason.NODE_CORDONED, message=message)
    if start is not None and failure is not None:
        if failure.reason == Reason.GANG_TIMEOUT:
            message = f"{failure.message}; it tries again at {format_time(start)}"
            return "Waiting", refused or Finding(reason=Reason.GANG_TIMEOUT, message=message)
        message = f"group {name} starts again at {format_time(start)}: {failure.message}"
        return "Restarting", Finding(reason=Reason.RESTART_BACKOFF, message=message, pod=failure.pod)
    return "Waiting", refused or _creating(f"group {name} is about to start")


def _leaving(situation: Situation, group: GroupFacts) -> Finding | None:
    """What is said while pods of an old epoch are still there."""
    for pod in group.pods:
        node = situation.observed.nodes.get(pod.node)
        if pod.node and situation.observed.nodes and is_lost(node, situation.now):
            message = (
                f"pod {pod.ref.name} cannot be shown to have ended, because node {pod.node} does not answer; "
                "the group starts again once the node is back, deleted or tainted out-of-service"
            )
            return Finding(reason=Reason.NODE_LOST, message=message, pod=pod.ref.name, node=pod.node)
    if not group.pods:
        return None
    failure = group.memory.failure
    why = f" after: {failure.message}" if failure is not None else ""
    message = f"group {group.name} waits for pod {group.pods[0].ref.name} of an earlier epoch to end{why}"
    return Finding(reason=Reason.GROUP_RESTARTING, message=message, pod=group.pods[0].ref.name)


def _starting(situation: Situation, view: View) -> Finding:
    group = view.group
    found = evidence.worst(evidence.of_group(group, num_members=view.assessment.num_members))
    if found is None:
        return _creating(f"group {group.name} is about to be ready")
    missing = num_unplaced(view)
    need = need_for(situation, view)
    if found.reason in _NO_PLACE and missing > 0 and need.has_devices and situation.observed.nodes:
        own = f"{situation.desired.owner.namespace}/{group.name}"
        claims = [claim for claim in situation.observed.claims if claim.name != own]
        rest = replace(need, num_pods=missing)
        room = room_for(rest, nodes=situation.observed.nodes, claims=claims)
        if not room.fits:
            counted = lacking(situation, view, rest, room)
            return replace(found, reason=counted.reason, message=f"{counted.message}; {found.message}")
    return found


def _serving(view: View) -> tuple[str, Finding | None]:
    group, memory = view.group, view.group.memory
    if memory.drain_started_at is not None:
        cause = memory.drain_reason or "on request"
        in_flight = group.load.num_in_flight if group.load is not None else None
        left = f", {in_flight} requests in flight" if in_flight is not None else ""
        message = f"group {group.name} drains ({cause}){left}"
        return "Draining", Finding(reason=Reason.DRAINING, message=message)
    if not view.assessment.is_ready:
        found = evidence.worst(evidence.of_group(group, num_members=view.assessment.num_members))
        return "Ready", found or Finding(reason=Reason.NOT_READY, message=f"group {group.name} is not ready")
    if view.turn is Turn.MOVES:
        message = (
            f"group {group.name} still runs revision {group.revision}, wanted is {view.wanted.revision}: "
            "its turn has come"
        )
        return "Ready", Finding(reason=Reason.ROLLING_UPDATE, message=message)
    if view.is_outdated:
        message = f"group {group.name} is still to restart, as somebody has asked"
        return "Ready", Finding(reason=Reason.RESTART_REQUESTED, message=message)
    if view.decision.reason is not None:
        return "Ready", Finding(reason=view.decision.reason, message=view.decision.message)
    return "Ready", None


def _stalled(situation: Situation, group: GroupFacts) -> Finding:
    failure = group.memory.failure
    said = failure.message if failure is not None else "no record of the failure is left"
    message = f"group {group.name} has used up its {situation.spec.restart.max_restarts} restarts: {said}"
    return Finding(
        reason=Reason.STALLED,
        message=message,
        pod=failure.pod if failure is not None else "",
        node=failure.node if failure is not None else "",
    )


def _failed(failure: Failure) -> Finding:
    reason = known(failure.reason, Reason.CONTAINER_FAILED)
    return Finding(reason=reason, message=failure.message, pod=failure.pod, node=failure.node)


def _creating(message: str) -> Finding:
    return Finding(reason=Reason.PODS_CREATING, message=message)


def _members(view: View) -> tuple[MemberStatus, ...]:
    pods = {pod.ordinal: pod for pod in view.group.current_pods}
    load = view.group.load
    boot_id = load.boot_id if load is not None else ""
    return tuple(
        _member(one, pods.get(one.ordinal), boot_id if one.ordinal == 0 else "")
        for one in view.wanted.members
    )


def _member(wanted: topology.Member, pod: PodFacts | None, boot_id: str) -> MemberStatus:
    ranks = topology.ranks_text(wanted.ranks)
    if pod is None:
        return MemberStatus(index=wanted.ordinal, pod=wanted.pod, ranks=ranks)
    return MemberStatus(
        index=wanted.ordinal,
        pod=wanted.pod,
        node=pod.node,
        ready=pod.is_ready,
        boot_id=boot_id,
        ranks=ranks,
        restart_count=pod.num_restarts,
        waiting_reason=pod.waiting_reason or pod.unplaced_reason,
    )


def _last_failure(failure: Failure | None) -> LastFailure | None:
    if failure is None:
        return None
    return LastFailure(
        pod=failure.pod,
        node=failure.node,
        container=failure.container,
        exit_code=failure.exit_code,
        signal=failure.signal,
        reason=failure.reason,
        message=failure.message,
        time=format_time(failure.at),
    )


def _timeline(view: View) -> Timeline | None:
    """Of the present epoch alone: from the note of its admission, and from its pods.

    None before there is anything: an empty object is turned into null by server-side apply, and refused.
    """
    group, pods = view.group, view.group.current_pods
    is_whole = len(pods) >= view.assessment.num_members > 0
    found = Timeline(
        admitted=_shown(group.memory.admitted_at),
        created=_latest((pod.created_at for pod in pods), is_whole=is_whole),
        scheduled=_latest((pod.placed_at for pod in pods), is_whole=is_whole),
        images_pulled=_latest((pod.running_since for pod in pods), is_whole=is_whole),
        ready=_latest((pod.ready_at for pod in pods), is_whole=is_whole),
    )
    return found if found != Timeline() else None


def _latest(moments: Iterable[datetime | None], *, is_whole: bool) -> str | None:
    """When the last member got there; None until all have."""
    reached = list(moments)
    known_moments = [moment for moment in reached if moment is not None]
    if not is_whole or len(known_moments) < len(reached):
        return None
    return format_time(max(known_moments))


def _shown(moment: datetime | None) -> str | None:
    return format_time(moment) if moment is not None else None
