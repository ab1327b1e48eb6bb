"""What the operator says about an LLMService, to the rank.

Counts named `replicas` are role sets, the unit of the scale subresource; groups are counted in `roles` and
listed in `groups`. Times are RFC 3339 texts. Nearly everything is optional, because a status grows as things
are observed; `as_dict` leaves out what is not known.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.lists import ListMap
from hortator.api.v1alpha1.role import RoleName

MAX_GROUPS_IN_STATUS: Final = 64
"""Groups beyond it are counted, not listed."""

MAX_AVOIDED_NODES: Final = 16

ConditionStatus = Literal["True", "False", "Unknown"]
StatusTime = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Condition(Model):
    """One fact about the service, with its reason."""

    type: str
    """Ready sums up; Accepted, Scheduled, WorkersReady, SchedulerReady and so on say the parts."""
    status: ConditionStatus
    """Unknown: not observed yet."""
    reason: str
    """One word of the documented list."""
    message: str = ""
    """What is waited for, naming the object, and what helps."""
    last_transition_time: StatusTime
    """When status last changed."""
    observed_generation: int
    """metadata.generation that this was computed from."""


class Display(Model):
    """Texts for `kubectl get`."""

    groups: str = ""
    """Ready of desired EP groups, as 2/2."""
    ranks: str = ""
    """Ready of desired DP ranks, as 32/32."""
    updated: str = ""
    """Groups that run what spec says of desired groups, as 2/2."""


class RoleStatus(Model):
    """Counts of one role's EP groups."""

    name: RoleName
    """As in spec.roles."""
    desired: int = 0
    """EP groups that are wanted."""
    scaler: str = ""
    """The LLMServiceScaler that says how many groups there are per role set; empty: spec.roles does."""
    created: int = 0
    """Have a StatefulSet."""
    scheduled: int = 0
    """All pods placed on nodes."""
    ready: int = 0
    """All ranks joined, and the scheduler takes their reports."""
    updated: int = 0
    """Run what spec says."""
    current_revision: str = ""
    """That groups run which have not moved; the same as updateRevision when all have."""
    update_revision: str = ""
    """That spec asks for: `hortator k8s rollout history` lists them."""
    ready_ranks: int = 0
    """DP ranks of the ready groups."""
    desired_ranks: int = 0
    """DP ranks of all desired groups."""


class MemberStatus(Model):
    """One pod of an EP group."""

    index: int
    """Ordinal in the group; 0 hosts the engine."""
    pod: str = ""
    """Its name."""
    node: str = ""
    """Where it runs; empty: not placed."""
    ready: bool = False
    """Its process has joined this epoch and serves."""
    boot_id: str = ""
    """Of the process that joined the group's epoch."""
    ranks: str = ""
    """DP ranks on this pod, as 0-7."""
    restart_count: int = 0
    """Of its container, as the kubelet counts."""
    waiting_reason: str = ""
    """What Kubernetes says the container waits for, for example ImagePullBackOff."""


class LastFailure(Model):
    """Why a group was last restarted."""

    pod: str = ""
    """Which member failed first."""
    node: str = ""
    """Where it ran."""
    container: str = ""
    """Which of its containers."""
    exit_code: int | None = None
    """Of the container; absent: it did not exit by itself."""
    signal: int | None = None
    """That ended it; absent: none."""
    reason: str = ""
    """One word of the documented list."""
    message: str = ""
    """What was seen."""
    time: StatusTime | None = None
    """When it was seen."""


class Timeline(Model):
    """When the group's present epoch reached what; absent: not yet."""

    admitted: StatusTime | None = None
    """Room for all its pods was found, and they were asked for."""
    created: StatusTime | None = None
    """All its pods exist."""
    scheduled: StatusTime | None = None
    """All pods have a node."""
    images_pulled: StatusTime | None = None
    """All containers run."""
    ready: StatusTime | None = None
    """All members are ready: every rank has joined, and a scheduler has taken the engine's report."""


class GroupStatus(Model):
    """One EP group."""

    name: str
    """Of its StatefulSet."""
    role: RoleName
    """Which kind of group."""
    index: int
    """Counts the groups of a role, over all role sets."""
    worker_id: str = ""
    """As the scheduler and `hortator state` call it."""
    revision: str = ""
    """Hash of the pod template that it runs."""
    epoch: int = 0
    """Counts whole-group starts; each rank joins an epoch once."""
    phase: str = ""
    """Waiting, Starting, Ready, Draining, Restarting, Stalled, Suspended."""
    reason: str = ""
    """One word of the documented list; empty: nothing is in the way."""
    message: str = ""
    """What is in the way, naming pod, node or resource, and what helps."""
    domain: str = ""
    """Value of placement.topologyKey that the group runs in."""
    members: Annotated[tuple[MemberStatus, ...], Field(strict=False, max_length=64), ListMap("index")] = ()
    """Its pods."""
    restarts: int = 0
    """After failures, within spec.restart.window."""
    next_restart_at: StatusTime | None = None
    """End of the back-off."""
    last_failure: LastFailure | None = None
    timeline: Timeline | None = None
    in_flight: int | None = None
    """Requests, by the scheduler's snapshot, while it drains; absent: it does not, or is unknown there."""
    drain_deadline: StatusTime | None = None
    """When the drain gives up on what is in flight."""


class RolloutStatus(Model):
    """How far the move to what spec says is."""

    phase: Literal["", "Complete", "Rolling", "Waiting", "Paused", "Partition"] = ""
    """Waiting: no group can move. Partition: all have moved but those below spec.rollout.partition."""
    updated_groups: int = 0
    """EP groups that run what spec says."""
    total_groups: int = 0
    """EP groups that spec asks for."""
    moving: Annotated[tuple[str, ...], Field(strict=False, max_length=16)] = ()
    """Groups on their way now, or the first 16: drained, or started and not ready yet."""
    message: str = ""
    """Which group is rolled and what it waits for, or why none moves."""


class SchedulerStatus(Model):
    """The scheduler as it is observed."""

    ready_replicas: int = 0
    """Pods that are ready."""
    endpoint: str = ""
    """Where workers and gateways reach it."""
    registered_ranks: int | None = None
    """DP ranks that report to it; absent: it does not answer."""


class RestartStatus(Model):
    """The restart on request that was last carried out."""

    observed_requested_at: str = ""
    """spec.restart.requestedAt that was served."""


class AutoscalingStatus(Model):
    """What the operator's own scaler has written, by which it knows the writes of others."""

    settings: str
    """Digest of the spec.autoscaling that it goes by; with another one it begins anew."""
    replicas: int
    """spec.replicas as it was found or written last."""
    next_replicas: int | None = None
    """What it is about to write."""


class AvoidedNode(Model):
    """A node on which groups have failed repeatedly."""

    node: str
    """Its name."""
    failures: int
    """Within spec.restart.window."""
    until: StatusTime
    """When it is forgotten, if no other failure is added."""


class Endpoint(Model):
    """An address of the service."""

    name: str
    """Which protocol: grpc."""
    url: str
    """As seen inside the cluster."""


class LLMServiceStatus(Model):
    """What is observed."""

    observed_generation: int | None = None
    """metadata.generation that all of this was computed from."""
    conditions: Annotated[tuple[Condition, ...], Field(strict=False, max_length=32), ListMap("type")] = ()
    """One per type."""
    replicas: int = 0
    """Role sets that exist."""
    ready_replicas: int = 0
    """Role sets whose groups are all ready."""
    selector: str = ""
    """Selects exactly one pod per role set; autoscalers count with it."""
    display: Display = Field(default_factory=Display)
    roles: Annotated[tuple[RoleStatus, ...], Field(strict=False, max_length=2), ListMap("name")] = ()
    """Counts by role."""
    groups: Annotated[
        tuple[GroupStatus, ...], Field(strict=False, max_length=MAX_GROUPS_IN_STATUS), ListMap("name")
    ] = ()
    """Every EP group, or the first 64."""
    scheduler: SchedulerStatus = Field(default_factory=SchedulerStatus)
    rollout: RolloutStatus = Field(default_factory=RolloutStatus)
    restart: RestartStatus = Field(default_factory=RestartStatus)
    autoscaling: AutoscalingStatus | None = None
    avoided_nodes: Annotated[
        tuple[AvoidedNode, ...], Field(strict=False, max_length=MAX_AVOIDED_NODES), ListMap("node")
    ] = ()
    """Groups with devices start on others while these have room."""
    endpoints: Annotated[tuple[Endpoint, ...], Field(strict=False, max_length=8), ListMap("name")] = ()
    """Where clients connect."""

    def as_dict(self) -> dict[str, Any]:
        """As the status subresource takes it: camelCase, without what is not known."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
