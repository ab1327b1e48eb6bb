"""Everything a plan is made from, put side by side: each wanted group with what exists of it.

A group whose template is of another revision than the spec asks for is wanted at that revision once its turn
has come, and until then at the one that it runs (`rollout`): `View.wanted` is the group as it is to be made
now. Where the ControllerRevision of what it runs is gone, or has another shape than the role, that is not to
be had: such a group goes on as long as it runs, and its next start is as spec asks.

A group that exists is *outdated* when its turn to move has come, when spec.restart.requestedAt names a time
that the group has not carried out yet, or when somebody has asked for a drain of its very epoch (annotation
`drain-requested`; it means nothing to the next epoch). An outdated group that does not serve is closed at
once; one that serves is drained (`disruption`). Either way its next start is new: restarts, backoff and the
end of the budget are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from hortator.api.v1alpha1 import LLMService, LLMServiceSpec, RoleName
from hortator.operator import names
from hortator.operator.avoidance import Avoided, avoided
from hortator.operator.desired import Desired, DesiredGroup
from hortator.operator.lifecycle import Assessment, Stage, assess, is_lost, takes_requests
from hortator.operator.objects import Ref, ref_of
from hortator.operator.observed import GroupFacts, Memory, Meta, Observed
from hortator.operator.observed.reading import number, seconds_later, texts
from hortator.operator.pulls import Pull, pulls_of, wait_for
from hortator.operator.revision import has_shape, hash_of
from hortator.operator.rollout import Decision, Standing, Turn, decisions, is_held, shortfall
from hortator.operator.scalers import RoleScaler, role_scalers
from hortator.operator.status.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One wanted group: what should be, what is, and the stage that makes of it."""

    wanted: DesiredGroup
    """As it is to be made now."""
    standing: Standing
    """What decides when it moves."""
    decision: Decision
    """Whether it may move there."""
    group: GroupFacts
    assessment: Assessment
    is_outdated: bool
    is_cordoned: bool
    """A node of a member is cordoned."""
    pulls: tuple[Pull, ...]
    """What its nodes are to pull before it moves."""

    @property
    def stage(self) -> Stage:
        """Where the group stands."""
        return self.assessment.stage

    @property
    def turn(self) -> Turn:
        """What it may do about its revision."""
        return self.decision.turn

    @property
    def is_updated(self) -> bool:
        """It runs what spec asks for, or is being started with it."""
        return self.group.exists and self.group.revision == self.standing.update

    @property
    def is_moving(self) -> bool:
        """On its way to the revision that spec asks for, and not ready in it yet."""
        return self.turn is Turn.MOVES or (self.is_updated and self.group.memory.moved_at is not None)

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
    surge: tuple[View, ...]
    """Groups beside them, wanted only while these move."""
    surplus: tuple[tuple[GroupFacts, Assessment], ...]
    """Groups that exist, or of which something is left, and that nobody wants any more."""
    scalers: tuple[RoleScaler, ...]
    """What has become of the LLMServiceScalers that name it; `spec` has their numbers in it."""
    avoided: tuple[Avoided, ...]
    """Nodes that groups are not placed on while there are others."""

    @property
    def spec(self) -> LLMServiceSpec:
        """What is wanted."""
        return self.service.spec

    def scaler_of(self, role: RoleName) -> RoleScaler | None:
        """The scaler that a role belongs to."""
        return next((one for one in self.scalers if one.role == role), None)

    @property
    def requested_restart(self) -> str:
        """spec.restart.requestedAt; "" when there is none."""
        return self.service.spec.restart.requested_at or ""

    @property
    def all_views(self) -> tuple[View, ...]:
        """What the operator looks after: the wanted groups, and those beside them."""
        return (*self.views, *self.surge)

    def shortfall(self, *, taken: Iterable[str]) -> int:
        """By how many groups the roles fall short of what is wanted, with those `taken` away."""
        return shortfall((view.standing for view in self.all_views), taken=taken)

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
    seen = [
        *(_seen(service, wanted, observed, now, is_surge=False) for wanted in desired.groups),
        *(_seen(service, wanted, observed, now, is_surge=True) for wanted in desired.surge),
    ]
    decided = decisions(
        [one.standing for one in seen],
        service.spec.rollout,
        is_model_there=is_model_there(desired, observed),
    )
    views = tuple(_view(service, one, decided[one.wanted.name], observed, now) for one in seen)
    base, beside = views[: len(desired.groups)], views[len(desired.groups) :]
    surge = tuple(view for view in beside if _is_rolling(view.wanted.role, base) and not service.spec.suspend)
    looked_after = {view.wanted.name for view in (*base, *surge)}
    surplus = tuple(
        (group, assess(group, num_members=members_of(group), observed=observed, now=now))
        for name, group in sorted(observed.groups.items())
        if name not in looked_after
    )
    return Situation(
        service=service,
        meta=meta,
        desired=desired,
        observed=observed,
        now=now,
        views=base,
        surge=surge,
        surplus=surplus,
        scalers=role_scalers(observed.scalers, service),
        avoided=avoided(observed.groups, now=now, window_s=service.spec.restart.window_s),
    )


def is_model_there(desired: Desired, observed: Observed) -> bool:
    """Whether the cache is full, or nobody fills one. A Job for another model says nothing."""
    if desired.prefetch is None:
        return True
    ref = ref_of(desired.prefetch)
    live, job = observed.objects.get(ref), observed.jobs.get(ref.name)
    is_it = live is not None and ref not in observed.leftovers and hash_of(live) == hash_of(desired.prefetch)
    return is_it and job is not None and job.is_complete


def members_of(group: GroupFacts) -> int:
    """How many pods a group should have by its own account: as many as were recorded, or as are asked for."""
    return len(group.memory.members) or group.replicas


def fresh(memory: Memory) -> Memory:
    """What is left of the notes when a group starts anew after a change of the spec or on request."""
    return Memory(
        restart_observed=memory.restart_observed, moved_at=memory.moved_at, vacated_at=memory.vacated_at
    )


def kept(memory: Memory, *, now: datetime, window_s: float) -> Memory:
    """What is left of the notes when a group is closed on purpose: what happened within the window."""
    recent = tuple(time for time in memory.restarts if seconds_later(time, window_s) > now)
    disruptions = tuple(time for time in memory.disruptions if seconds_later(time, window_s) > now)
    failures = tuple(one for one in memory.node_failures if seconds_later(one.at, window_s) > now)
    return replace(fresh(memory), restarts=recent, disruptions=disruptions, node_failures=failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A group before anything is decided about it."""

    wanted: DesiredGroup
    """As spec asks for it."""
    stays: DesiredGroup | None
    """As it is made when it does not move; None: that is not known, or it has nowhere to move to."""
    group: GroupFacts
    assessment: Assessment
    standing: Standing
    pulls: tuple[Pull, ...]


def _seen(
    service: LLMService, wanted: DesiredGroup, observed: Observed, now: datetime, *, is_surge: bool
) -> _Seen:
    group = observed.group(wanted.name) or _nothing(wanted)
    revision = group.revision if group.exists else ""
    if not group.exists and not is_surge and is_held(wanted.index, service.spec.rollout):
        revision = current_revision(wanted.role, wanted.revision, observed)
    stays = _kept_at(wanted, revision, observed) if revision != wanted.revision else None
    is_unknown = group.exists and group.revision != wanted.revision and stays is None
    num_members = members_of(group) if is_unknown else wanted.num_members
    assessment = assess(group, num_members=num_members, observed=observed, now=now)
    standing = Standing(
        name=wanted.name,
        role=wanted.role,
        index=wanted.index,
        revision=group.revision if group.exists else stays.revision if stays is not None else "",
        update=wanted.revision,
        exists=group.exists,
        is_available=assessment.is_ready and not assessment.is_draining,
        is_on_its_way=assessment.is_draining and group.memory.drain_reason == Reason.ROLLING_UPDATE,
        is_surge=is_surge,
    )
    pulls: tuple[Pull, ...] = ()
    if (
        standing.is_old
        and assessment.stage is Stage.SERVING
        and _may_pull(service.spec, standing, assessment)
    ):
        pulls = pulls_of(wanted, group, observed=observed, now=now)
    return _Seen(
        wanted=wanted,
        stays=stays,
        group=group,
        assessment=assessment,
        standing=replace(standing, pull=wait_for(pulls)),
        pulls=pulls,
    )


def _may_pull(spec: LLMServiceSpec, standing: Standing, assessment: Assessment) -> bool:
    """Whether the nodes of an old group that serves are to pull before it moves."""
    may_move = not is_held(standing.index, spec.rollout) and not spec.suspend
    return may_move and spec.rollout.pre_pull != "Off" and not assessment.is_draining


def current_revision(role: RoleName, update: str, observed: Observed) -> str:
    """What groups of the role run that have not moved to `update`: the newest of it; else `update`."""
    numbers = {
        hash_of(obj): number(obj, "revision")
        for ref, obj in observed.objects.items()
        if ref.kind == "ControllerRevision" and ref not in observed.leftovers
    }
    others = [
        group.revision
        for group in observed.groups.values()
        if group.exists and group.role == role and group.revision not in {"", update}
    ]
    return max(others, key=lambda revision: (numbers.get(revision, 0), revision), default=update)


def _kept_at(wanted: DesiredGroup, revision: str, observed: Observed) -> DesiredGroup | None:
    """The group as it was made before, if that is known and its pods are as many, and as large, as now."""
    name = names.revision_name(wanted.owner.name, wanted.role, revision)
    namespace = wanted.owner.namespace
    ref = Ref(api_version="apps/v1", kind="ControllerRevision", namespace=namespace, name=name)
    obj = observed.objects.get(ref)
    is_usable = obj is not None and ref not in observed.leftovers and has_shape(obj, wanted.group.role)
    return wanted.at(obj) if obj is not None and is_usable else None


def _view(service: LLMService, one: _Seen, decision: Decision, observed: Observed, now: datetime) -> View:
    group, stays = one.group, one.stays
    is_kept = decision.turn in {Turn.WAITS, Turn.HELD} and stays is not None
    requested = service.spec.restart.requested_at or ""
    is_served = requested in {"", group.memory.restart_observed}
    drain_requested = texts(group.statefulset, "metadata", "annotations").get(
        names.ANNOTATION_DRAIN_REQUESTED
    )
    is_unwanted = decision.turn is Turn.MOVES or not is_served or drain_requested == str(group.epoch)
    nodes = [observed.nodes.get(pod.node) for pod in group.current_pods if pod.node]
    return View(
        wanted=stays if is_kept and stays is not None else one.wanted,
        standing=one.standing,
        decision=decision,
        group=group,
        assessment=one.assessment,
        is_outdated=group.exists and is_unwanted,
        is_cordoned=any(node is not None and node.is_cordoned and not is_lost(node, now) for node in nodes),
        pulls=one.pulls,
    )


def _is_rolling(role: RoleName, views: Iterable[View]) -> bool:
    """A group of the role moves, or waits for its turn."""
    return any(view.wanted.role == role and (view.is_moving or view.turn is Turn.WAITS) for view in views)


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
