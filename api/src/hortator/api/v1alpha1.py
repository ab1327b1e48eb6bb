"""LLMService, version v1alpha1: one description for laptop, simulator and cluster.

Written in camelCase in YAML, in snake_case in Python; times are durations (`2s`, `5ms`) in YAML and
seconds in Python (`*_s`). Unknown fields are errors, values are never coerced from another type, and
everything is frozen. These models check one field at a time; what several fields must satisfy together
is in `arithmetic`, and `files` reads a manifest and reports both.

A role describes one kind of EP group: `replicas` groups of `nodes` x `gpusPerNode` GPUs each. Locally
a role's nodes and gpusPerNode describe ranks, not hardware: `attentionDP` processes (TorchMoE) or
modelled ranks (Simulated).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from hortator.api.duration import format_duration, parse_duration

API_VERSION = "serving.hortator.dev/v1alpha1"
KIND = "LLMService"
AUTO = "Auto"

MODEL_URI_SCHEMES = ("hf", "pvc", "oci", "s3", "file", "builtin")
MIN_INTERVAL_S = 0.001
MAX_INTERVAL_S = 1.0

Backend = Literal["TensorRTLLM", "TorchMoE", "Simulated"]
Topology = Literal["PrefillDecode", "Aggregated"]
RoleName = Literal["Prefill", "Decode", "Aggregated"]
SimulatedPreset = Literal["deepseek-h800", "rtp-h800"]
PolicyName = Literal[
    "immediate-round-robin",
    "immediate-least-requests",
    "immediate-least-tokens",
    "immediate-power-of-two",
    "immediate-least-delay",
    "fixed-batch",
    "staggered",
    "staggered-plus",
]

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MODEL_URI = re.compile(r"([a-z0-9]+)://(.+)")
_SERVED_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?")


def _interval(value: object) -> float | None:
    if value == AUTO or value is None:
        return None
    try:
        seconds = parse_duration(value)
    except ValueError:
        seconds = -1.0
    if not MIN_INTERVAL_S <= seconds <= MAX_INTERVAL_S:
        raise ValueError(f"got {value!r} (allowed: {AUTO}, or a duration from 1ms to 1s)")
    return seconds


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("got 0s (allowed: a duration above 0)")
    return seconds


def _object_name(name: str) -> str:
    if len(name) > 40 or not _DNS_LABEL.fullmatch(name):
        raise ValueError(
            f"got {name!r} (allowed: at most 40 of a-z, 0-9 and '-', starting with a letter, "
            "not ending with '-')"
        )
    return name


def _served_name(name: str) -> str:
    if len(name) > 128 or not _SERVED_NAME.fullmatch(name):
        raise ValueError(f"got {name!r} (allowed: at most 128 letters, digits, '-', '.', '_' and '/')")
    return name


def _model_uri(uri: str) -> str:
    match = _MODEL_URI.fullmatch(uri)
    if match is None or match[1] not in MODEL_URI_SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in MODEL_URI_SCHEMES)
        raise ValueError(f"got {uri!r} (allowed: a URI that starts with {schemes})")
    return uri


Duration = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(format_duration, when_used="json")
]
Interval = Annotated[
    float | None,
    BeforeValidator(_interval),
    PlainSerializer(
        lambda value: AUTO if value is None else format_duration(value), return_type=str, when_used="json"
    ),
]


class _Model(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


class Metadata(_Model):
    """The part of Kubernetes object metadata that a manifest writes."""

    name: Annotated[str, AfterValidator(_object_name)]
    """At most 40 characters, so that names of child objects fit 63."""
    namespace: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class ModelSpec(_Model):
    """Which weights are served, and under which name."""

    uri: Annotated[str, AfterValidator(_model_uri)]
    """hf://, pvc://, oci://, s3://, file:// or builtin:// (the small MoE that comes with Hortator)."""
    revision: str | None = None
    """Commit or tag of the weights; pin it in production."""
    name: Annotated[str, AfterValidator(_served_name)] | None = None
    """The name that clients ask for; metadata.name when absent."""


class SimulatedSpec(_Model):
    """The modelled engine: DeepSeek-V3 on H800 by a calibrated cost model."""

    preset: SimulatedPreset = "deepseek-h800"
    """Whose serving engine is modelled."""
    time_scale: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Wall seconds per modelled second: 1 is real time, 0.1 is ten times faster."""
    expert_skew: Annotated[float, Field(ge=1, le=32)] = 1.367
    """Prefill tokens on the hottest EP rank over the mean; 1 is perfect expert balance."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of generated tokens and of timing noise."""


class EngineSpec(_Model):
    """What executes forward passes."""

    backend: Backend
    simulated: SimulatedSpec | None = None
    """Only with backend Simulated; absent means all defaults."""

    @property
    def simulated_options(self) -> SimulatedSpec:
        """The options of the modelled engine, defaults filled in."""
        return self.simulated or SimulatedSpec()


class Parallelism(_Model):
    """How one EP group splits the model over its GPUs. `arithmetic` has the two equations."""

    attention_dp: Annotated[int, Field(ge=1, le=1024, alias="attentionDP")]
    """Attention data-parallel ranks: each holds whole requests and their KV cache."""
    expert: Annotated[int, Field(ge=1, le=1024)]
    """Ranks that the routed experts are spread over."""
    tensor: Annotated[int, Field(ge=1, le=64)] = 1
    pipeline: Annotated[int, Field(ge=1, le=64)] = 1
    expert_tensor: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that share each expert's matrices."""


class RoleSpec(_Model):
    """One kind of EP group."""

    name: RoleName
    replicas: Annotated[int, Field(ge=0, le=1024)] = 1
    """EP groups of this kind, per replica of the service."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Nodes per EP group. Locally this describes ranks, not hardware."""
    gpus_per_node: Annotated[int, Field(ge=1, le=72)] = 8
    """Locally this describes ranks, not hardware."""
    parallelism: Parallelism
    chunk_budget_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = 8192
    """Prefill tokens per DP rank per forward pass."""
    max_batch_size: Annotated[int, Field(ge=1, le=65536)] = 128
    """Running requests per DP rank."""
    tokens_per_block: Annotated[int, Field(ge=1, le=1024)] = 64
    """Tokens per KV block, and per block of the prefix cache. 64 is the page of the MLA decode kernels."""
    kv_blocks: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    """KV blocks per DP rank; absent lets the engine size its cache from the memory it finds."""
    chunked_prefill: bool = True
    """False: a prompt is indivisible, and one longer than the chunk budget is refused."""
    max_sequence_tokens: Annotated[int, Field(ge=2, le=1 << 24)] | None = None
    """Prompt plus output tokens of one request; absent is the model's own limit."""


class QueueSpec(_Model):
    """What the scheduler holds at most; beyond it requests are refused on arrival."""

    max_requests: Annotated[int, Field(ge=1, le=1 << 30)] = 10_000
    max_tokens: Annotated[int, Field(ge=1, le=1 << 40)] = 20_000_000
    """Prompt tokens of all waiting requests."""
    timeout_s: Annotated[Duration, AfterValidator(_positive)] = Field(default=30.0, alias="timeout")
    """How long a request may wait for a placement."""


class SchedulerSpec(_Model):
    """When a batch is released and where its requests go."""

    policy: PolicyName = "staggered"
    interval_s: Interval = Field(default=None, alias="interval")
    """None (`Auto`): adaptive, follows the pass times. Otherwise a fixed window in seconds."""
    max_hold_s: Duration = Field(default=2.0, alias="maxHold")
    """Bounds voluntary hold only, not the wait for capacity."""
    queue: QueueSpec = Field(default_factory=QueueSpec)
    replicas: Annotated[int, Field(ge=1, le=16)] = 2
    """Scheduler processes: one leads, the others are warm. Locally one runs."""


class GatewaySpec(_Model):
    """The client-facing processes."""

    replicas: Annotated[int, Field(ge=1, le=1024)] = 2
    """Locally one runs."""


class LLMServiceSpec(_Model):
    """What is wanted."""

    model: ModelSpec
    engine: EngineSpec
    topology: Topology
    replicas: Annotated[int, Field(ge=0, le=1024)] = 1
    """Full role sets; the scale subresource."""
    roles: Annotated[tuple[RoleSpec, ...], Field(strict=False, min_length=1, max_length=2)]
    scheduler: SchedulerSpec = Field(default_factory=SchedulerSpec)
    gateway: GatewaySpec = Field(default_factory=GatewaySpec)


class LLMService(_Model):
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
