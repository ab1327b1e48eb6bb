"""Has a node the image that a group on it is to move to? What a rollout waits for before it drains the group.

    DONE        the container of the Job's pod was started, or could not be for another reason than its image
    FAILING     the node says that it cannot pull the image: its group stays: it would not come back
    GIVEN_UP    nothing of that within `LIMIT_S` (a slow pull, no room, a quota), or no Job could be made
                for `REFUSED_LIMIT_S`: the group moves all the same
    PENDING     anything else, and no Job yet

A group needs pulls while it serves with another image than the one it is to move to, on every node of its
members that is there and not cordoned. It needs none once it drains, while it may not move, or when nothing
is ever pulled (imagePullPolicy Never). All of it follows from the Jobs that are there, but for how long the
API server has refused to make one (an admission policy, a quota of Jobs, a role that was cut): that is known
to the operator that tried, so with another operator the time begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from hortator.operator import names
from hortator.operator.desired import DesiredGroup
from hortator.operator.lifecycle import is_lost
from hortator.operator.manifests import pull
from hortator.operator.objects import Obj, Ref, ref_of
from hortator.operator.observed import GroupFacts, JobFacts, Observed, PodFacts, Refusal
from hortator.operator.observed.reading import instant, mapping, seconds_later, text, texts
from hortator.operator.status import evidence
from hortator.operator.status.evidence import Finding
from hortator.operator.status.reasons import Reason

LIMIT_S = 1800.0
"""From the start of a pull: 30 GB at 17 MB/s."""
REFUSED_LIMIT_S = 120.0
"""From the first refusal of a Job."""
REFUSED_RETRY_S = 60.0
"""From a refusal to the next try."""
_REFUSED_FORGOTTEN_S = 3 * REFUSED_RETRY_S
"""From the last refusal, when nobody has tried again: nothing was to be pulled meanwhile."""
_CANNOT_PULL = {Reason.IMAGE_PULL_BACK_OFF, Reason.ERR_IMAGE_PULL, Reason.INVALID_IMAGE_NAME}
_AFTER_THE_PULL = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


class PullState(StrEnum):
    """How far a pull is."""

    PENDING = "Pending"
    DONE = "Done"
    FAILING = "Failing"
    GIVEN_UP = "GivenUp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One image on one node."""

    node: str
    image: str
    job: Obj
    """As it is created."""
    state: PullState
    since: datetime | None
    """When the Job was made; None: there is none."""
    ended_at: datetime | None
    """When nobody waited for it any more; None: somebody does, or it is FAILING."""
    is_stale: bool
    """Kubernetes has ended the Job: it is to be made again."""
    told: str
    """What keeps it, for people."""

    @property
    def ref(self) -> Ref:
        """Of the Job."""
        return ref_of(self.job)


def pulls_of(
    wanted: DesiredGroup, group: GroupFacts, *, observed: Observed, now: datetime
) -> tuple[Pull, ...]:
    """What must be pulled before this group moves to `wanted`, by node. Total."""
    image, policy = pull.image_of(wanted.template)
    before, _ = pull.image_of(mapping(group.statefulset, "spec", "template"))
    if not image or image == before or policy == "Never":
        return ()
    nodes = sorted({pod.node for pod in group.current_pods if pod.node})
    return tuple(
        _pull(pull.job(wanted.template, node=node, owner=wanted.owner), node, image, observed, now)
        for node in nodes
        if _can_pull(node, observed, now)
    )


def wait_for(pulls: Sequence[Pull]) -> Finding | None:
    """What a group waits for before it moves; None: nothing, or nothing any more."""
    failing = [one for one in pulls if one.state is PullState.FAILING]
    if failing:
        first = failing[0]
        message = f"until node {first.node} can pull image {first.image}: {first.told}"
        return Finding(reason=Reason.PRE_PULL_FAILED, message=message, node=first.node)
    pending = [one for one in pulls if one.state is PullState.PENDING]
    if pending:
        first = pending[0]
        others = f" and {len(pending) - 1} more" if len(pending) > 1 else ""
        said = f": {first.told}" if first.told else ""
        message = f"until node {first.node}{others} has pulled image {first.image}{said}"
        return Finding(reason=Reason.PRE_PULLING, message=message, node=first.node)
    return None


def is_pull(obj: Obj) -> bool:
    """Whether an object is such a Job."""
    labels = texts(obj, "metadata", "labels")
    return text(obj, "kind") == "Job" and labels.get(names.LABEL_COMPONENT) == names.COMPONENT_PULL


def refusal_of(before: Refusal | None, message: str, *, now: datetime) -> Refusal:
    """What is known once the API server has refused a Job, by what was known before."""
    known = _lasting(before, now)
    return Refusal(since=known.since if known is not None else now, at=now, message=message)


def within_s(one: Pull) -> float:
    """For how long one that is given up was waited for."""
    return REFUSED_LIMIT_S if one.since is None else LIMIT_S


def _lasting(refusal: Refusal | None, now: datetime) -> Refusal | None:
    if refusal is None or now >= seconds_later(refusal.at, _REFUSED_FORGOTTEN_S):
        return None
    return refusal


def _can_pull(node: str, observed: Observed, now: datetime) -> bool:
    """Whether a pod may be placed there; of nodes that cannot be seen that is assumed."""
    facts = observed.nodes.get(node)
    if facts is None:
        return not observed.nodes
    return not facts.is_cordoned and not is_lost(facts, now)


def _pull(job: Obj, node: str, image: str, observed: Observed, now: datetime) -> Pull:
    ref = ref_of(job)
    live = observed.objects.get(ref) if ref not in observed.leftovers else None
    facts = observed.jobs.get(ref.name) if live is not None else None
    since = instant(live, "metadata", "creationTimestamp")
    limit = seconds_later(since, LIMIT_S) if since is not None else None
    found = _keeps(facts)
    refusal = _lasting(observed.pull_refusal, now) if live is None else None
    if refusal is not None:
        limit = seconds_later(refusal.since, REFUSED_LIMIT_S)
        found = Finding(reason=Reason.PRE_PULLING, message=f"the Job is refused: {refusal.message}")
    ended_at: datetime | None = None
    is_stale = (
        facts is not None
        and facts.is_failed
        and since is not None
        and now >= seconds_later(since, pull.DEADLINE_S / 2)
    )
    if facts is not None and (facts.is_complete or any(map(_has_image, facts.pods))):
        state, ended_at = PullState.DONE, instant(live, "status", "completionTime") or since
    elif found is not None and found.reason in _CANNOT_PULL:
        state = PullState.FAILING
    elif not is_stale and limit is not None and now >= limit:
        state, ended_at = PullState.GIVEN_UP, limit
    else:
        state = PullState.PENDING
    return Pull(
        node=node,
        image=image,
        job=job,
        state=state,
        since=since,
        ended_at=ended_at,
        is_stale=is_stale,
        told=found.message if found is not None else "",
    )


def _has_image(pod: PodFacts) -> bool:
    return pod.is_started or pod.waiting_reason in _AFTER_THE_PULL


def _keeps(job: JobFacts | None) -> Finding | None:
    """What keeps the Job's pod from running."""
    if job is None:
        return None
    if job.is_failed:
        return Finding(reason=Reason.PRE_PULLING, message=f"Job {job.name} failed: {job.message}")
    living = [pod for pod in job.pods if not pod.is_deleting and pod.phase not in {"Succeeded", "Failed"}]
    refused = evidence.refusal(job.events, since=None) if not living else None
    return refused or evidence.worst(evidence.of_pods(living))
