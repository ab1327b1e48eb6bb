"""The whole status of an LLMService, from one situation: nothing is remembered but times of conditions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hortator.api.problem import Problem
from hortator.api.v1alpha1 import RoleSpec
from hortator.api.v1alpha1.status import (
    MAX_GROUPS_IN_STATUS,
    AutoscalingStatus,
    AvoidedNode,
    Display,
    Endpoint,
    LLMServiceStatus,
    RestartStatus,
    RoleStatus,
    RolloutStatus,
    SchedulerStatus,
)
from hortator.operator import names, topology
from hortator.operator.autoscaling import ScalingDecision
from hortator.operator.objects import Obj
from hortator.operator.observed import Meta
from hortator.operator.observed.reading import format_time, items, text
from hortator.operator.progress import progress_of
from hortator.operator.situation import Situation, current_revision
from hortator.operator.status.conditions import (
    OBSERVED,
    Verdict,
    conditions,
    rollout_message,
    scaling_verdicts,
    verdicts,
)
from hortator.operator.status.groups import MAX_MESSAGE, GroupReport, group_status, report
from hortator.operator.status.reasons import Reason

_NOBODY_LOOKS = "no spec that was accepted earlier is known: nothing is observed or done until one is valid"

MAX_MOVING = 16
_LASTING = {"selector", "endpoints", "restart", "autoscaling"}


def status_of(
    situation: Situation,
    *,
    scaling: ScalingDecision | None = None,
    scaling_memory: AutoscalingStatus | None = None,
) -> Obj:
    """The status to write for an accepted LLMService."""
    reports = [report(situation, view) for view in situation.views]
    beside = [report(situation, view) for view in situation.surge]
    rollout = progress_of(situation)
    meta, spec = situation.meta, situation.spec
    ready = [said for said in reports if said.is_ready]
    scheduler = situation.observed.deployments.get(names.scheduler_name(meta.name))
    loads = situation.observed.loads
    return LLMServiceStatus(
        observed_generation=meta.generation,
        conditions=conditions(
            [*verdicts(situation, reports, beside), *scaling_verdicts(scaling)],
            before=meta.status,
            generation=meta.generation,
            now=situation.now,
        ),
        replicas=_num_sets(situation),
        ready_replicas=_num_ready_sets(reports),
        selector=names.scale_selector(meta.name),
        display=Display(
            groups=f"{len(ready)}/{len(reports)}",
            ranks=f"{_ranks(ready)}/{_ranks(reports)}",
            updated=f"{rollout.num_updated}/{rollout.num_groups}",
        ),
        roles=tuple(_role(situation, role, reports) for role in spec.roles),
        groups=tuple(group_status(situation, said) for said in (*reports, *beside)[:MAX_GROUPS_IN_STATUS]),
        scheduler=SchedulerStatus(
            ready_replicas=scheduler.ready if scheduler is not None else 0,
            endpoint=f"{names.scheduler_name(meta.name)}.{meta.namespace}.svc:{names.PORT_SCHEDULER}",
            registered_ranks=sum(load.num_ranks for load in loads.values()) if loads else None,
        ),
        rollout=RolloutStatus(
            phase=rollout.phase,
            updated_groups=rollout.num_updated,
            total_groups=rollout.num_groups,
            moving=tuple(view.wanted.name for view in rollout.moving[:MAX_MOVING]),
            message=rollout_message(rollout, [*reports, *beside])[:MAX_MESSAGE],
        ),
        restart=RestartStatus(observed_requested_at=_observed_request(situation)),
        autoscaling=scaling_memory,
        avoided_nodes=tuple(
            AvoidedNode(node=one.node, failures=one.num_failures, until=format_time(one.until))
            for one in situation.avoided
        ),
        endpoints=(
            Endpoint(
                name="grpc", url=f"{names.gateway_name(meta.name)}.{meta.namespace}.svc:{names.PORT_GATEWAY}"
            ),
        ),
    ).as_dict()


def invalid_status(said: Obj, *, meta: Meta, problems: Sequence[Problem], now: datetime) -> Obj:
    """The status of an object that breaks a rule while its last accepted spec is carried out.

    `said` is what is observed of that one; the object itself is not accepted, and therefore not ready.
    """
    refused = _refused(meta, problems, now)
    kept = [entry for entry in items(said, "conditions") if text(entry, "type") not in {"Ready", "Accepted"}]
    return dict(said) | {"conditions": refused + kept}


def unknown_status(meta: Meta, *, problems: Sequence[Problem], now: datetime) -> Obj:
    """The status of an object that breaks a rule when nothing says what was accepted before: nobody looks.

    Of what the object says now only that stays which nothing that happens makes untrue.
    """
    unknown = [
        Verdict(type=kind, status="Unknown", reason=Reason.INVALID_SPEC, message=_NOBODY_LOOKS)
        for kind in OBSERVED
    ]
    lasting = {name: value for name, value in meta.status.items() if name in _LASTING}
    return lasting | {
        "observedGeneration": meta.generation,
        "conditions": _refused(meta, problems, now) + _dumped(unknown, meta, now),
    }


def _refused(meta: Meta, problems: Sequence[Problem], now: datetime) -> list[Obj]:
    said = "; ".join(str(problem) for problem in problems) or "the object cannot be read"
    refused = [
        Verdict(type=kind, status="False", reason=Reason.INVALID_SPEC, message=said)
        for kind in ("Ready", "Accepted")
    ]
    return _dumped(refused, meta, now)


def _dumped(found: Sequence[Verdict], meta: Meta, now: datetime) -> list[Obj]:
    return [
        one.model_dump(mode="json", by_alias=True, exclude_none=True)
        for one in conditions(found, before=meta.status, generation=meta.generation, now=now)
    ]


def is_same(one: Any, other: Any) -> bool:
    """Whether two statuses say the same; what is empty says nothing, so it may be there or not."""
    return bool(_telling(one) == _telling(other))


def _telling(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _telling(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if entry not in (None, "", 0, False, {}, [])}
    if isinstance(value, list | tuple):
        return [_telling(entry) for entry in value]
    return value


def _ranks(reports: Sequence[GroupReport]) -> int:
    return sum(said.view.wanted.num_ranks for said in reports)


def _role(situation: Situation, role: RoleSpec, reports: Sequence[GroupReport]) -> RoleStatus:
    mine = [said for said in reports if said.view.wanted.role == role.name]
    ready = [said for said in mine if said.is_ready]
    update = situation.desired.update_revision(role.name)
    scaler = situation.scaler_of(role.name)
    return RoleStatus(
        name=role.name,
        desired=len(mine),
        scaler=scaler.facts.name if scaler is not None else "",
        created=sum(said.view.group.exists for said in mine),
        scheduled=sum(said.is_placed for said in mine),
        ready=len(ready),
        updated=sum(said.view.is_updated for said in mine),
        current_revision=current_revision(role.name, update, situation.observed),
        update_revision=update,
        ready_ranks=_ranks(ready),
        desired_ranks=_ranks(mine),
    )


def _num_sets(situation: Situation) -> int:
    """Role sets of which a group exists, those that are going among them; surge groups make none."""
    sets = {view.wanted.role_set for view in situation.views if view.group.exists}
    by_name = {role.name: role for role in situation.spec.roles}
    surge = {one.name for one in situation.desired.surge}
    for group, _ in situation.surplus:
        if group.name in surge:
            continue
        role = by_name.get(group.role)
        if group.exists and role is not None and role.replicas > 0:
            sets.add(topology.role_set(role, group.index))
    return len(sets)


def _num_ready_sets(reports: Sequence[GroupReport]) -> int:
    sets = {said.view.wanted.role_set for said in reports}
    return len(sets - {said.view.wanted.role_set for said in reports if not said.is_ready})


def _observed_request(situation: Situation) -> str:
    """The restart that every group has carried out."""
    requested = situation.requested_restart
    served = all(
        view.group.exists and view.group.memory.restart_observed == requested for view in situation.views
    )
    return requested if served else text(situation.meta.status, "restart", "observedRequestedAt")
