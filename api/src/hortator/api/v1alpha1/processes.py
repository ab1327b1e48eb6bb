"""The scheduler and the gateways."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.lists import ListMap
from hortator.api.v1alpha1.resources import ResourcesSpec
from hortator.api.v1alpha1.text import Between, ImageName, Interval

PolicyName = Literal[
    "immediate-round-robin",
    "immediate-least-requests",
    "immediate-weighted-requests",
    "immediate-least-tokens",
    "immediate-power-of-two",
    "immediate-least-delay",
    "fixed-batch",
    "staggered",
    "staggered-plus",
]


class QueueSpec(Model):
    """What the scheduler holds at most; beyond it requests are refused on arrival."""

    max_requests: Annotated[int, Field(ge=1, le=1 << 30)] = 10_000
    """Requests that wait for a placement."""
    max_tokens: Annotated[int, Field(ge=1, le=1 << 40)] = 20_000_000
    """Prompt tokens of all waiting requests."""
    timeout_s: Annotated[float, Between(low="1ms", high="24h")] = Field(default=30.0, alias="timeout")
    """How long a request may wait for a placement."""
    max_wait_s: Annotated[float, Between(low="1ms", high="24h")] | None = Field(default=None, alias="maxWait")
    """New requests whose predicted wait is longer are refused on arrival. Absent: `timeout`."""
    tenant_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of maxRequests and of maxTokens that one tenant may hold; 1: all of it."""


class TenantSpec(Model):
    """A tenant that is not like the others."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """As its requests name it."""
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    """Its share of the service beside the weights of the other tenants that wait; others weigh 1."""
    queue_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of maxRequests and of maxTokens that it may hold. Absent: `queue.tenantShare`."""


class SchedulerSpec(Model):
    """When a batch is released and where its requests go."""

    policy: PolicyName = "staggered"
    """Who decides when a batch goes and where; docs/policies has a page on each."""
    interval_s: Interval = Field(default=None, alias="interval")
    """`Auto`: adaptive, follows the pass times. Otherwise a fixed window, 5 to 20 ms in practice."""
    max_hold_s: Annotated[float, Between(low="0s", high="1h")] = Field(default=2.0, alias="maxHold")
    """Bounds voluntary hold only, not the wait for capacity."""
    queue: QueueSpec = Field(default_factory=QueueSpec)
    tenants: Annotated[tuple[TenantSpec, ...], Field(strict=False, max_length=256), ListMap("name")] = ()
    """Tenants that are not like the others; requests say whose they are."""
    replicas: Annotated[int, Field(ge=1, le=16)] = 1
    """Scheduler processes: one leads, the others stand by with the loads that they need to take its place."""
    image: ImageName | None = None
    """Absent: the operator's own."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)


class GatewaySpec(Model):
    """The client-facing processes."""

    replicas: Annotated[int, Field(ge=1, le=1024)] = 2
    """Locally one runs."""
    image: ImageName | None = None
    """Absent: the operator's own."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
