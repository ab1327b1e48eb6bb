"""LLMServiceScaler: how many groups one role of one LLMService has, with a scale subresource of its own.

`spec.replicas` of an LLMService counts whole role sets. This counts the groups of one role in each set, so
that prefill is scaled apart from decode: by `kubectl scale`, a HorizontalPodAutoscaler, or the operator
itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from hortator.api.v1alpha1.autoscaling import AutoscalingSpec
from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.lists import ListMap
from hortator.api.v1alpha1.role import RoleName
from hortator.api.v1alpha1.service import MAX_NAME_LENGTH, NAME_PATTERN, Metadata
from hortator.api.v1alpha1.status import AutoscalingStatus, Condition
from hortator.api.v1alpha1.text import Text

SCALER_KIND: Final = "LLMServiceScaler"
SCALER_PLURAL: Final = "llmservicescalers"

ServiceName = Annotated[
    str,
    Text(
        pattern=NAME_PATTERN.removeprefix("^").removesuffix("$"),
        max_length=MAX_NAME_LENGTH,
        allowed=f"the name of an LLMService: at most {MAX_NAME_LENGTH} of a-z, 0-9 and '-'",
    ),
]


class LLMServiceScalerSpec(Model):
    """What is wanted."""

    service_name: ServiceName
    """An LLMService of the same namespace; it may come later. Immutable."""
    role: RoleName
    """The role whose groups are counted. Immutable."""
    replicas: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Groups of the role per role set; the scale subresource. Absent: filled in with what the role says."""
    autoscaling: AutoscalingSpec | None = None
    """Absent: replicas is for people, a HorizontalPodAutoscaler or another scaler to write."""


class LLMServiceScalerStatus(Model):
    """What is observed."""

    observed_generation: int | None = None
    """metadata.generation that all of this was computed from."""
    conditions: Annotated[tuple[Condition, ...], Field(strict=False, max_length=8), ListMap("type")] = ()
    """Active: the role has as many groups as this says. Autoscaling: only with spec.autoscaling."""
    replicas: int = 0
    """Groups of the role that exist, per role set."""
    ready_replicas: int = 0
    """Groups of the role that are ready, per role set."""
    selector: str = ""
    """Selects exactly one pod per group of the first role set; autoscalers count with it."""
    autoscaling: AutoscalingStatus | None = None

    def as_dict(self) -> dict[str, Any]:
        """As the status subresource takes it: camelCase, without what is not known."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class LLMServiceScaler(Model):
    """The number of groups of one role of an LLMService, to be scaled apart from its other roles."""

    api_version: Literal["serving.hortator.dev/v1alpha1"]
    kind: Literal["LLMServiceScaler"]
    metadata: Metadata
    spec: LLMServiceScalerSpec
