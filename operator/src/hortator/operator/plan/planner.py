"""observe -> plan -> apply: the one function that decides what the operator does next.

Rules:

1. Level-triggered: the plan follows from what is there, never from what was done before. The only memory
   is in annotations of StatefulSets (`observed.memory`); an operator that starts in the middle goes on there.
2. One step: what a plan asks for may be done now, and nothing of it waits for an effect of the rest. A group
   gets at most one write to its StatefulSet. Doing the same plan twice, or half of it, harms nothing.
3. Rest: with nothing to do there are no actions, and the status is written only when it says something new.
4. A spec that breaks a rule changes nothing: it is not accepted, and the last one that was (`accepted`) is
   carried out instead.
5. Total: no state of the cluster makes it raise.

Order inside a plan: the record of the spec, certificates, what is shared, what is one too many, each group's
own step, starts, drains, gangs that nobody is in any more, pulls of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from hortator.api.problem import Problem
from hortator.api.v1alpha1 import LLMService
from hortator.operator.demand import Demand
from hortator.operator.desired import Desired
from hortator.operator.objects import Obj
from hortator.operator.observed import Meta, Observed
from hortator.operator.plan.actions import Action, Emit, Item, Plan, StatusOf, Wake, wake
from hortator.operator.plan.admission import admissions
from hortator.operator.plan.certificates import certificates
from hortator.operator.plan.disruption import voluntary_drains
from hortator.operator.plan.events import transitions
from hortator.operator.plan.gang import old_pod_groups
from hortator.operator.plan.groups import next_step
from hortator.operator.plan.pulls import pulls
from hortator.operator.plan.removal import removals
from hortator.operator.plan.scaling import (
    RoleScaling,
    memory_of,
    role_scaling_items,
    role_scalings,
    scaling_items,
    scaling_of,
)
from hortator.operator.plan.shared import record, shared_objects
from hortator.operator.progress import progress_of
from hortator.operator.scalers import RoleScaler, refused
from hortator.operator.situation import Situation, situation_of
from hortator.operator.status.reasons import Reason
from hortator.operator.status.report import invalid_status, is_same, status_of, unknown_status
from hortator.operator.status.scalers import refused_status, scaler_status


def plan(
    service: LLMService | None,
    *,
    meta: Meta,
    desired: Desired | None,
    problems: Sequence[Problem],
    observed: Observed,
    now: datetime,
    demand: Demand | None = None,
    role_demands: Mapping[str, Demand] | None = None,
) -> Plan:
    """The next step for one LLMService.

    `demand` is what its own scaler goes by, where it has one; `role_demands` the same by LLMServiceScaler.

    With `problems`, `service` and `desired` are those of the last spec that was accepted, if it is known:
    that one is carried out, and the status says that the present one is refused. Otherwise nothing is
    touched.
    """
    if service is None or desired is None:
        status = unknown_status(meta, problems=problems, now=now)
        message = f"LLMService {meta.name} has never had a spec without problems"
        unused = refused(observed.scalers, Reason.INVALID_SPEC, message)
        return _plan((), meta=meta, status=status, scalers=refused_statuses(unused, now=now), now=now)
    situation = situation_of(service, meta=meta, desired=desired, observed=observed, now=now)
    roles = role_scalings(situation, role_demands or {})
    scalers = tuple(_status_of(situation, one) for one in roles)
    items: list[Item] = [*_items(situation)]
    if problems:  # the scaler waits for a spec that it may write
        status = status_of(situation, scaling_memory=memory_of(meta.status))
        status = invalid_status(status, meta=meta, problems=problems, now=now)
    else:
        scaling = scaling_of(situation, demand or Demand())
        memory = scaling.memory if scaling is not None else None
        status = status_of(situation, scaling=scaling, scaling_memory=memory)
        items += scaling_items(situation, scaling)
    for one, told in zip(roles, scalers, strict=True):
        items += role_scaling_items(situation, one)
        items += transitions(one.scaler.facts.status, told.status, about=told.ref)
    return _plan(items, meta=meta, status=status, scalers=scalers, now=now)


def refused_statuses(scalers: Iterable[RoleScaler], *, now: datetime) -> tuple[StatusOf, ...]:
    """What scalers say that change nothing."""
    return tuple(StatusOf(ref=one.ref, status=refused_status(one, now=now)) for one in scalers)


def _status_of(situation: Situation, one: RoleScaling) -> StatusOf:
    decision, facts = one.decision, one.scaler.facts
    memory = decision.memory if decision is not None else memory_of(facts.status) if facts.problems else None
    status = scaler_status(situation, one.scaler, scaling=decision, scaling_memory=memory)
    return StatusOf(ref=one.scaler.ref, status=status)


def _items(situation: Situation) -> Iterator[Item]:
    yield from record(situation)
    yield from certificates(situation)
    yield from shared_objects(situation)
    yield from removals(situation)
    for view in situation.all_views:
        yield from next_step(situation, view)
    yield from admissions(situation)
    yield from voluntary_drains(situation)
    yield from old_pod_groups(situation)
    yield from pulls(situation)
    yield from _deadline(situation)
    for one in situation.avoided:
        yield from wake(situation.now, one.until)


def _deadline(situation: Situation) -> Iterator[Item]:
    """Look again when a rollout begins to take too long: time alone changes what is said of it."""
    deadline = progress_of(situation).deadline
    if deadline is not None:
        yield from wake(situation.now, deadline)


def _plan(
    items: Iterable[Item], *, meta: Meta, status: Obj, scalers: tuple[StatusOf, ...], now: datetime
) -> Plan:
    actions: list[Action] = []
    events: list[Emit] = []
    wakes: list[datetime] = []
    for item in items:
        match item:
            case Emit():
                events.append(item)
            case Wake():
                wakes.append(item.at)
            case _:
                actions.append(item)
    return Plan(
        actions=tuple(actions),
        status=status,
        status_changed=not is_same(status, meta.status),
        scalers=scalers,
        events=(*events, *transitions(meta.status, status)),
        wake_after_s=max(0.0, (min(wakes) - now).total_seconds()) if wakes else None,
    )
