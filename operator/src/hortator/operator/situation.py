"""Everything a plan is made from, put side by side: each wanted group with what exists of it.

A group that exists is *outdated* when its template is of another revision than the spec asks for, when
spec.restart.requestedAt names a time that the group has not carried out yet, or when somebody has asked for a
drain of its very epoch (annotation `drain-requested`; it means nothing to the next epoch). An outdated group
that does not serve is closed at once; one that serves waits for its turn (`disruption`). Either way its next
start is new: restarts, backoff and the end of the budget are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from hortator.api.v1alpha1 import LLMService, LLMServiceSpec
from hortator.operator import names
from hortator.operator.desired import Desired, DesiredGroup
from hortator.operator.lifecycle import Assessment, Stage, assess, is_lost, takes_requests
from hortator.operator.objects import Ref
from hortator.operator.observed import GroupFacts, Memory, Meta, Observed
from hortator.operator.observed.reading import seconds_later, texts


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One wanted group: what should be, what is, and the stage that makes of it."""

    wanted: DesiredGroup
    group: GroupFacts
    assessment: Assessment
    is_outdated: bool
    is_cordoned: bool
    """A node of a member is cordoned."""

    @property
    def stage(self) -> Stage:
        """Where the group stands."""
        return self.assessment.stage

    @property
    def takes_requests(self) -> bool:
        """Requests may be in flight: it must be drained before it goes."""
        return takes_requests(self.group, self.stage)

    @property
    def is_available(self) -> bool:
        """Serves, with every member ready, and is not going away."""
        return self.assessment.is_ready and not self.assessment.is_draining


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One LLMService at one moment."""

    service: LLMService
    meta: Meta
    desired: Desired
    observed: Observed
    now: datetime
    views: tuple[View, ...]
    """In the order of `desired.groups`."""
    surplus: tuple[tuple[GroupFacts, Assessment], ...]
    """Groups that exist, or of which something is left, and that nobody wants any more."""

    @property
    def spec(self) -> LLMServiceSpec:
        """What is wanted."""
        return self.service.spec

    @property
    def requested_restart(self) -> str:
        """spec.restart.requestedAt; "" when there is none."""
        return self.service.spec.restart.requested_at or ""

    def num_unavailable(self, *, but: str = "") -> int:
        """Wanted groups that serve nobody now, without the one named."""
        return sum(not view.is_available for view in self.views if view.wanted.name != but)

    def statefulset_ref(self, name: str) -> Ref:
        """Of a group's StatefulSet."""
        return Ref(
            api_version="apps/v1", kind="StatefulSet", namespace=self.desired.owner.namespace, name=name
        )


def situation_of(
    service: LLMService, *, meta: Meta, desired: Desired, observed: Observed, now: datetime
) -> Situation:
    """Put everything side by side. Total."""
    views = tuple(_view(service, wanted, observed, now) for wanted in desired.groups)
    names = {wanted.name for wanted in desired.groups}
    surplus = tuple(
        (group, assess(group, num_members=members_of(group), observed=observed, now=now))
        for name, group in sorted(observed.groups.items())
        if name not in names
    )
    return Situation(
        service=service, meta=meta, desired=desired, observed=observed, now=now, views=views, surplus=surplus
    )


def members_of(group: GroupFacts) -> int:
    """How many pods a group should have by its own account: as many as were recorded, or as are asked for."""
    return len(group.memory.members) or group.replicas


def fresh(memory: Memory) -> Memory:
    """What is left of the notes when a group starts anew after a change of the spec or on request."""
    return Memory(restart_observed=memory.restart_observed)


def kept(memory: Memory, *, now: datetime, window_s: float) -> Memory:
    """What is left of the notes when a group is closed on purpose: the restarts within the window."""
    recent = tuple(time for time in memory.restarts if seconds_later(time, window_s) > now)
    return replace(fresh(memory), restarts=recent)


def _view(service: LLMService, wanted: DesiredGroup, observed: Observed, now: datetime) -> View:
    group = observed.group(wanted.name) or _nothing(wanted)
    requested = service.spec.restart.requested_at or ""
    is_other = group.exists and group.revision != wanted.revision
    is_served = requested in {"", group.memory.restart_observed}
    drain_requested = texts(group.statefulset, "metadata", "annotations").get(
        names.ANNOTATION_DRAIN_REQUESTED
    )
    is_unwanted = is_other or not is_served or drain_requested == str(group.epoch)
    num_members = members_of(group) if is_other else wanted.num_members
    assessment = assess(group, num_members=num_members, observed=observed, now=now)
    nodes = [observed.nodes.get(pod.node) for pod in group.current_pods if pod.node]
    return View(
        wanted=wanted,
        group=group,
        assessment=assessment,
        is_outdated=group.exists and is_unwanted,
        is_cordoned=any(node is not None and node.is_cordoned and not is_lost(node, now) for node in nodes),
    )


def _nothing(wanted: DesiredGroup) -> GroupFacts:
    return GroupFacts(
        name=wanted.name,
        role=wanted.role,
        index=wanted.index,
        worker_id=wanted.worker_id,
        uid="",
        epoch=0,
        revision="",
        replicas=0,
        node_selector={},
        memory=Memory(),
        pods=(),
        statefulset={},
        load=None,
        events=(),
    )
