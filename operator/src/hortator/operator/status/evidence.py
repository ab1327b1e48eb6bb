"""From what Kubernetes shows of a pod to a reason: which pod, which node, what it says.

Each rule is a row of a table in the tests. A pod may show several things; the first that applies is told:

1. the API server refuses to create it (events of its StatefulSet): quota, policy;
2. a container waits with an error: image, configuration, crash loop;
3. it has no node: what kube-scheduler says;
4. a volume cannot be mounted (events): secret, claim;
5. it runs and is not ready, or is not made yet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from hortator.operator.lifecycle import has_everything_started
from hortator.operator.observed import Ending, GroupFacts, JobFacts, PodFacts, WarningEvent
from hortator.operator.observed.reading import seconds_later
from hortator.operator.status.reasons import Reason, blame

_SECRET = re.compile(
    r"secrets? \\?\"(?P<name>[^\"\\]+)\\?\" (?:not found|is forbidden)"
    r"|couldn't find key (?P<key>\S+) in Secret (?P<in>\S+)"
)
_CLAIM = re.compile(
    r"persistentvolumeclaim \"[^\"]+\" (?:not found|is being deleted)"
    r"|unbound immediate PersistentVolumeClaims"
)
_QUOTA = re.compile(r"exceeded quota: [^,]+")
_BOOTSTRAP = re.compile(
    r"joined within|not complete within|did not reach the leader|has not taken this member|bootstrap"
    r"|startup probe failed",
    re.IGNORECASE,
)
"""What a worker says at its end (`hortator.worker.group`) when it waited for the others in vain."""
_DEVICE = re.compile(r"Insufficient (?P<name>[-\w./]+?)\.?(?=[,\s]|$)")
CLOCKS_APART_S = 30.0
"""By how much the operator's clock may be ahead of the API server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that keeps a group or process from being ready."""

    reason: Reason
    message: str
    pod: str = ""
    node: str = ""


def worst(findings: Sequence[Finding]) -> Finding | None:
    """The one to tell: the first by order of blame, then by pod."""
    return min(findings, key=lambda finding: blame(finding.reason), default=None)


def of_group(group: GroupFacts, *, num_members: int) -> list[Finding]:
    """What keeps an admitted group from being ready; empty when nothing does."""
    found = [finding for pod in group.current_pods if (finding := of_pod(pod)) is not None]
    missing = num_members - len(group.current_pods)
    if missing > 0:
        found.append(_not_created(group, missing, num_members))
    running = [pod for pod in group.current_pods if pod.running_since is not None]
    idle = [pod for pod in group.current_pods if pod.running_since is None and not pod.is_ready]
    unready = [pod for pod in running if not pod.is_ready]
    if unready and (idle or missing > 0):
        names = ", ".join(pod.ref.name for pod in idle[:3]) or f"{missing} pods that do not exist yet"
        message = f"{len(running)} of {num_members} members run and wait for {names}"
        found.append(Finding(reason=Reason.WAITING_FOR_PEERS, message=message, pod=unready[0].ref.name))
    elif unready and has_everything_started(group, num_members):
        first = unready[0]
        reason = Reason.NOT_READY if group.memory.members else Reason.LOADING_WEIGHTS
        what = "runs but is not ready" if group.memory.members else "starts its engine"
        message = f"pod {first.ref.name} on node {first.node} {what}"
        found.append(Finding(reason=reason, message=message, pod=first.ref.name, node=first.node))
    return found


def of_pod(pod: PodFacts) -> Finding | None:
    """What keeps one pod from running; None when it runs."""
    if pod.is_ready:
        return None
    return _of_waiting(pod) or _of_ending(pod) or _of_placement(pod) or _of_events(pod) or _of_creation(pod)


def of_pods(pods: Sequence[PodFacts]) -> list[Finding]:
    """`of_pod` for those that have something to say."""
    return [finding for pod in pods if (finding := of_pod(pod)) is not None]


def of_job(job: JobFacts) -> Finding:
    """What the download into the model cache waits for, of a Job that is not complete."""
    if job.is_failed:
        message = f"Job {job.name} failed: {job.message or 'it ended without saying why'}"
        return Finding(reason=Reason.MODEL_DOWNLOAD_FAILED, message=message)
    staying = [pod for pod in job.pods if not pod.is_deleting and pod.phase != "Succeeded"]
    living = [pod for pod in staying if pod.phase != "Failed"]
    found = [of_evicted(pod) or of_pod(pod) for pod in living or staying]
    blocking = worst([one for one in found if one is not None and one.reason is not Reason.PODS_CREATING])
    if not living:
        created = [pod.created_at for pod in job.pods if pod.created_at is not None]
        blocking = refusal(job.events, since=max(created, default=None)) or blocking
    if blocking is not None:
        return replace(blocking, message=f"{blocking.message} (Job {job.name} fills the model cache)")
    said = [one.message for one in found if one is not None] + [_again(pod) for pod in living if pod.ending]
    message = ": ".join([f"Job {job.name} fills the model cache", *said[:1]])
    return Finding(reason=Reason.MODEL_DOWNLOADING, message=message)


def of_evicted(pod: PodFacts) -> Finding | None:
    """What a pod tells that its node has thrown out; None of any other."""
    if pod.status_reason != "Evicted":
        return None
    return _finding(pod, Reason.POD_EVICTED, f"pod {pod.ref.name} was evicted: {pod.status_message}")


def _again(pod: PodFacts) -> str:
    """Of a pod that runs once more."""
    ending = pod.ending
    if ending is None:
        return ""
    how = "ran out of memory" if ending.reason == "OOMKilled" else f"ended with exit code {ending.exit_code}"
    said = f": {ending.message.strip()}" if ending.message.strip() else ""
    return f"pod {pod.ref.name} runs again, restarts: {pod.num_restarts}; the last time it {how}{said}"


def refusal(events: Sequence[WarningEvent], *, since: datetime | None) -> Finding | None:
    """Why the API server refused to create a pod, by the events of its controller since some time."""
    for event in sorted(events, key=lambda entry: str(entry.last_at), reverse=True):
        if event.reason != "FailedCreate":
            continue
        if since and event.last_at and event.last_at < seconds_later(since, -CLOCKS_APART_S):
            continue
        quota = _QUOTA.search(event.message)
        if quota is not None:
            return Finding(
                reason=Reason.QUOTA_EXCEEDED, message=event.message[event.message.index(quota[0]) :]
            )
        return Finding(reason=Reason.POD_REFUSED, message=event.message)
    return None


def of_unplaced(message: str) -> Reason:
    """What kube-scheduler's sentence means."""
    if _CLAIM.search(message):
        return Reason.PVC_NOT_BOUND
    devices = [match["name"] for match in _DEVICE.finditer(message)]
    if devices:
        return min((of_device(device) for device in devices), key=blame)
    if re.search(r"affinity|selector|topology", message):
        return Reason.TOPOLOGY_UNSATISFIED
    return Reason.UNSCHEDULABLE


def of_device(name: str) -> Reason:
    """The reason for lacking a resource."""
    lowered = name.lower()
    if "gpu" in lowered:
        return Reason.INSUFFICIENT_GPU
    if any(word in lowered for word in ("rdma", "hca", "infiniband", "roce")):
        return Reason.INSUFFICIENT_RDMA
    return Reason.INSUFFICIENT_RESOURCES


def _not_created(group: GroupFacts, missing: int, num_members: int) -> Finding:
    refused = refusal(group.events, since=group.memory.admitted_at)
    if refused is not None:
        return refused
    message = f"{missing} of {num_members} pods of group {group.name} do not exist yet"
    return Finding(reason=Reason.PODS_CREATING, message=message)


def _of_waiting(pod: PodFacts) -> Finding | None:
    where = f"container {pod.waiting_container} of pod {pod.ref.name}"
    said = f": {pod.waiting_message}" if pod.waiting_message else ""
    match pod.waiting_reason:
        case "ImagePullBackOff" | "RegistryUnavailable" | "ImageInspectError":
            return _finding(pod, Reason.IMAGE_PULL_BACK_OFF, f"{where} cannot pull its image{said}")
        case "ErrImagePull" | "ErrImageNeverPull":
            return _finding(pod, Reason.ERR_IMAGE_PULL, f"{where} cannot pull its image{said}")
        case "InvalidImageName":
            return _finding(pod, Reason.INVALID_IMAGE_NAME, f"{where} has an invalid image{said}")
        case "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError":
            secret = _missing_secret(pod.waiting_message)
            if secret is not None:
                return _finding(pod, Reason.SECRET_NOT_FOUND, f"{secret}, needed by {where}")
            return _finding(pod, Reason.CONTAINER_CONFIG_ERROR, f"{where} cannot be made{said}")
        case "CrashLoopBackOff":
            return _of_crash(pod, where)
        case _:
            return None


def _of_crash(pod: PodFacts, where: str) -> Finding:
    ending = pod.ending
    if ending is None:
        return _finding(pod, Reason.CRASH_LOOP_BACK_OFF, f"{where} ends again and again")
    said = f": {ending.message.strip()}" if ending.message.strip() else ""
    if ending.reason == "OOMKilled":
        return _finding(pod, Reason.OOM_KILLED, f"{where} ran out of memory {pod.num_restarts} times{said}")
    reason = Reason.RANK_BOOTSTRAP_TIMEOUT if _is_bootstrap(pod, ending) else Reason.CRASH_LOOP_BACK_OFF
    message = f"{where} ended {pod.num_restarts} times, the last time with exit code {ending.exit_code}{said}"
    return _finding(pod, reason, message)


def _of_ending(pod: PodFacts) -> Finding | None:
    """A container that has ended and is not running again."""
    ending = pod.ending
    if ending is None or pod.running_since is not None or pod.waiting_reason == "PodInitializing":
        return None
    said = f": {ending.message.strip()}" if ending.message.strip() else ""
    where = f"container {ending.container} of pod {pod.ref.name}"
    if ending.reason == "OOMKilled":
        return _finding(pod, Reason.OOM_KILLED, f"{where} ran out of memory{said}")
    reason = Reason.RANK_BOOTSTRAP_TIMEOUT if _is_bootstrap(pod, ending) else Reason.CONTAINER_FAILED
    return _finding(pod, reason, f"{where} ended with exit code {ending.exit_code}{said}")


def _is_bootstrap(pod: PodFacts, ending: Ending) -> bool:
    if _BOOTSTRAP.search(ending.message):
        return True
    failed = [event for event in pod.events if event.reason in {"Unhealthy", "Killing"}]
    return any("startup probe" in event.message.lower() for event in failed)


def _of_placement(pod: PodFacts) -> Finding | None:
    if pod.is_placed or not pod.unplaced_message:
        return None
    message = f"pod {pod.ref.name} has no node: {pod.unplaced_message}"
    is_gated = pod.unplaced_reason == "SchedulingGated"
    return _finding(pod, Reason.GANG_PENDING if is_gated else of_unplaced(pod.unplaced_message), message)


def _of_events(pod: PodFacts) -> Finding | None:
    """What keeps a placed pod from being made, known only from events: volumes that cannot be mounted."""
    if pod.running_since is not None:
        return None
    for event in sorted(pod.events, key=lambda entry: str(entry.last_at), reverse=True):
        if event.reason not in {"FailedMount", "FailedAttachVolume", "FailedScheduling"}:
            continue
        secret = _missing_secret(event.message)
        if secret is not None:
            return _finding(pod, Reason.SECRET_NOT_FOUND, f"{secret}, needed by pod {pod.ref.name}")
        if event.reason == "FailedScheduling":
            if pod.is_placed:
                continue
            message = f"pod {pod.ref.name} has no node: {event.message}"
            return _finding(pod, of_unplaced(event.message), message)
        message = f"a volume of pod {pod.ref.name} cannot be mounted: {event.message}"
        is_claim = "persistentvolumeclaim" in event.message.lower()
        reason = Reason.PVC_NOT_BOUND if is_claim else Reason.CONTAINER_CONFIG_ERROR
        return _finding(pod, reason, message)
    return None


def _of_creation(pod: PodFacts) -> Finding | None:
    if pod.running_since is not None:
        return None
    what = "is being made" if pod.is_placed else "waits for a node"
    return _finding(pod, Reason.PODS_CREATING, f"pod {pod.ref.name} {what}")


def _missing_secret(message: str) -> str | None:
    match = _SECRET.search(message)
    if match is None:
        return None
    if match["name"]:
        return f"Secret {match['name']} does not exist"
    _, _, name = match["in"].rpartition("/")
    return f"Secret {name} has no key {match['key']}"


def _finding(pod: PodFacts, reason: Reason, message: str) -> Finding:
    return Finding(reason=reason, message=message, pod=pod.ref.name, node=pod.node)
