"""Where the pods of an EP group stand to each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.text import Between, QualifiedName

PlacementMode = Literal["Required", "Preferred"]


class GangSpec(Model):
    """An EP group starts with all its pods or not at all: two halves of two groups serve nobody."""

    timeout_s: Annotated[float, Between(low="10s", high="24h")] = Field(default=600.0, alias="timeout")
    """A group whose pods are not all placed by then gives its nodes back and waits for another turn."""


class PlacementSpec(Model):
    """Where the pods of an EP group stand to each other."""

    topology_key: QualifiedName | None = None
    """All pods of a group run on nodes with the same value of this label, for example one fabric block."""
    mode: PlacementMode = "Required"
    """Required: a group waits for such a set of nodes. Preferred: it takes others when there is none."""
    gang: GangSpec = Field(default_factory=GangSpec)
