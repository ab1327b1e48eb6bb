"""The scaler's part of a plan: what it makes of the situation, and its writes of spec.replicas.

Of the LLMService, and of every LLMServiceScaler: each is decided for by its own demand and its own memory.
A scaler without spec.replicas gets the number that its role says, so that whoever reads or writes it finds
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from hortator.api.v1alpha1 import API_VERSION, KIND, AutoscalingStatus, RoleName
from hortator.operator.autoscaling import ScalingDecision, ScalingState, decide
from hortator.operator.demand import SAMPLE_S, Demand
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.reading import mapping, seconds_later
from hortator.operator.plan.actions import Item, Scale, Wake, emitted, wake
from hortator.operator.progress import is_overdue, progress_of
from hortator.operator.scalers import RoleScaler
from hortator.operator.situation import Situation
from hortator.operator.status.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleScaling:
    """An LLMServiceScaler, and what is decided for it."""

    scaler: RoleScaler
    decision: ScalingDecision | None
    """None: nobody has asked for one, or it is not in force."""


def scaling_of(situation: Situation, demand: Demand) -> ScalingDecision | None:
    """What is decided for the number of role sets; None: nobody has asked for a scaler."""
    scaling = situation.spec.autoscaling
    if scaling is None:
        return None
    hold = _hold(situation)
    if all(situation.scaler_of(role.name) is not None for role in situation.spec.roles):
        hold = "every role has an LLMServiceScaler: none has a say in the number of role sets"
    state = ScalingState(
        replicas=situation.spec.replicas,
        units="role sets",
        asked_of="every role",
        are_all_ready=_are_all_ready(situation, None),
        hold=hold,
    )
    memory = memory_of(situation.meta.status)
    return decide(scaling, state=state, demand=demand, memory=memory, now=situation.now)


def role_scalings(situation: Situation, demands: Mapping[str, Demand]) -> tuple[RoleScaling, ...]:
    """What is decided for every LLMServiceScaler; `demands` are by their names."""
    return tuple(
        RoleScaling(scaler=one, decision=_decision(situation, one, demands.get(one.facts.name, Demand())))
        for one in situation.scalers
    )


def _decision(situation: Situation, one: RoleScaler, demand: Demand) -> ScalingDecision | None:
    if one.scaler is None or one.scaler.spec.autoscaling is None or one.scaler.spec.replicas is None:
        return None
    role = one.scaler.spec.role
    hold = _hold(situation)
    if situation.spec.replicas == 0:
        hold = "spec.replicas of the LLMService is 0"
    state = ScalingState(
        replicas=one.scaler.spec.replicas,
        units=f"{role} groups per role set",
        asked_of=f"role {role}",
        are_all_ready=_are_all_ready(situation, role),
        hold=hold,
    )
    memory = memory_of(one.facts.status)
    return decide(one.scaler.spec.autoscaling, state=state, demand=demand, memory=memory, now=situation.now)


def _hold(situation: Situation) -> str:
    if situation.spec.suspend:
        return "spec.suspend is true"
    if is_overdue(situation, progress_of(situation)):
        return "the rollout makes no progress"
    return ""


def _are_all_ready(situation: Situation, role: RoleName | None) -> bool:
    """Every wanted group (of a role) serves, and none moves or goes."""
    moving = [view.wanted.role for view in progress_of(situation).moving]
    going = [group.role for group, _ in situation.surplus]
    views = [view for view in situation.views if role in {None, view.wanted.role}]
    return all(view.is_available for view in views) and not any(
        role in {None, other} for other in (*moving, *going)
    )


def memory_of(status: Obj) -> AutoscalingStatus | None:
    """What a status says of earlier writes; None: nothing that can be read."""
    try:
        return AutoscalingStatus.model_validate(mapping(status, "autoscaling"))
    except ValidationError:
        return None


def scaling_items(situation: Situation, decision: ScalingDecision | None) -> Iterator[Item]:
    """The write of spec.replicas if it has been announced; else a look soon that makes it."""
    if decision is not None:
        meta = situation.meta
        ref = Ref(api_version=API_VERSION, kind=KIND, namespace=meta.namespace, name=meta.name)
        yield from _carried_out(
            situation, decision, ref=ref, version=meta.resource_version, replicas=situation.spec.replicas
        )


def role_scaling_items(situation: Situation, scaling: RoleScaling) -> Iterator[Item]:
    """The same for an LLMServiceScaler."""
    one, decision = scaling.scaler, scaling.decision
    if one.scaler is None or one.facts.problems:
        return
    version = one.facts.resource_version
    if one.scaler.spec.replicas is None:
        why = f"spec.replicas of {one.ref} is absent: role {one.role} says {one.num_groups}"
        yield Scale(ref=one.ref, replicas=one.num_groups, resource_version=version, why=why)
    elif decision is not None:
        yield from _carried_out(
            situation, decision, ref=one.ref, version=version, replicas=one.scaler.spec.replicas
        )


def _carried_out(
    situation: Situation, decision: ScalingDecision, *, ref: Ref, version: str, replicas: int
) -> Iterator[Item]:
    now = situation.now
    yield from wake(now, seconds_later(now, SAMPLE_S))
    if decision.write is not None:
        yield Scale(ref=ref, replicas=decision.write, resource_version=version, why=decision.why)
        said = f"spec.replicas from {replicas} to {decision.write}: {decision.why}"
        yield emitted(Reason.SCALED, said, about=ref)
    elif decision.memory.next_replicas is not None:
        yield Wake(at=now)
