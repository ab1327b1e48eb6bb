"""The conditions, each with one reason; `Ready` copies that of the one that is to blame first.

Ready           every wanted group is current with all members of its epoch ready; scheduler and gateway too
Accepted        the object breaks no rule
ModelReady      the cache is full, or nobody has to wait for one
Scheduled       every pod of every wanted group has a node
WorkersReady    every wanted group is ready and current
SchedulerReady  scheduler and gateway are ready
Available       each role has a ready group and requests can come in; rollouts do not change it
Progressing     something changes by itself
Degraded        a group has failed or is not ready that was (True is bad)
Stalled         a group has used up its restarts (True is bad)
Suspended       spec.suspend is true and no group has a pod
Autoscaling     the operator's own scaler writes spec.replicas; only with spec.autoscaling
CertificatesReady  the Secrets that the operator makes are there and good; only with tls.issuer Operator

An LLMServiceScaler has Autoscaling too, and Active: its role has as many groups as it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from hortator.api.v1alpha1.status import Condition, ConditionStatus
from hortator.operator import names
from hortator.operator.autoscaling import ScalingDecision
from hortator.operator.certificates import RENEWED_AFTER, CertificatesFacts, Wanted, expiring
from hortator.operator.certificates import missing as missing_secrets
from hortator.operator.lifecycle import Stage
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import format_time, instant, items, text
from hortator.operator.progress import Progress, is_overdue, progress_of
from hortator.operator.situation import Situation
from hortator.operator.status import evidence
from hortator.operator.status.evidence import Finding
from hortator.operator.status.groups import MAX_MESSAGE, GroupReport
from hortator.operator.status.reasons import Reason
from hortator.operator.waiting import is_room_looked_for, model_wait, need_for

OBSERVED = (
    "ModelReady",
    "Scheduled",
    "WorkersReady",
    "SchedulerReady",
    "Available",
    "Progressing",
    "Degraded",
    "Stalled",
    "Suspended",
)
"""The conditions that follow from what is there, not from what the object says."""
MAX_TOLD = 3
"""Groups on the move that a message names."""
_MOVING = {"Waiting", "Starting", "Restarting", "Draining"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A condition before it has times."""

    type: str
    status: ConditionStatus
    reason: Reason
    message: str = ""


def scaling_verdicts(decision: ScalingDecision | None) -> Iterator[Verdict]:
    """What the operator's own scaler does, where there is one."""
    if decision is not None:
        status: ConditionStatus = "True" if decision.is_active else "False"
        yield Verdict(type="Autoscaling", status=status, reason=decision.reason, message=decision.message)


def verdicts(
    situation: Situation, reports: Sequence[GroupReport], beside: Sequence[GroupReport] = ()
) -> list[Verdict]:
    """Every condition of an accepted LLMService; `beside` are the groups that only a rollout wants."""
    workers = _first(said.finding for said in reports)
    serving = _serving_processes(situation)
    model = model_wait(situation)
    others = [
        Verdict(type="Accepted", status="True", reason=Reason.SPEC_ACCEPTED),
        _of("ModelReady", model, Reason.MODEL_READY),
        _scheduled(situation, reports),
        _of("WorkersReady", workers, Reason.ALL_GROUPS_READY),
        _of("SchedulerReady", serving, Reason.SCHEDULER_READY),
        _available(situation, reports, serving, beside),
        _progressing(situation, reports, beside),
        _degraded(reports),
        _stalled(reports),
        _suspended(situation),
        *_certificates(situation),
    ]
    return [_ready(situation, [workers, serving, model, _surplus(situation)]), *others]


def conditions(
    found: Iterable[Verdict], *, before: Obj, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """With times: lastTransitionTime is kept while the status stays the same."""
    past = {text(entry, "type"): entry for entry in items(before, "conditions")}
    return tuple(
        Condition(
            type=one.type,
            status=one.status,
            reason=one.reason,
            message=one.message[:MAX_MESSAGE],
            last_transition_time=_since(past.get(one.type, {}), one, now),
            observed_generation=generation,
        )
        for one in found
    )


def _since(past: Obj, verdict: Verdict, now: datetime) -> str:
    since = instant(past, "lastTransitionTime")
    is_same = text(past, "status") == verdict.status and since is not None
    return text(past, "lastTransitionTime") if is_same else format_time(now)


def _first(findings: Iterable[Finding | None]) -> Finding | None:
    return evidence.worst([finding for finding in findings if finding is not None])


def _of(kind: str, finding: Finding | None, good: Reason, *, message: str = "") -> Verdict:
    if finding is None:
        return Verdict(type=kind, status="True", reason=good, message=message)
    return Verdict(type=kind, status="False", reason=finding.reason, message=finding.message)


def _ready(situation: Situation, findings: Sequence[Finding | None]) -> Verdict:
    if situation.spec.suspend:
        suspended = _suspended(situation)
        reason = Reason.SUSPENDED if suspended.status == "True" else Reason.SUSPENDING
        return Verdict(type="Ready", status="False", reason=reason, message=suspended.message)
    blocking = _first(findings)
    if blocking is None and not situation.views:
        message = "no group is wanted: spec.replicas or replicas of the roles is 0"
        return Verdict(type="Ready", status="False", reason=Reason.SCALED_TO_ZERO, message=message)
    return _of("Ready", blocking, Reason.ALL_GROUPS_READY)


def _surplus(situation: Situation) -> Finding | None:
    """A group that is one too many counts against Ready only while it runs an old revision."""
    current = {view.wanted.role: view.standing.update for view in situation.views}
    for group, _ in situation.surplus:
        if group.replicas > 0 and group.revision != current.get(group.role, group.revision):
            message = f"group {group.name} of revision {group.revision} is still to go"
            return Finding(reason=Reason.ROLLING_UPDATE, message=message)
    return None


def _scheduled(situation: Situation, reports: Sequence[GroupReport]) -> Verdict:
    waiting = [said for said in reports if not said.is_placed]
    if not waiting:
        reason = Reason.ALL_PODS_SCHEDULED if reports else Reason.SCALED_TO_ZERO
        message = "" if situation.observed.nodes else "room was not looked for: no nodes can be seen"
        return Verdict(type="Scheduled", status="True", reason=reason, message=message)
    found = _first(said.finding for said in waiting)
    return _of("Scheduled", _unchecked(situation, waiting, found), Reason.PODS_CREATING)


def _unchecked(situation: Situation, waiting: Sequence[GroupReport], found: Finding | None) -> Finding | None:
    """What is said while nothing is in the way of groups that start without a look for room."""
    is_told_why = found is not None and found.reason is not Reason.PODS_CREATING
    unseen = [
        said
        for said in waiting
        if need_for(situation, said.view).has_devices and is_room_looked_for(situation, said.view)
    ]
    if is_told_why or not unseen or situation.observed.nodes:
        return found
    message = f"room for group {unseen[0].view.wanted.name} was not looked for: no nodes can be seen"
    return Finding(reason=Reason.NO_CAPACITY_CHECK, message=message)


def _serving_processes(situation: Situation) -> Finding | None:
    """What keeps scheduler or gateway from being ready."""
    name = situation.meta.name
    found: list[Finding] = []
    for deployment, reason in (
        (names.scheduler_name(name), Reason.SCHEDULER_NOT_READY),
        (names.gateway_name(name), Reason.GATEWAY_NOT_READY),
    ):
        facts = situation.observed.deployments.get(deployment)
        if facts is None:
            found.append(Finding(reason=reason, message=f"Deployment {deployment} is being created"))
        elif not facts.is_ready:
            pods = evidence.of_pods(facts.pods)
            pods = [finding for finding in pods if finding.reason is not Reason.PODS_CREATING]
            message = f"Deployment {deployment} has {facts.ready} of {facts.desired} pods ready"
            found.append(evidence.worst(pods) or Finding(reason=reason, message=message))
    return evidence.worst(found)


def _available(
    situation: Situation,
    reports: Sequence[GroupReport],
    serving: Finding | None,
    beside: Sequence[GroupReport],
) -> Verdict:
    served = {said.view.wanted.role for said in (*reports, *beside) if said.view.is_available}
    wanted = {said.view.wanted.role for said in reports}
    running = [
        situation.observed.deployments.get(name)
        for name in (names.scheduler_name(situation.meta.name), names.gateway_name(situation.meta.name))
    ]
    can_come_in = all(facts is not None and facts.ready > 0 for facts in running)
    if wanted and served == wanted and can_come_in:
        return Verdict(type="Available", status="True", reason=Reason.SOME_GROUPS_READY)
    if situation.spec.suspend or not wanted:
        reason = Reason.SUSPENDED if situation.spec.suspend else Reason.SCALED_TO_ZERO
        return Verdict(type="Available", status="False", reason=reason)
    missing = _first(said.finding for said in reports if said.view.wanted.role not in served)
    blocking = _first([missing, None if can_come_in else serving])
    return _of("Available", blocking or _unknown(reports), Reason.SOME_GROUPS_READY)


def _unknown(reports: Sequence[GroupReport]) -> Finding:
    names_of = ", ".join(said.view.wanted.name for said in reports[:3])
    return Finding(reason=Reason.NOT_READY, message=f"no role set is complete: {names_of}")


def rollout_message(progress: Progress, reports: Sequence[GroupReport]) -> str:
    """How far a rollout is, which group is rolled and what that waits for."""
    counted = f"{progress.num_updated} of {progress.num_groups} groups run what spec asks for"
    if progress.blocked_by is not None:
        return f"{counted}; {progress.blocked_by.message}"
    names_of = {view.wanted.name for view in progress.moving}
    told = [
        f"{said.view.wanted.name} moves: {said.finding.message}"
        for said in reports
        if said.view.wanted.name in names_of and said.finding is not None
    ]
    return "; ".join([counted, *told[:MAX_TOLD]])


def _rolling(situation: Situation, progress: Progress, reports: Sequence[GroupReport]) -> Verdict | None:
    """What Progressing says of a rollout that is not complete; None when there is none."""
    message = rollout_message(progress, reports)
    if is_overdue(situation, progress):
        reason = Reason.PROGRESS_DEADLINE_EXCEEDED
        since = f"no step for {situation.spec.rollout.progress_deadline_s:g} s"
        return Verdict(type="Progressing", status="False", reason=reason, message=f"{since}: {message}")
    if progress.phase == "Rolling":
        return Verdict(type="Progressing", status="True", reason=Reason.ROLLING_UPDATE, message=message)
    blocked = progress.blocked_by
    if blocked is not None and blocked.reason is not None:
        return Verdict(type="Progressing", status="False", reason=blocked.reason, message=message)
    return None


def _progressing(
    situation: Situation, reports: Sequence[GroupReport], beside: Sequence[GroupReport]
) -> Verdict:
    progress = progress_of(situation)
    rolling = _rolling(situation, progress, [*reports, *beside])
    is_stopped = progress.phase in {"Waiting", "Paused", "Partition"}
    is_at_work = any(said.phase in _MOVING for said in reports)
    if rolling is not None and not situation.spec.suspend and not (is_stopped and is_at_work):
        return rolling
    moving = _first(
        said.finding
        for said in reports
        if said.phase in _MOVING or (said.finding and said.finding.reason in _ROLLING)
    )
    if moving is not None:
        return Verdict(type="Progressing", status="True", reason=moving.reason, message=moving.message)
    if situation.surplus:
        message = f"group {situation.surplus[0][0].name} is going"
        return Verdict(type="Progressing", status="True", reason=Reason.SCALE_DOWN, message=message)
    blocking = _first(said.finding for said in reports)
    reason = blocking.reason if blocking else Reason.ALL_GROUPS_READY
    return Verdict(
        type="Progressing", status="False", reason=reason, message=blocking.message if blocking else ""
    )


_ROLLING = {Reason.ROLLING_UPDATE, Reason.RESTART_REQUESTED}


def _degraded(reports: Sequence[GroupReport]) -> Verdict:
    bad = [
        said
        for said in reports
        if said.phase == "Stalled"
        or (said.phase == "Restarting" and said.view.group.memory.failure is not None)
        or said.view.stage is Stage.FAILED
        or (said.view.stage is Stage.SERVING and not said.view.assessment.is_ready)
    ]
    found = _first(said.finding for said in bad)
    if found is None:
        return Verdict(type="Degraded", status="False", reason=Reason.NOTHING_FAILED)
    return Verdict(type="Degraded", status="True", reason=found.reason, message=found.message)


def _stalled(reports: Sequence[GroupReport]) -> Verdict:
    found = _first(said.finding for said in reports if said.phase == "Stalled")
    if found is None:
        return Verdict(type="Stalled", status="False", reason=Reason.NOTHING_FAILED)
    return Verdict(type="Stalled", status="True", reason=found.reason, message=found.message)


def _certificates(situation: Situation) -> Iterator[Verdict]:
    """What has become of the certificates that the operator makes, where it makes any."""
    wanted, facts, now = situation.desired.certificates, situation.observed.certificates, situation.now
    if wanted is None or facts is None:
        return
    finding = _of_certificates(wanted, facts, now)
    message = ""
    if finding is None:
        first = min(one.validity.lived(RENEWED_AFTER) for one in facts.certificates.values())
        message = f"the next one is renewed at {format_time(first)}"
    yield _of("CertificatesReady", finding, Reason.CERTIFICATES_READY, message=message)


def _of_certificates(wanted: Wanted, facts: CertificatesFacts, now: datetime) -> Finding | None:
    missing, late = missing_secrets(wanted, facts), expiring(wanted, facts, now)
    if facts.refused is not None:
        reason = Reason.OPERATOR_FORBIDDEN if facts.refused.is_forbidden else Reason.OBJECT_REFUSED
        needs = " (the chart's certificates.namespaces)" if facts.refused.is_forbidden else ""
        ends = "".join(f"; {name} ends at {format_time(ends_at)}" for name, ends_at in late)
        return Finding(reason=reason, message=f"{facts.refused.message}{needs}{ends}")
    if facts.foreign:
        message = f"left alone, because this LLMService does not own them: Secret {', '.join(facts.foreign)}"
        return Finding(reason=Reason.NAME_TAKEN, message=message)
    if missing:
        message = f"to be made: Secret {', '.join(missing)}"
        return Finding(reason=Reason.CERTIFICATES_MISSING, message=message)
    if late:
        message = "; ".join(f"Secret {name} ends at {format_time(ends_at)}" for name, ends_at in late)
        return Finding(reason=Reason.CERTIFICATES_EXPIRING, message=message)
    return None


def _suspended(situation: Situation) -> Verdict:
    if not situation.spec.suspend:
        return Verdict(type="Suspended", status="False", reason=Reason.NOT_SUSPENDED)
    busy = [group for group in situation.observed.groups.values() if group.replicas > 0 or group.pods]
    if busy:
        message = f"group {busy[0].name} still has pods"
        return Verdict(type="Suspended", status="False", reason=Reason.SUSPENDING, message=message)
    message = "spec.suspend is true and no group has a pod"
    return Verdict(type="Suspended", status="True", reason=Reason.SUSPENDED, message=message)
