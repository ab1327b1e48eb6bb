"""The operator's own scaler: what spec.replicas should be by what is asked, and whether it may say so.

Of an LLMService it counts role sets, of an LLMServiceScaler groups of a role; below both are *units*.

    up     as many units as were asked for all through scaleUpWindow, at once; one more than there are while
           the predicted TTFT was above its target all that time and every unit served
    down   one unit, when the rest would have been enough all through scaleDownWindow and every unit is ready

Both leave a tenth of slack, so a demand on the border moves nothing. Demand is counted in units (`demand`),
so those that are still starting are not asked for a second time, however long they take.

It never fights. It knows its own writes: status.autoscaling says what it found or wrote last, and what it was
about to write. Any other spec.replicas is somebody else's; it then leaves it alone, and says so, until
spec.autoscaling changes or spec.replicas is set back. A write is announced in the status by one look and
carried out by the next, against the very state of the object that was seen: an operator that is killed
between any two steps does not take its own write for another's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from hortator.api.v1alpha1 import AutoscalingSpec, AutoscalingStatus
from hortator.operator.demand import Demand, Sample
from hortator.operator.status.reasons import Reason

SLACK = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingState:
    """What is scaled, as the scaler sees it."""

    replicas: int
    """spec.replicas."""
    units: str
    """What that counts, for people: role sets, or the groups of a role."""
    asked_of: str
    """Whose load decides, for people."""
    are_all_ready: bool
    """Every wanted group serves, and none moves or goes."""
    hold: str
    """Why nothing may be scaled now; empty: nothing is in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingDecision:
    """What the scaler makes of it."""

    memory: AutoscalingStatus
    """To be kept in the status."""
    write: int | None
    """spec.replicas to be written now."""
    is_active: bool
    reason: Reason
    message: str
    why: str = ""
    """Of the write."""


def decide(
    scaling: AutoscalingSpec,
    *,
    state: ScalingState,
    demand: Demand,
    memory: AutoscalingStatus | None,
    now: datetime,
) -> ScalingDecision:
    """What to write, to keep and to say. Total."""
    settings, replicas = digest(scaling), state.replicas
    if memory is not None and memory.settings != settings:
        memory = None
    if memory is not None and replicas not in {memory.replicas, memory.next_replicas}:
        message = f"somebody else has set spec.replicas to {replicas}; the scaler had it at {memory.replicas}"
        return _waits(memory, Reason.SCALED_BY_OTHERS, message)
    found = AutoscalingStatus(settings=settings, replicas=replicas)
    if state.hold:
        return _waits(found, Reason.SCALING_HELD, state.hold)
    wanted, why = _wanted(scaling, state, demand, now)
    if wanted == replicas and not demand.samples:
        message = f"the scheduler does not say, or not yet, how much is asked of {state.asked_of}"
        return _waits(found, Reason.LOAD_UNKNOWN, message)
    announced = found.model_copy(update={"next_replicas": wanted}) if wanted != replicas else found
    return ScalingDecision(
        memory=announced,
        write=wanted if wanted != replicas and memory == announced else None,
        is_active=True,
        reason=Reason.SCALING,
        message=f"between {scaling.min_replicas} and {scaling.max_replicas} {state.units}",
        why=why,
    )


def _waits(memory: AutoscalingStatus, reason: Reason, message: str) -> ScalingDecision:
    return ScalingDecision(memory=memory, write=None, is_active=False, reason=reason, message=message)


def digest(scaling: AutoscalingSpec) -> str:
    """Of what a person has asked for."""
    return hashlib.sha256(scaling.model_dump_json().encode()).hexdigest()[:16]


def _wanted(scaling: AutoscalingSpec, state: ScalingState, demand: Demand, now: datetime) -> tuple[int, str]:
    """spec.replicas as it should be, and why."""
    replicas = state.replicas
    if replicas < scaling.min_replicas:
        return scaling.min_replicas, f"minReplicas is {scaling.min_replicas}"
    if replicas > scaling.max_replicas:
        return scaling.max_replicas, f"maxReplicas is {scaling.max_replicas}"
    asked = demand.within(scaling.scale_up_window_s, now)
    if asked:
        num_units = min(one.num_units for one in asked)
        up = min(scaling.max_replicas, ceil(num_units / (1.0 + SLACK)))
        if up > replicas:
            return (
                up,
                f"{num_units:.2f} {state.units} have been asked for during {scaling.scale_up_window_s:g} s",
            )
        if replicas < scaling.max_replicas and _is_too_slow(scaling, state, asked):
            why = f"the predicted TTFT has been above {scaling.target_ttft_s:g} s"
            return replicas + 1, f"{why} during {scaling.scale_up_window_s:g} s"
    enough = demand.within(scaling.scale_down_window_s, now)
    if enough and state.are_all_ready and replicas > scaling.min_replicas:
        num_units = max(one.num_units for one in enough)
        is_slow = any(_is_slow(scaling, one) for one in enough)
        if ceil(num_units * (1.0 + SLACK)) < replicas and not is_slow:
            why = f"at most {num_units:.2f} {state.units} have been asked for"
            return replicas - 1, f"{why} during {scaling.scale_down_window_s:g} s"
    return replicas, ""


def _is_too_slow(scaling: AutoscalingSpec, state: ScalingState, asked: Sequence[Sample]) -> bool:
    """All the time, and no unit is on its way that may help."""
    are_serving = all(one.num_serving >= state.replicas for one in asked)
    return state.are_all_ready and are_serving and all(_is_slow(scaling, one) for one in asked)


def _is_slow(scaling: AutoscalingSpec, sample: Sample) -> bool:
    target_s = scaling.target_ttft_s
    return target_s is not None and sample.ttft_s is not None and sample.ttft_s > target_s
