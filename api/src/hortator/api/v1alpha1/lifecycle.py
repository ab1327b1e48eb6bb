"""How a running service changes: rollouts, restarts of groups, drains, disruptions that are allowed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.text import Between, Time

RestartPolicy = Literal["Group", "None"]
PrePull = Literal["Auto", "Off"]


class RolloutSpec(Model):
    """How EP groups move when a field changes that their pods depend on: drained, then started anew."""

    max_unavailable: Annotated[int, Field(ge=0, le=1024)] = 1
    """EP groups of the service that may be away at a time. 0 needs maxSurge: more comes before any goes."""
    max_surge: Annotated[int, Field(ge=0, le=64)] = 0
    """EP groups of each role that are started beside the wanted ones while it rolls, on free nodes."""
    partition: Annotated[int, Field(ge=0, le=1024)] = 0
    """Groups of each role with a lower index stay as they are: a trial on the highest ones."""
    paused: bool = False
    """True: no group moves. One that fails meanwhile starts again as it was."""
    max_skew: Annotated[int, Field(ge=1, le=1024)] = 1
    """Groups by which a role may be ahead of its share of what the other role has moved."""
    progress_deadline_s: Annotated[float, Between(low="1m", high="168h")] = Field(
        default=3600.0, alias="progressDeadline"
    )
    """Without a step for so long, condition Progressing is False; nothing is stopped or taken back by it."""
    revision_history_limit: Annotated[int, Field(ge=0, le=100)] = 5
    """Revisions of each role that are kept beside those in use, to go back to."""
    allow_outage: bool = False
    """True: the last available group of a role may be taken too; nobody is served until it is back."""
    pre_pull: PrePull = "Auto"
    """Auto: nodes pull another image before their groups are drained for it. Off: pods pull it themselves."""


class RestartSpec(Model):
    """What happens when a member of an EP group fails. Other groups go on serving."""

    policy: RestartPolicy = "Group"
    """Group: all members of the group start again together. None: the group stays broken and says why."""
    base_delay_s: Annotated[float, Between(low="0s", high="1h")] = Field(default=10.0, alias="baseDelay")
    """Before the second restart of a group within the window; doubled each time. The first is immediate."""
    max_delay_s: Annotated[float, Between(low="0s", high="24h")] = Field(default=600.0, alias="maxDelay")
    """Where the doubling ends."""
    max_restarts: Annotated[int, Field(ge=0, le=100)] = 5
    """Restarts of a group after failures within the window; then it is Stalled, and its pods stay."""
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
