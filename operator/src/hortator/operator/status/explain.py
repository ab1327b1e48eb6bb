"""Why is it not ready, and what helps: a text for people, from the same evidence as the status.

The first line is the verdict; then every group that is not as wanted, with the pod, node or resource that it
waits for and one line of advice; then scheduler, gateway and model, if it is they.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from hortator.api.problem import Problem
from hortator.api.v1alpha1 import LLMService
from hortator.operator.desired import Desired
from hortator.operator.observed import Meta, Observed
from hortator.operator.situation import Situation, situation_of
from hortator.operator.status.conditions import Verdict, verdicts
from hortator.operator.status.groups import GroupReport, report
from hortator.operator.status.reasons import Reason, known, remedy


def explain(
    service: LLMService | None,
    *,
    meta: Meta,
    desired: Desired | None,
    problems: Sequence[Problem],
    observed: Observed,
    now: datetime,
) -> str:
    """What blocks an LLMService, and the fix. Total; ends with a newline.

    With `problems`, `service` and `desired` are those of the last accepted spec, None if none is known.
    """
    lines: list[str] = []
    if problems or service is None or desired is None:
        lines += _invalid(meta, problems)
    if service is not None and desired is not None:
        lines += _accepted(situation_of(service, meta=meta, desired=desired, observed=observed, now=now))
    else:
        lines.append("what runs is not looked after: no spec that was accepted earlier is known")
    return "".join(f"{line}\n" for line in lines)


def _invalid(meta: Meta, problems: Sequence[Problem]) -> Iterator[str]:
    yield f"{meta.name} is not accepted: {Reason.INVALID_SPEC}"
    for problem in problems:
        yield f"  {problem}"
    yield f"  fix: {remedy(Reason.INVALID_SPEC)}"


def _accepted(situation: Situation) -> Iterator[str]:
    reports = [report(situation, view) for view in situation.views]
    beside = [report(situation, view) for view in situation.surge]
    found = verdicts(situation, reports, beside)
    by_type = {verdict.type: verdict for verdict in found}
    ready = by_type["Ready"]
    num_ready = sum(said.is_ready for said in reports)
    counted = f"{num_ready} of {len(reports)} groups ready"
    if situation.meta.generation != situation.desired.generation:
        yield f"the spec of generation {situation.desired.generation}, accepted last, is carried out:"
    if ready.status == "True":
        yield f"{situation.meta.name} is ready: {counted}"
    else:
        yield f"{situation.meta.name} is not ready: {ready.reason} ({counted})"
    if by_type["Suspended"].status == "True":
        yield f"  fix: {remedy(Reason.SUSPENDED)}"
        return
    for said in (*reports, *beside):
        yield from _group(said)
    if by_type["Progressing"].reason is Reason.PROGRESS_DEADLINE_EXCEEDED:
        yield from _condition(by_type["Progressing"])
    for kind in ("ModelReady", "SchedulerReady"):
        yield from _condition(by_type[kind])
    for group, _ in situation.surplus:
        yield f"  group {group.name}: is one too many and goes away"


def _group(said: GroupReport) -> Iterator[str]:
    finding, view = said.finding, said.view
    if finding is None:
        return
    yield f"  group {view.wanted.name} ({view.wanted.worker_id}, epoch {view.group.epoch}): {finding.reason}"
    yield f"    {finding.message}"
    yield f"    fix: {remedy(finding.reason)}"
    failure = view.group.memory.failure
    if failure is None:
        return
    cause = known(failure.reason, Reason.CONTAINER_FAILED)
    if cause is not finding.reason:  # what came of it is told: the cause needs its own advice
        yield f"    last failure: {cause}: {failure.message}"
        yield f"      fix: {remedy(cause)}"


def _condition(verdict: Verdict) -> Iterator[str]:
    if verdict.status == "True":
        return
    yield f"  {verdict.type} is {verdict.status}: {verdict.reason}"
    yield f"    {verdict.message}"
    yield f"    fix: {remedy(verdict.reason)}"
