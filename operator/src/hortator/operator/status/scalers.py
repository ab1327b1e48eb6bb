"""The status of an LLMServiceScaler: whether it is in force, and what autoscalers count with.

A scaler that is not in force has no selector: an autoscaler then says that it cannot count, and changes
nothing.
"""

from __future__ import annotations

from datetime import datetime

from hortator.api.v1alpha1 import AutoscalingStatus, LLMServiceScalerStatus
from hortator.operator import names
from hortator.operator.autoscaling import ScalingDecision
from hortator.operator.objects import Obj
from hortator.operator.scalers import RoleScaler
from hortator.operator.situation import Situation
from hortator.operator.status.conditions import Verdict, conditions, scaling_verdicts


def scaler_status(
    situation: Situation,
    one: RoleScaler,
    *,
    scaling: ScalingDecision | None,
    scaling_memory: AutoscalingStatus | None,
) -> Obj:
    """The status to write for a scaler of a service whose spec is carried out."""
    role = one.role
    if role is None:
        return refused_status(one, now=situation.now)
    mine = [view for view in situation.views if view.wanted.role == role]
    surge = {beside.name for beside in situation.desired.surge}
    going = [group for group, _ in situation.surplus if group.role == role and group.name not in surge]
    num_existing = sum(view.group.exists for view in mine) + sum(group.exists for group in going)
    num_sets = max(1, situation.spec.replicas)
    return LLMServiceScalerStatus(
        observed_generation=one.facts.generation,
        conditions=conditions(
            [_active(one), *scaling_verdicts(scaling)],
            before=one.facts.status,
            generation=one.facts.generation,
            now=situation.now,
        ),
        replicas=-(-num_existing // num_sets),
        ready_replicas=sum(view.is_available for view in mine) // num_sets,
        selector=names.role_scale_selector(situation.meta.name, role, one.num_groups),
        autoscaling=scaling_memory,
    ).as_dict()


def refused_status(one: RoleScaler, *, now: datetime) -> Obj:
    """The status of a scaler that changes nothing."""
    facts = one.facts
    return LLMServiceScalerStatus(
        observed_generation=facts.generation,
        conditions=conditions([_active(one)], before=facts.status, generation=facts.generation, now=now),
    ).as_dict()


def _active(one: RoleScaler) -> Verdict:
    is_active = one.scaler is not None
    return Verdict(
        type="Active", status="True" if is_active else "False", reason=one.reason, message=one.message
    )
