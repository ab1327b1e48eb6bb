"""LLMService, version v1alpha1: one description for laptop, simulator and cluster.

Written in camelCase in YAML, in snake_case in Python; times are durations (`2s`, `5ms`) in YAML and
seconds in Python (`*_s`). Unknown fields are errors, values are never coerced from another type, and
everything is frozen. These models check one field at a time; what several fields must satisfy together
is in `rules` and `transitions`, and `files` reads a manifest and reports both.

A role describes one kind of EP group: `replicas` groups of `nodes` x `gpusPerNode` GPUs each. Locally
a role's nodes and gpusPerNode describe ranks, not hardware: `attentionDP` processes (TorchMoE) or
modelled ranks (Simulated). Fields that only a cluster can honour (images, node selectors, restarts, drains)
are accepted locally and change nothing there.

    model, engine, role, tensorrt_llm, placement, lifecycle   parts of spec
    processes, autoscaling, security                          the others
    service                                                   LLMService itself
    status                                                    what the operator writes back
    scaler                                                    LLMServiceScaler: the groups of one role
"""

from hortator.api.v1alpha1.autoscaling import AutoscalingSpec
from hortator.api.v1alpha1.engine import (
    Backend,
    EngineSpec,
    EnvVar,
    ImagePullPolicy,
    ObjectName,
    SimulatedPreset,
    SimulatedSpec,
)
from hortator.api.v1alpha1.lifecycle import (
    DisruptionSpec,
    DrainSpec,
    PrePull,
    RestartPolicy,
    RestartSpec,
    RolloutSpec,
)
from hortator.api.v1alpha1.model import (
    MODEL_URI_SCHEMES,
    CacheClaimSpec,
    ModelCacheSpec,
    ModelSpec,
    SecretKeyRef,
)
from hortator.api.v1alpha1.placement import GangProvider, GangSpec, PlacementMode, PlacementSpec
from hortator.api.v1alpha1.processes import (
    GatewaySpec,
    PolicyName,
    QueueSpec,
    SchedulerSpec,
)
from hortator.api.v1alpha1.resources import ResourcesSpec
from hortator.api.v1alpha1.role import Parallelism, RoleName, RoleSpec, Toleration
from hortator.api.v1alpha1.scaler import (
    SCALER_KIND,
    SCALER_PLURAL,
    LLMServiceScaler,
    LLMServiceScalerSpec,
    LLMServiceScalerStatus,
)
from hortator.api.v1alpha1.security import ApiKeysRef, ClientAuth, NetworkPolicySpec, SecuritySpec, TlsSpec
from hortator.api.v1alpha1.service import (
    API_VERSION,
    GROUP,
    KIND,
    PLURAL,
    VERSION,
    LLMService,
    LLMServiceSpec,
    Metadata,
    Topology,
)
from hortator.api.v1alpha1.status import (
    MAX_GROUPS_IN_STATUS,
    AutoscalingStatus,
    AvoidedNode,
    Condition,
    ConditionStatus,
    Display,
    Endpoint,
    GroupStatus,
    LastFailure,
    LLMServiceStatus,
    MemberStatus,
    RestartStatus,
    RoleStatus,
    RolloutStatus,
    SchedulerStatus,
    Timeline,
)
from hortator.api.v1alpha1.tensorrt_llm import CudaGraphSpec, EngineArg, KvCacheDtype, TensorRTLLMSpec
from hortator.api.v1alpha1.text import AUTO

__all__ = [
    "API_VERSION",
    "AUTO",
    "GROUP",
    "KIND",
    "MAX_GROUPS_IN_STATUS",
    "MODEL_URI_SCHEMES",
    "PLURAL",
    "SCALER_KIND",
    "SCALER_PLURAL",
    "VERSION",
    "ApiKeysRef",
    "AutoscalingSpec",
    "AutoscalingStatus",
    "AvoidedNode",
    "Backend",
    "CacheClaimSpec",
    "ClientAuth",
    "Condition",
    "ConditionStatus",
    "CudaGraphSpec",
    "Display",
    "DisruptionSpec",
    "DrainSpec",
    "Endpoint",
    "EngineArg",
    "EngineSpec",
    "EnvVar",
    "GangProvider",
    "GangSpec",
    "GatewaySpec",
    "GroupStatus",
    "ImagePullPolicy",
    "KvCacheDtype",
    "LLMService",
    "LLMServiceScaler",
    "LLMServiceScalerSpec",
    "LLMServiceScalerStatus",
    "LLMServiceSpec",
    "LLMServiceStatus",
    "LastFailure",
    "MemberStatus",
    "Metadata",
    "ModelCacheSpec",
    "ModelSpec",
    "NetworkPolicySpec",
    "ObjectName",
    "Parallelism",
    "PlacementMode",
    "PlacementSpec",
    "PolicyName",
    "PrePull",
    "QueueSpec",
    "ResourcesSpec",
    "RestartPolicy",
    "RestartSpec",
    "RestartStatus",
    "RoleName",
    "RoleSpec",
    "RoleStatus",
    "RolloutSpec",
    "RolloutStatus",
    "SchedulerSpec",
    "SchedulerStatus",
    "SecretKeyRef",
    "SecuritySpec",
    "SimulatedPreset",
    "SimulatedSpec",
    "TensorRTLLMSpec",
    "Timeline",
    "TlsSpec",
    "Toleration",
    "Topology",
]
