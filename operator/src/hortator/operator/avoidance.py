"""Nodes on which groups of a service have failed again and again: others are taken while there are others.

    avoided      a node with at least `NUM_FAILURES` failures of the service's groups within
                 spec.restart.window, until the last but one of them is older than that
    counted      a container that ended, ran out of memory or was evicted, and a node that was lost;
                 not what somebody has deleted or changed

Each group remembers its own (`observed.memory`), the newest few, and forgets them with its restarts: when it
starts anew after a change of the spec or on request. What is avoided is a wish: where a group finds no room
without such a node, it is placed as if none were avoided (`waiting.room_in`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from hortator.api.v1alpha1.status import MAX_AVOIDED_NODES
from hortator.operator.observed import Failure, GroupFacts, Memory, NodeFailure
from hortator.operator.observed.memory import MAX_NODE_FAILURES
from hortator.operator.observed.reading import seconds_later
from hortator.operator.status.reasons import Reason

NUM_FAILURES = 2
"""One may be chance."""

_OF_NODES = {Reason.NODE_LOST, Reason.POD_EVICTED, Reason.OOM_KILLED, Reason.CONTAINER_FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Avoided:
    """A node that is avoided."""

    node: str
    num_failures: int
    until: datetime


def blamed(memory: Memory, failure: Failure) -> Memory:
    """The notes of a group with this failure on the account of its node, if it is one of a node."""
    if failure.node == "" or failure.reason not in _OF_NODES:
        return memory
    failures = (*memory.node_failures, NodeFailure(node=failure.node, at=failure.at))
    return replace(memory, node_failures=failures[-MAX_NODE_FAILURES:])


def avoided(groups: Mapping[str, GroupFacts], *, now: datetime, window_s: float) -> tuple[Avoided, ...]:
    """The nodes that the groups of a service avoid now, by name. Total."""
    ends: dict[str, list[datetime]] = {}
    for failure in _failures(groups.values()):
        end = seconds_later(failure.at, window_s)
        if end > now:
            ends.setdefault(failure.node, []).append(end)
    found = [
        Avoided(node=node, num_failures=len(times), until=sorted(times)[-NUM_FAILURES])
        for node, times in ends.items()
        if len(times) >= NUM_FAILURES
    ]
    found.sort(key=lambda one: (-one.num_failures, one.node))
    return tuple(sorted(found[:MAX_AVOIDED_NODES], key=lambda one: one.node))


def _failures(groups: Iterable[GroupFacts]) -> Iterable[NodeFailure]:
    return (failure for group in groups for failure in group.memory.node_failures)
