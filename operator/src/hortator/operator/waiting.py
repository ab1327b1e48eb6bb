"""What a group waits for, and until when: the clocks and the arithmetic that plan and status share.

n-th restart within the window   delay(1) = 0,  delay(n) = min(maxDelay, baseDelay x 2^(n - 2))
n-th try after a gang timeout    10 s x 2^(n - 1), at most 300 s, times a factor from 0.5 to 1.5
gang timeout                     from the admission of a group, while pods have no node; where another
                                 scheduler sees to gangs from the first pod with a node
start after a cordoned node      7 s after the group was closed
drain                            until nothing is in flight and the scheduler has acknowledged, or the timeout
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime

from hortator.api.v1alpha1 import RestartSpec
from hortator.operator.capacity import Need, Room, need_of, room_for
from hortator.operator.lifecycle import Assessment, takes_requests
from hortator.operator.manifests.gang import PROVIDERS
from hortator.operator.observed import GroupFacts, Memory
from hortator.operator.observed.pods import is_device
from hortator.operator.observed.reading import seconds_later
from hortator.operator.situation import Situation, View, fresh, is_model_there
from hortator.operator.status.evidence import Finding, of_device, of_job
from hortator.operator.status.reasons import Reason

GANG_RETRY_S = 10.0
GANG_RETRY_MAX_S = 300.0
VACATED_S = 7.0
"""`kubectl drain` evicts by name, again every 5 s: it must not meet who has come back under that name."""


def next_start(situation: Situation, view: View) -> datetime | None:
    """When a closed group may start again; None when that time has come."""
    start = not_before(
        memory_of_next_start(view),
        restart=situation.spec.restart,
        uid=situation.meta.uid,
        name=view.wanted.name,
    )
    return start if start is not None and start > situation.now else None


def num_unplaced(view: View) -> int:
    """Members of the present epoch without a node."""
    return view.assessment.num_members - sum(pod.is_placed for pod in view.group.current_pods)


def gang_deadline(situation: Situation, view: View) -> datetime | None:
    """When a started group whose pods are not all placed gives its nodes back; None: nothing runs."""
    start = view.group.memory.admitted_at
    if num_unplaced(view) <= 0 or start is None:
        return None
    if view.wanted.gang is not None:
        placed = [pod.placed_at or start for pod in view.group.current_pods if pod.is_placed]
        if not placed:
            return None
        start = max(start, min(placed))
    return seconds_later(start, situation.spec.placement.gang.timeout_s)


def not_before(memory: Memory, *, restart: RestartSpec, uid: str, name: str) -> datetime | None:
    """When a closed group may start again; None: at once."""
    times = (_after_failure(memory, restart=restart, uid=uid, name=name), _after_vacated(memory))
    return max((time for time in times if time is not None), default=None)


def _after_failure(memory: Memory, *, restart: RestartSpec, uid: str, name: str) -> datetime | None:
    failure = memory.failure
    if failure is not None and failure.reason == Reason.GANG_TIMEOUT:
        return seconds_later(failure.at, gang_delay_s(uid, name, failure.attempt))
    times = sorted((*memory.restarts, *memory.disruptions))
    if failure is None or not times:
        return None
    return seconds_later(times[-1], delay_s(len(times), restart))


def _after_vacated(memory: Memory) -> datetime | None:
    return seconds_later(memory.vacated_at, VACATED_S) if memory.vacated_at is not None else None


def delay_s(num_restarts: int, restart: RestartSpec) -> float:
    """Before the n-th restart within the window."""
    if num_restarts <= 1:
        return 0.0
    doublings = min(num_restarts - 2, 60)
    return float(min(restart.max_delay_s, restart.base_delay_s * 2.0**doublings))


def gang_delay_s(uid: str, name: str, attempt: int) -> float:
    """Between half and one and a half of a wait that doubles; groups that collided do not collide again.

    The part of chance comes from a digest of uid, name and attempt, so every plan says the same.
    """
    middle = min(GANG_RETRY_MAX_S, GANG_RETRY_S * 2.0 ** min(max(attempt, 1) - 1, 30))
    drawn = hashlib.sha256(f"{uid}/{name}/{attempt}".encode()).digest()
    return middle * (0.5 + int.from_bytes(drawn[:4], "big") / 2**32)


def is_drained(situation: Situation, group: GroupFacts, assessment: Assessment) -> bool:
    """Whether a group may go: asked for, and nothing is lost by it (or the time is up)."""
    if not takes_requests(group, assessment.stage):
        return True
    end = deadline(situation, group)
    if end is None:
        return False
    load = group.load
    is_idle = load is not None and load.is_draining and load.num_in_flight == 0
    return is_idle or situation.now >= end


def deadline(situation: Situation, group: GroupFacts) -> datetime | None:
    """When the drain ends, whatever is in flight; None when none has begun."""
    started = group.memory.drain_started_at
    return seconds_later(started, situation.spec.drain.timeout_s) if started is not None else None


def model_wait(situation: Situation) -> Finding | None:
    """Why no group may start before the model is there; None when it is, or nobody waits for it."""
    prefetch = situation.desired.prefetch
    if prefetch is None or is_model_there(situation.desired, situation.observed):
        return None
    name = prefetch["metadata"]["name"]
    job = situation.observed.jobs.get(name)
    if job is None or job.is_complete:
        return Finding(reason=Reason.MODEL_DOWNLOADING, message=f"Job {name} is being created")
    return of_job(job)


def model_wait_of(situation: Situation, view: View) -> Finding | None:
    """The same for one group: the model of one that stays at an earlier revision has been there since."""
    return model_wait(situation) if view.wanted.revision == view.standing.update else None


def device_group_being_placed(situation: Situation) -> View | None:
    """A started group with devices that has pods without a node, and that no other scheduler sees to."""
    for view in situation.all_views:
        is_started = view.group.exists and view.group.replicas > 0 and view.wanted.gang is None
        if is_started and need_for(situation, view).has_devices and num_unplaced(view) > 0:
            return view
    return None


def is_room_looked_for(situation: Situation, view: View) -> bool:
    """Whether the operator sees to the group's gang."""
    return view.wanted.gang is None and situation.spec.placement.gang.provider != "None"


def is_provider_missing(situation: Situation, view: View) -> bool:
    """Whether the group is to start in a gang of another scheduler, which is not there."""
    gang = view.wanted.gang
    return gang is not None and gang.provider not in situation.observed.gang_providers


def need_for(situation: Situation, view: View) -> Need:
    """What a group asks of the nodes."""
    placement = situation.spec.placement
    return need_of(
        view.wanted.template,
        num_pods=view.wanted.num_members,
        topology_key=placement.topology_key or "",
        is_domain_required=placement.mode == "Required",
    )


def room_in(situation: Situation, view: View) -> Room | None:
    """Where the group fits, without the nodes that are avoided if it can be.

    None when there is nothing to count, nodes cannot be seen or the operator does not see to gangs.
    """
    need = need_for(situation, view)
    is_counted = need.has_devices and is_room_looked_for(situation, view)
    if not is_counted or not situation.observed.nodes:
        return None
    own = f"{situation.desired.owner.namespace}/{view.wanted.name}"
    claims = [claim for claim in situation.observed.claims if claim.name != own]
    nodes = situation.observed.nodes
    names = frozenset(one.node for one in situation.avoided if one.node in nodes)
    if names:
        room = room_for(replace(need, avoided=names), nodes=nodes, claims=claims)
        if room.fits:
            return room
    return room_for(need, nodes=nodes, claims=claims)


def why_not(situation: Situation, view: View) -> Finding | None:
    """Why a closed group without pods does not start although its time has come; None when it does."""
    gang = view.wanted.gang
    if gang is not None and is_provider_missing(situation, view):
        kinds = " or ".join(f"{version} {kind}" for version, kind in PROVIDERS[gang.provider].needs)
        message = (
            f"group {view.wanted.name} is to start in a gang of {gang.provider}, but the API server does not "
            f"serve {kinds}, or the operator is not set up for it (gang.providers of the chart)"
        )
        return Finding(reason=Reason.GANG_PROVIDER_MISSING, message=message)
    room = room_in(situation, view)
    if room is None:
        return None
    if not room.fits:
        return lacking(situation, view, need_for(situation, view), room)
    other = device_group_being_placed(situation)
    if other is not None:
        message = f"group {view.wanted.name} waits until every pod of group {other.wanted.name} has a node"
        return Finding(reason=Reason.GANG_PENDING, message=message)
    return None


def memory_of_next_start(view: View) -> Memory:
    """The notes that a group starts with: none of the past when it is outdated."""
    return fresh(view.group.memory) if view.is_outdated else view.group.memory


def lacking(situation: Situation, view: View, need: Need, room: Room) -> Finding:
    """The arithmetic: what the group needs, what there is."""
    wanted, nodes = view.wanted, situation.observed.nodes
    device = room.resource or max(sorted(need.requests), key=is_device)
    amount = _shown(need.requests[device], device)
    is_split = need.is_domain_required and need.topology_key != ""
    if is_split and room.num_slots_anywhere >= need.num_pods:
        message = (
            f"group {wanted.name} needs {need.num_pods} nodes with {amount} free in one {need.topology_key}; "
            f"the best has {room.num_slots}, all together {room.num_slots_anywhere}"
        )
        return Finding(reason=Reason.TOPOLOGY_UNSATISFIED, message=message)
    message = (
        f"group {wanted.name} needs {need.num_pods} nodes with {amount} free, "
        f"has {room.num_slots} of {len(nodes)} nodes"
    )
    return Finding(reason=of_device(device), message=message)


def _shown(amount: float, resource: str) -> str:
    """`8 nvidia.com/gpu`, `512Gi memory`."""
    is_bytes = resource in {"memory", "ephemeral-storage"}
    return f"{amount / 2**30:g}Gi {resource}" if is_bytes else f"{amount:g} {resource}"
