"""One kind of EP group: how many groups, how many nodes each, how the model is split over them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model, NullIsAbsent
from hortator.api.v1alpha1.resources import ResourcesSpec
from hortator.api.v1alpha1.tensorrt_llm import KvCacheDtype, TensorRTLLMSpec
from hortator.api.v1alpha1.text import Between, ChildName, QualifiedName, Quantity, Text

RoleName = Literal["Prefill", "Decode", "Aggregated"]

MAX_NODE_LABELS = 16
MAX_RDMA_RESOURCES = 16
MAX_TOLERATIONS = 16

LabelValue = Annotated[
    str,
    Text(
        pattern="([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
        max_length=63,
        allowed="at most 63 letters, digits, '-', '_' and '.'",
    ),
]


class Parallelism(Model):
    """How one EP group splits the model over its GPUs: attentionDP x tensor x pipeline of them."""

    attention_dp: Annotated[int, Field(ge=1, le=1024, alias="attentionDP")]
    """Attention data-parallel ranks: each holds whole requests and their KV cache."""
    expert: Annotated[int, Field(ge=1, le=1024)]
    """Ranks that the routed experts are spread over."""
    tensor: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that share the matrices of attention."""
    pipeline: Annotated[int, Field(ge=1, le=64)] = 1
    """Stages that the layers are cut into."""
    expert_tensor: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that share each expert's matrices."""


class Toleration(Model):
    """A taint of nodes that the pods of a role put up with."""

    key: QualifiedName | None = None
    """Of the taint; absent with operator Exists: every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists: whatever the taint's value is. Equal: only this value."""
    value: LabelValue | None = None
    """Of the taint, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Absent: every effect."""


class RoleSpec(Model):
    """One kind of EP group."""

    name: RoleName
    """What its groups do."""
    replicas: Annotated[int, Field(ge=0, le=1024)] = 1
    """EP groups of this kind, per replica of the service."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Nodes per EP group: one pod on each. Locally this describes ranks, not hardware."""
    gpus_per_node: Annotated[int, Field(ge=1, le=72)] = 8
    """GPUs of each pod; ranks where the engine runs on CPUs. Locally this describes ranks, not hardware."""
    gpu_resource_name: QualifiedName = "nvidia.com/gpu"
    """What a node calls its GPUs. Pods of backend TensorRTLLM request gpusPerNode of it."""
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
    tensorrt_llm: TensorRTLLMSpec | None = Field(default=None, alias="tensorrtLLM")
    """Only with backend TensorRTLLM, but for kvCacheDtype; absent means all defaults."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    rdma_resources: Annotated[
        dict[QualifiedName, Annotated[int, Field(ge=1, le=64)]],
        Field(max_length=MAX_RDMA_RESOURCES),
        NullIsAbsent,
    ] = Field(default_factory=dict)
    """What the cluster's device plug-in calls its RDMA ports, and how many each pod gets; with any,
    containers may lock memory (IPC_LOCK). Only pods of backend TensorRTLLM request them."""
    shm_size: Quantity | None = None
    """Memory for /dev/shm of each pod, for collective libraries; absent: the container runtime's 64 MiB."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=MAX_NODE_LABELS), NullIsAbsent] = Field(
        default_factory=dict
    )
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False, max_length=MAX_TOLERATIONS)] = ()
    """Taints that the pods put up with."""
    priority_class_name: ChildName | None = None
    """Of the pods; absent: the cluster's default."""
    runtime_class_name: ChildName | None = None
    """Of the pods, for example nvidia; absent: the cluster's default."""
    startup_timeout_s: Annotated[float, Between(low="10s", high="24h")] = Field(
        default=2700.0, alias="startupTimeout"
    )
    """From the start of an engine to its readiness; beyond it the pod is restarted, and its group with it."""

    @property
    def kv_cache_dtype(self) -> KvCacheDtype:
        """Of a KV element."""
        return "auto" if self.tensorrt_llm is None else self.tensorrt_llm.kv_cache_dtype
