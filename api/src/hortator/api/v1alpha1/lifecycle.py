"""How a running service changes: restarts of groups, drains, disruptions that are allowed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.text import Between, Time

RestartPolicy = Literal["Group", "None"]


class RestartSpec(Model):
    """What happens when a member of an EP group fails. Other groups go on serving."""

    policy: RestartPolicy = "Group"
    """Group: all members of the group start again together. None: the group stays broken and says why."""
    base_delay_s: Annotated[float, Between(low="0s", high="1h")] = Field(default=10.0, alias="baseDelay")
    """Before the second restart of a group within the window; doubled each time. The first is immediate."""
    max_delay_s: Annotated[float, Between(low="0s", high="24h")] = Field(default=600.0, alias="maxDelay")
    """Where the doubling ends."""
    max_restarts: Annotated[int, Field(ge=0, le=100)] = 5
    """Restarts of one group within the window; then it is Stalled and its pods stay for a look."""
    window_s: Annotated[float, Between(low="1m", high="168h")] = Field(default=3600.0, alias="window")
    """How long a restart counts."""
    requested_at: Time | None = None
    """A new time restarts every group, one after the other, each drained first; it also ends Stalled."""


class DrainSpec(Model):
    """A group that goes away on purpose gets no new requests and finishes those in flight."""

    timeout_s: Annotated[float, Between(low="0s", high="1h")] = Field(default=120.0, alias="timeout")
    """After it what is still in flight moves to another group. The pods' grace is 15 s longer."""


class DisruptionSpec(Model):
    """What node drains and other voluntary disruptions may take away."""

    max_unavailable_groups: Annotated[int, Field(ge=0, le=1024)] = 1
    """EP groups that may be away at a time; each is drained before its pods may be evicted."""
