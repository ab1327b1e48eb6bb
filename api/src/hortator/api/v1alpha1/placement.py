"""Where the pods of an EP group stand to each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.text import Between, ChildName, QualifiedName, Text

PlacementMode = Literal["Required", "Preferred"]
QueueName = Annotated[
    str,
    Text(
        pattern="[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
        max_length=63,
        allowed="at most 63 of a-z, 0-9, '-' and '.'",
    ),
]
GangProvider = Literal["Builtin", "None", "Volcano", "Coscheduling", "Kueue"]


class GangSpec(Model):
    """An EP group starts with all its pods or not at all: two halves of two groups serve nobody."""

    provider: GangProvider = "Builtin"
    """Who sees to it. Builtin: the operator looks for room first, and starts groups one after the other.
    None: nobody, groups start at once; for pools of nodes that grow when pods wait. Volcano, Coscheduling,
    Kueue: that scheduler, told of each group; rendered, never run (docs/how-to/gang.md)."""
    queue: QueueName | None = None
    """Where groups stand in line: of Volcano (absent: its default queue), or a LocalQueue of Kueue."""
    scheduler_name: ChildName | None = None
    """Of the scheduler that places the pods, with providers Volcano (absent: volcano) and Coscheduling
    (absent: scheduler-plugins-scheduler)."""
    timeout_s: Annotated[float, Between(low="10s", high="24h")] = Field(default=600.0, alias="timeout")
    """A group whose pods are not all placed by then gives its nodes back and waits for another turn. Another
    scheduler's queue is not cut short by it: there it runs from the first pod that has a node."""


class PlacementSpec(Model):
    """Where the pods of an EP group stand to each other."""

    topology_key: QualifiedName | None = None
    """All pods of a group run on nodes with the same value of this label, for example one fabric block."""
    mode: PlacementMode = "Required"
    """Required: a group waits for such a set of nodes. Preferred: it takes others when there is none."""
    gang: GangSpec = Field(default_factory=GangSpec)
