"""The scaler's part of a plan: what it makes of the situation, and its write of spec.replicas."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from hortator.api.v1alpha1 import API_VERSION, KIND, AutoscalingStatus
from hortator.operator.autoscaling import ScalingDecision, ScalingState, decide
from hortator.operator.demand import SAMPLE_S, Demand
from hortator.operator.objects import Ref
from hortator.operator.observed import Meta
from hortator.operator.observed.reading import mapping, seconds_later
from hortator.operator.plan.actions import Item, Scale, Wake, emitted, wake
from hortator.operator.progress import is_overdue, progress_of
from hortator.operator.situation import Situation
from hortator.operator.status.reasons import Reason


def scaling_of(situation: Situation, demand: Demand) -> ScalingDecision | None:
    """What the scaler decides; None: nobody has asked for one."""
    scaling = situation.spec.autoscaling
    if scaling is None:
        return None
    progress = progress_of(situation)
    is_at_rest = not (progress.moving or situation.surplus)
    hold = ""
    if situation.spec.suspend:
        hold = "spec.suspend is true"
    elif is_overdue(situation, progress):
        hold = "the rollout makes no progress"
    state = ScalingState(
        replicas=situation.spec.replicas,
        are_all_ready=is_at_rest and all(view.is_available for view in situation.views),
        hold=hold,
    )
    return decide(scaling, state=state, demand=demand, memory=memory_of(situation.meta), now=situation.now)


def memory_of(meta: Meta) -> AutoscalingStatus | None:
    """What the status says of earlier writes; None: nothing that can be read."""
    try:
        return AutoscalingStatus.model_validate(mapping(meta.status, "autoscaling"))
    except ValidationError:
        return None


def scaling_items(situation: Situation, decision: ScalingDecision | None) -> Iterator[Item]:
    """The write of spec.replicas if it has been announced; else a look soon that makes it."""
    if decision is None:
        return
    meta, now, replicas = situation.meta, situation.now, situation.spec.replicas
    yield from wake(now, seconds_later(now, SAMPLE_S))
    if decision.write is not None:
        ref = Ref(api_version=API_VERSION, kind=KIND, namespace=meta.namespace, name=meta.name)
        yield Scale(
            ref=ref, replicas=decision.write, resource_version=meta.resource_version, why=decision.why
        )
        yield emitted(Reason.SCALED, f"spec.replicas from {replicas} to {decision.write}: {decision.why}")
    elif decision.memory.next_replicas is not None:
        yield Wake(at=now)
