"""LLMService itself: metadata and spec."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from hortator.api.quoting import quoted
from hortator.api.v1alpha1.autoscaling import AutoscalingSpec
from hortator.api.v1alpha1.base import Model, Texts
from hortator.api.v1alpha1.engine import EngineSpec
from hortator.api.v1alpha1.lifecycle import DisruptionSpec, DrainSpec, RestartSpec, RolloutSpec
from hortator.api.v1alpha1.lists import ListMap
from hortator.api.v1alpha1.model import ModelSpec
from hortator.api.v1alpha1.placement import PlacementSpec
from hortator.api.v1alpha1.processes import GatewaySpec, SchedulerSpec
from hortator.api.v1alpha1.role import RoleName, RoleSpec
from hortator.api.v1alpha1.security import SecuritySpec

GROUP: Final = "serving.hortator.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "LLMService"
PLURAL: Final = "llmservices"

MAX_NAME_LENGTH: Final = 40
NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"

Topology = Literal["PrefillDecode", "Aggregated"]


def _object_name(name: str) -> str:
    allowed = (
        f"(allowed: at most {MAX_NAME_LENGTH} of a-z, 0-9 and '-', starting with a letter, "
        "not ending with '-')"
    )
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"got {quoted(name)}, may not be more than {MAX_NAME_LENGTH} bytes {allowed}")
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"got {quoted(name)}, should match '{NAME_PATTERN}' {allowed}")
    return name


class Metadata(Model):
    """The part of Kubernetes object metadata that a manifest writes."""

    name: Annotated[str, AfterValidator(_object_name)]
    """At most 40 characters, so that names of child objects fit 63."""
    namespace: str | None = None
    labels: Texts = Field(default_factory=dict)
    annotations: Texts = Field(default_factory=dict)

    @property
    def own_namespace(self) -> str:
        """Where the object is; one that names no namespace is in `default`."""
        return self.namespace or "default"


class LLMServiceSpec(Model):
    """What is wanted."""

    model: ModelSpec
    engine: EngineSpec
    topology: Topology
    """PrefillDecode: prefill and decode run in EP groups of their own. Aggregated: every group does both."""
    replicas: Annotated[int, Field(ge=0, le=1024)] = 1
    """Full role sets; the scale subresource. A manifest that leaves it out does not take it from a scaler."""
    roles: Annotated[tuple[RoleSpec, ...], Field(strict=False, min_length=1, max_length=2), ListMap("name")]
    """One for topology Aggregated, two for PrefillDecode; each role once."""
    autoscaling: AutoscalingSpec | None = None
    """Absent: replicas is for people, a HorizontalPodAutoscaler or another scaler to write."""
    placement: PlacementSpec = Field(default_factory=PlacementSpec)
    scheduler: SchedulerSpec = Field(default_factory=SchedulerSpec)
    gateway: GatewaySpec = Field(default_factory=GatewaySpec)
    security: SecuritySpec = Field(default_factory=SecuritySpec)
    rollout: RolloutSpec = Field(default_factory=RolloutSpec)
    restart: RestartSpec = Field(default_factory=RestartSpec)
    drain: DrainSpec = Field(default_factory=DrainSpec)
    disruption: DisruptionSpec = Field(default_factory=DisruptionSpec)
    suspend: bool = False
    """True: every group is drained and its pods go; what cannot change while serving may change then."""


class LLMService(Model):
    """One served model. Read one from a file with `files.load_llmservice`."""

    api_version: Literal["serving.hortator.dev/v1alpha1"]
    kind: Literal["LLMService"]
    metadata: Metadata
    spec: LLMServiceSpec

    @property
    def model_name(self) -> str:
        """The name that clients ask for."""
        return self.spec.model.name or self.metadata.name

    def role(self, name: RoleName) -> RoleSpec:
        """The role of that name. KeyError when the topology has none."""
        for role in self.spec.roles:
            if role.name == name:
                return role
        raise KeyError(name)
