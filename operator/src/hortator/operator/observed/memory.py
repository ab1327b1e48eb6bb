"""What the operator remembers of a group: annotations of its StatefulSet, and nothing else.

    members            {ordinal: {uid, node, restarts}}, written once per epoch, when all are first ready
    restarts           times of the restarts after failures, oldest first, within the window
    disruptions        the same of those after the cluster took a member away, the newest few
    node-failures      [{node, time}], the newest few failures that were told of a node
    last-failure       why the group was closed last without being asked to, or that its budget is gone
    drain-started-at   since when, and drain-reason why, it goes away on purpose
    admitted-at        when replicas went from 0 to N for this epoch
    vacated-at         when it was closed with a member on a cordoned node, until it starts again
    moved-at           since when it is to run its revision without having been ready in it, after a rollout
    restart-observed   the spec.restart.requestedAt that this group has carried out

The epoch is not here: it lives in the label of the pod template. An annotation that cannot be read counts as
absent, which is always safe: a record of members is made again, an unknown failure is no failure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hortator.operator import names
from hortator.operator.observed.reading import (
    flag,
    format_time,
    instant,
    loads,
    mapping,
    maybe_number,
    number,
    parse_time,
    text,
)

ANNOTATIONS = (
    names.ANNOTATION_MEMBERS,
    names.ANNOTATION_RESTARTS,
    names.ANNOTATION_DISRUPTIONS,
    names.ANNOTATION_NODE_FAILURES,
    names.ANNOTATION_LAST_FAILURE,
    names.ANNOTATION_DRAIN_STARTED_AT,
    names.ANNOTATION_DRAIN_REASON,
    names.ANNOTATION_ADMITTED_AT,
    names.ANNOTATION_VACATED_AT,
    names.ANNOTATION_MOVED_AT,
    names.ANNOTATION_RESTART_OBSERVED,
)
MAX_NODE_FAILURES = 16
"""Of a group, the newest."""
MAX_DISRUPTIONS = 16
"""Likewise: nothing else ends their number."""
MAX_MESSAGE = 512
"""Of a failure, in bytes or a little more: annotations and status stay small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member as it was when its epoch was first ready."""

    uid: str
    node: str
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailure:
    """A failure of the group on a node."""

    node: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a group was closed, or why it is stalled."""

    reason: str
    message: str
    at: datetime
    epoch: int
    """That failed."""
    pod: str = ""
    node: str = ""
    container: str = ""
    exit_code: int | None = None
    signal: int | None = None
    attempt: int = 0
    """Counts admissions in a row that found no place."""
    is_disruption: bool = False
    """The cluster took a member away: no fault of the group."""
    is_stalled: bool = False
    """The budget is gone: the epoch stays as it is until somebody asks or the spec changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The annotations of one group, read."""

    members: Mapping[int, Member] = field(default_factory=dict)
    restarts: tuple[datetime, ...] = ()
    disruptions: tuple[datetime, ...] = ()
    node_failures: tuple[NodeFailure, ...] = ()
    failure: Failure | None = None
    drain_started_at: datetime | None = None
    drain_reason: str = ""
    admitted_at: datetime | None = None
    vacated_at: datetime | None = None
    moved_at: datetime | None = None
    restart_observed: str = ""


def read_memory(annotations: Mapping[str, str]) -> Memory:
    """The memory in the annotations of a StatefulSet. Total."""
    return Memory(
        members=_members(loads(annotations.get(names.ANNOTATION_MEMBERS, ""))),
        restarts=_times(loads(annotations.get(names.ANNOTATION_RESTARTS, ""))),
        disruptions=_times(loads(annotations.get(names.ANNOTATION_DISRUPTIONS, "")))[-MAX_DISRUPTIONS:],
        node_failures=_node_failures(loads(annotations.get(names.ANNOTATION_NODE_FAILURES, ""))),
        failure=_failure(loads(annotations.get(names.ANNOTATION_LAST_FAILURE, ""))),
        drain_started_at=parse_time(annotations.get(names.ANNOTATION_DRAIN_STARTED_AT, "")),
        drain_reason=annotations.get(names.ANNOTATION_DRAIN_REASON, ""),
        admitted_at=parse_time(annotations.get(names.ANNOTATION_ADMITTED_AT, "")),
        vacated_at=parse_time(annotations.get(names.ANNOTATION_VACATED_AT, "")),
        moved_at=parse_time(annotations.get(names.ANNOTATION_MOVED_AT, "")),
        restart_observed=annotations.get(names.ANNOTATION_RESTART_OBSERVED, ""),
    )


def write_memory(memory: Memory) -> dict[str, str]:
    """The annotations that say it; what is empty is left out, so that an apply removes it."""
    written: dict[str, str] = {}
    if memory.members:
        written[names.ANNOTATION_MEMBERS] = _json(
            {
                str(ordinal): {"uid": member.uid, "node": member.node, "restarts": member.restarts}
                for ordinal, member in sorted(memory.members.items())
            }
        )
    if memory.restarts:
        written[names.ANNOTATION_RESTARTS] = _json([format_time(time) for time in memory.restarts])
    if memory.disruptions:
        written[names.ANNOTATION_DISRUPTIONS] = _json([format_time(time) for time in memory.disruptions])
    if memory.node_failures:
        written[names.ANNOTATION_NODE_FAILURES] = _json(
            [{"node": one.node, "time": format_time(one.at)} for one in memory.node_failures]
        )
    if memory.failure is not None:
        written[names.ANNOTATION_LAST_FAILURE] = _json(_failure_fields(memory.failure))
    if memory.drain_started_at is not None:
        written[names.ANNOTATION_DRAIN_STARTED_AT] = format_time(memory.drain_started_at)
        written[names.ANNOTATION_DRAIN_REASON] = memory.drain_reason
    if memory.admitted_at is not None:
        written[names.ANNOTATION_ADMITTED_AT] = format_time(memory.admitted_at)
    if memory.vacated_at is not None:
        written[names.ANNOTATION_VACATED_AT] = format_time(memory.vacated_at)
    if memory.moved_at is not None:
        written[names.ANNOTATION_MOVED_AT] = format_time(memory.moved_at)
    if memory.restart_observed:
        written[names.ANNOTATION_RESTART_OBSERVED] = memory.restart_observed
    return written


def _members(parsed: Any) -> dict[int, Member]:
    return {
        int(ordinal): Member(
            uid=text(parsed, ordinal, "uid"),
            node=text(parsed, ordinal, "node"),
            restarts=number(parsed, ordinal, "restarts"),
        )
        for ordinal in mapping(parsed)
        if ordinal.isascii() and ordinal.isdigit() and len(ordinal) < 10 and text(parsed, ordinal, "uid")
    }


def _times(parsed: Any) -> tuple[datetime, ...]:
    entries = parsed if isinstance(parsed, list) else ()
    times = [parse_time(entry) for entry in entries if isinstance(entry, str)]
    return tuple(sorted(time for time in times if time is not None))


def _node_failures(parsed: Any) -> tuple[NodeFailure, ...]:
    found = [
        NodeFailure(node=text(entry, "node"), at=when)
        for entry in (parsed if isinstance(parsed, list) else ())
        if (when := instant(entry, "time")) is not None and text(entry, "node")
    ]
    return tuple(found[-MAX_NODE_FAILURES:])


def _failure(parsed: Any) -> Failure | None:
    when = instant(parsed, "time")
    if when is None:
        return None
    return Failure(
        reason=text(parsed, "reason"),
        message=text(parsed, "message"),
        at=when,
        epoch=number(parsed, "epoch"),
        pod=text(parsed, "pod"),
        node=text(parsed, "node"),
        container=text(parsed, "container"),
        exit_code=maybe_number(parsed, "exitCode"),
        signal=maybe_number(parsed, "signal"),
        attempt=number(parsed, "attempt"),
        is_disruption=flag(parsed, "disruption"),
        is_stalled=flag(parsed, "stalled"),
    )


def _failure_fields(failure: Failure) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "reason": failure.reason,
        "message": failure.message[:MAX_MESSAGE],
        "time": format_time(failure.at),
        "epoch": failure.epoch,
        "pod": failure.pod,
        "node": failure.node,
        "container": failure.container,
        "exitCode": failure.exit_code,
        "signal": failure.signal,
        "attempt": failure.attempt,
        "disruption": failure.is_disruption,
        "stalled": failure.is_stalled,
    }
    return {
        key: value
        for key, value in fields.items()
        if value is not None and value is not False and value != ""
    }


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
