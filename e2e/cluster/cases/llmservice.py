"""Every rule of an LLMService: objects that just break it, and objects that just keep it.

A case is a change of one valid object. `covers` names the rule, or for a bound of one field its place in the CRD
(`spec.roles[].nodes maximum`); `refused` is text that the API server and `hortator.api` must both say, and None
where both must accept. Bounds are derived from the CRD in `bounds`; this table has the rules and the base object.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Obj = dict[str, Any]


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()
"""As a new value: the field is taken away."""

ROLE: Obj = {
    "name": "Aggregated",
    "nodes": 2,
    "gpusPerNode": 8,
    "parallelism": {"attentionDP": 16, "expert": 16, "tensor": 1, "pipeline": 1, "expertTensor": 1},
    "kvBlocks": 512,
    "maxSequenceTokens": 4096,
    "tensorrtLLM": {
        "moeBackend": "CUTLASS",
        "cudaGraph": {"batchSizes": [1]},
        "args": [{"name": "kv_cache_config.host_cache_size", "value": "8589934592"}],
    },
    "resources": {"cpu": "500m", "memory": "1Gi"},
    "shmSize": "1Gi",
    "nodeSelector": {"pool": "h800"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
}
BASE: Obj = {
    "apiVersion": "serving.hortator.dev/v1alpha1",
    "kind": "LLMService",
    "metadata": {"name": "base"},
    "spec": {
        "model": {
            "uri": "hf://org/model",
            "revision": "main",
            "name": "model",
            "authSecretRef": {"name": "token", "key": "HF_TOKEN"},
            "cache": {
                "create": {"size": "1Ti", "storageClassName": "fast", "accessMode": "ReadWriteMany"},
                "prefetch": True,
            },
        },
        "security": {
            "apiKeysSecretRef": {"name": "keys", "key": "keys.yaml"},
            "networkPolicy": {
                "clientNamespaces": ["apps"],
                "scraperNamespaces": ["monitoring"],
                "downloadPorts": [443],
            },
        },
        "engine": {
            "backend": "Simulated",
            "simulated": {"preset": "deepseek-h800"},
            "image": "registry.example/engine:1",
            "imagePullSecrets": [{"name": "pull"}],
            "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        },
        "topology": "Aggregated",
        "replicas": 1,
        "roles": [ROLE],
        "placement": {"topologyKey": "topology.kubernetes.io/zone", "mode": "Required"},
        "scheduler": {
            "image": "registry.example/s:1",
            "resources": {"cpu": 1, "memory": "1Gi"},
            "tenants": [{"name": "acme", "weight": 2.0, "queueShare": 0.5}],
        },
        "gateway": {"image": "registry.example/g:1", "resources": {"cpu": 1, "memory": "1Gi"}},
        "restart": {"requestedAt": "2026-11-26T10:00:00Z"},
        "autoscaling": {"minReplicas": 1, "maxReplicas": 1024, "targetTTFT": "2s"},
        "suspend": False,
    },
}
"""Every optional part is there, so that each has a place to be changed in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One object, or one change of an object, and what must be said to it."""

    name: str
    covers: str
    changes: Mapping[str, Any]
    """Path in the base object -> new value."""
    refused: str | None = None
    """In the refusal of both; None: both accept."""
    field: str = ""
    """The field that the API server names; the mirror may name one inside of it."""
    before: Mapping[str, Any] | None = None
    """Changes that make the object which stood there before; None: the object is created."""

    @property
    def obj(self) -> Obj:
        """The object."""
        return changed(self.changes)

    @property
    def old(self) -> Obj | None:
        """What stood there before."""
        return None if self.before is None else changed(self.before)


def changed(changes: Mapping[str, Any], base: Obj = BASE) -> Obj:
    """The base object with other values at some paths, like `spec.roles[0].nodes`."""
    obj = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]
        target: Any = obj
        for part in parents:
            target = target[part] if isinstance(target, list) else target.setdefault(part, {})
        if value is ABSENT:
            del target[last]
        elif isinstance(target, list) and last == len(target):
            target.append(copy.deepcopy(value))
        else:
            target[last] = copy.deepcopy(value)
    return obj


def _split(attention_dp: int, expert: int, **more: int) -> Obj:
    """A parallelism; `tensor`, `pipeline` and `expertTensor` are 1 unless given."""
    return {"attentionDP": attention_dp, "expert": expert} | more


TENSORRT_LLM: Obj = {"spec.engine.backend": "TensorRTLLM", "spec.engine.simulated": ABSENT}
PREFILL, DECODE = copy.deepcopy(ROLE) | {"name": "Prefill"}, copy.deepcopy(ROLE) | {"name": "Decode"}
PREFILL_DECODE: Obj = {"spec.topology": "PrefillDecode", "spec.roles": [PREFILL, DECODE]}

TOPOLOGY = (
    "topology Aggregated needs exactly one Aggregated role, "
    "topology PrefillDecode exactly one Prefill and one Decode role"
)
WORLD = "attentionDP x tensor x pipeline must equal nodes x gpusPerNode"
EXPERTS = "expert x expertTensor must equal attentionDP x tensor"
ATTENTION = "attention is either data-parallel or tensor-parallel in TensorRTLLM"
CPU_SPLIT = "tensor, pipeline and expertTensor must be 1 with backends TorchMoE and Simulated"
BLOCKS = "tokensPerBlock must be equal in all roles: KV blocks are handed over between them"
DTYPES = "kvCacheDtype must be equal in all roles: KV blocks are handed over between them"
GRAPHS = "batchSizes must not be above maxBatchSize of the role"
OF_FIELD = "an argument that Hortator sets, from a field of its own"
WAITS = "an argument by which the engine would hold back, move or hide what the scheduler has placed"
BATCH_WAIT = "batch_wait_timeout_ms is waited in every pass: only in role Prefill, above 0 to 10"
GROUPS = "a role has at most 1024 EP groups"
SIMULATED = "only with backend Simulated"
TORCH_URI = "must start with builtin:// or file:// with backend TorchMoE"
TRT_URI = "must start with hf://, pvc://, oci://, s3:// or file:// with backend TensorRTLLM"
CLAIM = "exactly one of claimName and create is needed"
QUEUES = "Kueue needs a queue, Volcano may have one, no other provider has any"
PLACES = "only with providers Volcano and Coscheduling"
STEPS = "maxUnavailable and maxSurge must not both be 0"
SCALES = "minReplicas must not be above maxReplicas"
HOSTS = "only with issuer Operator"
DELAYS = "baseDelay must not be above maxDelay"
TOLERATION = "operator Exists has no value, operator Equal needs a key"
WHILE = "may change only while suspend is true before and after"
SHAPE = f"nodes, gpusPerNode, gpuResourceName and parallelism of a role {WHILE}"
NAMES = f"the names of the roles {WHILE}"
DTYPE = f"kvCacheDtype of roles that hand over KV {WHILE}"
TLS = f"whether there is security.tls {WHILE}"
CREATE = "create cannot change: make another claim and name it in claimName"

SUSPENDED = {"spec.suspend": True}
SMALLER = {"spec.roles[0].nodes": 1, "spec.roles[0].parallelism": _split(8, 8)}
_ROLES, _TOLERATION = "spec.roles", "spec.roles[0].tolerations[0]"
_OPTIONS = "spec.roles[0].tensorrtLLM"
_DP, _EXPERT, _TENSOR = (f"spec.roles[0].parallelism.{name}" for name in ("attentionDP", "expert", "tensor"))


@dataclass(slots=True)
class _Table:
    cases: list[Case] = field(default_factory=list)

    def add(
        self,
        covers: str,
        name: str,
        changes: Mapping[str, Any],
        refused: str | None = None,
        where: str = "",
        *,
        before: Mapping[str, Any] | None = None,
    ) -> None:
        case = Case(
            name=f"{covers}: {name}",
            covers=covers,
            changes=changes,
            refused=refused,
            field=where,
            before=before,
        )
        self.cases.append(case)


def _rules() -> list[Case]:
    table = _Table()
    add = table.add
    add("topology", "one Aggregated role", {})
    add("topology", "Prefill and Decode", PREFILL_DECODE)
    add("topology", "Decode first", PREFILL_DECODE | {_ROLES: [DECODE, PREFILL]})
    add("topology", "Aggregated with a Prefill role", {"spec.roles[0].name": "Prefill"}, TOPOLOGY, _ROLES)
    add("topology", "Aggregated with two roles", {"spec.roles[1]": PREFILL}, TOPOLOGY, _ROLES)
    add("topology", "PrefillDecode without Decode", PREFILL_DECODE | {_ROLES: [PREFILL]}, TOPOLOGY, _ROLES)
    add(
        "topology",
        "PrefillDecode with Aggregated",
        PREFILL_DECODE | {_ROLES: [PREFILL, ROLE]},
        TOPOLOGY,
        _ROLES,
    )
    add("world-size", "one rank too many", {_DP: 17, _EXPERT: 17}, WORLD, _DP)
    add("world-size", "one rank too few", {_DP: 15, _EXPERT: 15}, WORLD, _DP)
    add("world-size", "one GPU per node more", {"spec.roles[0].gpusPerNode": 9}, WORLD, _DP)
    add("world-size", "all three factors", TENSORRT_LLM | {
        "spec.roles[0].nodes": 4, "spec.roles[0].parallelism": _split(1, 4, tensor=4, pipeline=8),
    })  # fmt: skip
    add("experts", "one expert rank too few", {_EXPERT: 15}, EXPERTS, _EXPERT)
    add("experts", "expert tensor parallelism counts", TENSORRT_LLM | {
        "spec.roles[0].parallelism": _split(16, 8, expertTensor=4),
    }, EXPERTS, _EXPERT)  # fmt: skip
    add(
        "experts",
        "equal products",
        TENSORRT_LLM | {"spec.roles[0].parallelism": _split(16, 4, expertTensor=4)},
    )
    add("tensorrt-llm-attention", "both above 1", TENSORRT_LLM | {
        "spec.roles[0].parallelism": _split(8, 16, tensor=2),
    }, ATTENTION, _ROLES)  # fmt: skip
    add("tensorrt-llm-attention", "tensor alone", TENSORRT_LLM | {
        "spec.roles[0].parallelism": _split(1, 16, tensor=16),
    })  # fmt: skip
    for name, split in (
        ("tensor", _split(8, 16, tensor=2)),
        ("pipeline", _split(8, 8, pipeline=2)),
        ("expertTensor", _split(16, 8, expertTensor=2)),
    ):
        add("cpu-parallelism", f"{name} 2", {"spec.roles[0].parallelism": split}, CPU_SPLIT, _ROLES)
    add("cpu-parallelism", "all ones", {"spec.roles[0].parallelism": _split(16, 16)})
    add("cpu-parallelism", "pipeline 2 on GPUs", TENSORRT_LLM | {
        "spec.roles[0].parallelism": _split(8, 8, pipeline=2),
    })  # fmt: skip
    sizes = PREFILL_DECODE | {"spec.roles[0].tokensPerBlock": 32}
    add("hand-over", "32 and the default", sizes, BLOCKS, _ROLES)
    add("hand-over", "32 and 32", sizes | {"spec.roles[1].tokensPerBlock": 32})
    fp8 = PREFILL_DECODE | {"spec.roles[0].tensorrtLLM": {"kvCacheDtype": "fp8"}}
    add("hand-over-dtype", "fp8 and the default", fp8, DTYPES, _ROLES)
    add(
        "hand-over-dtype",
        "fp8 and no options at all",
        fp8 | {"spec.roles[1].tensorrtLLM": ABSENT},
        DTYPES,
        _ROLES,
    )
    add("hand-over-dtype", "fp8 and fp8", fp8 | {"spec.roles[1].tensorrtLLM": {"kvCacheDtype": "fp8"}})
    add("hand-over-dtype", "the default and no options at all", PREFILL_DECODE | {
        "spec.roles[1].tensorrtLLM": ABSENT,
    })  # fmt: skip
    graphs = {f"{_OPTIONS}.cudaGraph.batchSizes": [32, 1]}
    add("graph-sizes", "up to maxBatchSize", graphs | {"spec.roles[0].maxBatchSize": 32})
    add(
        "graph-sizes",
        "beyond",
        graphs | {"spec.roles[0].maxBatchSize": 31},
        GRAPHS,
        f"{_OPTIONS}.cudaGraph.batchSizes",
    )
    add("args-of-fields", "another one", {})
    for name in ("kv_cache_config.dtype", "max_num_tokens", "moe_config"):
        add("args-of-fields", name, {f"{_OPTIONS}.args[0].name": name}, OF_FIELD, f"{_OPTIONS}.args[0].name")
    add("args-that-wait", "another one", {f"{_OPTIONS}.args[0].name": "trust_remote_code"})
    for name in ("attention_dp_config.enable_balance", "batch_wait_timeout_iters", "stream_interval"):
        add("args-that-wait", name, {f"{_OPTIONS}.args[0].name": name}, WAITS, f"{_OPTIONS}.args[0].name")
    for role, value in (
        ("Aggregated", "3"),
        ("Prefill", "0"),
        ("Prefill", "0.0"),
        ("Prefill", "11"),
        ("Prefill", "x"),
    ):
        waiting = {f"{_OPTIONS}.args": [{"name": "batch_wait_timeout_ms", "value": value}]}
        changes = waiting if role == "Aggregated" else PREFILL_DECODE | waiting
        add("batch-wait", f"{value} in {role}", changes, BATCH_WAIT, f"{_OPTIONS}.args")
    for value in ("0.5", "3", "10.0"):
        add("batch-wait", value, PREFILL_DECODE | {
            f"{_OPTIONS}.args": [{"name": "batch_wait_timeout_ms", "value": value}],
        })  # fmt: skip
    many = {"spec.replicas": 2, "spec.roles[0].replicas": 512}
    add("groups-per-role", "1024 groups", many)
    add("groups-per-role", "1026 groups", many | {"spec.roles[0].replicas": 513}, GROUPS, "spec.replicas")
    add("simulated-options", "with Simulated", {})
    add(
        "simulated-options",
        "with TensorRTLLM",
        {"spec.engine.backend": "TensorRTLLM"},
        SIMULATED,
        "spec.engine.simulated",
    )
    torch = {"spec.engine.backend": "TorchMoE", "spec.engine.simulated": ABSENT}
    for uri in ("builtin://moe", "file:///weights"):
        add("torch-moe-weights", uri, torch | {"spec.model.uri": uri})
    add("torch-moe-weights", "hf://", torch, TORCH_URI, "spec.model.uri")
    add("tensorrt-llm-weights", "hf://", TENSORRT_LLM)
    add(
        "tensorrt-llm-weights",
        "builtin://",
        TENSORRT_LLM | {"spec.model.uri": "builtin://moe"},
        TRT_URI,
        "spec.model.uri",
    )
    add("cache-claim", "create alone", {})
    add("cache-claim", "claimName alone", {"spec.model.cache": {"claimName": "weights"}})
    add("cache-claim", "both", {"spec.model.cache.claimName": "weights"}, CLAIM, "spec.model.cache")
    add("cache-claim", "neither", {"spec.model.cache": {}}, CLAIM, "spec.model.cache")
    smallest, largest = "spec.autoscaling.minReplicas", "spec.autoscaling.maxReplicas"
    add("autoscaling-bounds", "equal", {smallest: 4, largest: 4})
    add("autoscaling-bounds", "one above", {smallest: 5, largest: 4}, SCALES, smallest)
    gang = "spec.placement.gang"
    for provider in ("Volcano", "Kueue"):
        add("gang-queue", f"of {provider}", {f"{gang}.provider": provider, f"{gang}.queue": "q"})
    add("gang-queue", "Volcano without", {f"{gang}.provider": "Volcano"})
    add("gang-queue", "Kueue without", {f"{gang}.provider": "Kueue"}, QUEUES, f"{gang}.queue")
    add("gang-queue", "nobody's", {f"{gang}.queue": "q"}, QUEUES, f"{gang}.queue")
    unqueued = {f"{gang}.provider": "Coscheduling", f"{gang}.queue": "q"}
    add("gang-queue", "of Coscheduling", unqueued, QUEUES, f"{gang}.queue")
    mine = {f"{gang}.schedulerName": "mine"}
    for provider in ("Volcano", "Coscheduling"):
        add("gang-scheduler", f"of {provider}", mine | {f"{gang}.provider": provider})
    add("gang-scheduler", "of the operator", mine, PLACES, f"{gang}.schedulerName")
    queued = {f"{gang}.provider": "Kueue", f"{gang}.queue": "q"}
    add("gang-scheduler", "of Kueue", mine | queued, PLACES, f"{gang}.schedulerName")
    none_away = {"spec.rollout.maxUnavailable": 0}
    add("rollout-steps", "maxSurge alone", none_away | {"spec.rollout.maxSurge": 1})
    add("rollout-steps", "neither", none_away, STEPS, "spec.rollout.maxUnavailable")
    shown = {"spec.security.clientAuth": "Certificate"}
    add("client-certificates", "with tls", shown | {"spec.security.tls": {}})
    add("client-certificates", "without tls", shown, "Certificate needs tls", "spec.security.clientAuth")
    dialled = {"spec.security.tls.hosts": ["llm.example.com"]}
    add("hosts-of-certificates", "Operator", dialled | {"spec.security.tls.issuer": "Operator"})
    add("hosts-of-certificates", "Secrets", dialled, HOSTS, "spec.security.tls.hosts")
    delays = {"spec.restart.baseDelay": "10m", "spec.restart.maxDelay": "10m"}
    add("restart-delays", "equal", delays)
    add(
        "restart-delays",
        "a millisecond above",
        delays | {"spec.restart.baseDelay": "10m1ms"},
        DELAYS,
        "spec.restart.baseDelay",
    )
    add("toleration", "Exists with a value", {f"{_TOLERATION}.operator": "Exists"}, TOLERATION, _TOLERATION)
    add("toleration", "Equal without a key", {f"{_TOLERATION}.key": ABSENT}, TOLERATION, _TOLERATION)
    add("toleration", "Exists alone", {_TOLERATION: {"operator": "Exists"}})
    add("toleration", "a key alone", {_TOLERATION: {"key": "dedicated"}})
    return table.cases


def _transitions() -> list[Case]:
    table = _Table()
    add = table.add
    for before, after in ((False, False), (False, True), (True, False)):
        label = f"suspend {before}, then {after}".lower()
        old, new = {"spec.suspend": before}, {"spec.suspend": after}
        add(
            "topology-immutable",
            label,
            new | PREFILL_DECODE,
            f"topology {WHILE}",
            "spec.topology",
            before=old,
        )
        add("roles-immutable", label, new | PREFILL_DECODE, NAMES, _ROLES, before=old)
        add("shape-immutable", f"fewer nodes, {label}", new | SMALLER, SHAPE, _ROLES, before=old)
    for covers, changes in (
        ("topology-immutable", PREFILL_DECODE),
        ("roles-immutable", PREFILL_DECODE),
        ("shape-immutable", SMALLER),
    ):
        add(covers, "while suspended", SUSPENDED | changes, before=SUSPENDED)
    fp8 = PREFILL_DECODE | {f"spec.roles[{index}].tensorrtLLM": {"kvCacheDtype": "fp8"} for index in range(2)}
    add("hand-over-immutable", "half the size while it serves", fp8, DTYPE, _ROLES, before=PREFILL_DECODE)
    add("hand-over-immutable", "while suspended", SUSPENDED | fp8, before=SUSPENDED | PREFILL_DECODE)
    add("hand-over-immutable", "where no KV is handed over", {
        f"{_OPTIONS}.kvCacheDtype": "fp8",
    }, before={})  # fmt: skip
    name = {"spec.roles[0].gpuResourceName": "example.com/gpu"}
    split = TENSORRT_LLM | {"spec.roles[0].parallelism": _split(16, 8, expertTensor=2)}
    wider = {"spec.roles[0].nodes": 1, "spec.roles[0].gpusPerNode": 16}
    add("shape-immutable", "another GPU resource", name, SHAPE, _ROLES, before={})
    add("shape-immutable", "another split", split, SHAPE, _ROLES, before=TENSORRT_LLM)
    add("shape-immutable", "the same world on fewer nodes", wider, SHAPE, _ROLES, before={})
    add("shape-immutable", "in the second role", PREFILL_DECODE | {
        "spec.roles[1].gpuResourceName": "example.com/gpu",
    }, SHAPE, _ROLES, before=PREFILL_DECODE)  # fmt: skip
    add(
        "shape-immutable",
        "roles in another order",
        PREFILL_DECODE | {_ROLES: [DECODE, PREFILL]},
        before=PREFILL_DECODE,
    )
    add(
        "shape-immutable",
        "a default written out",
        {"spec.roles[0].gpuResourceName": "nvidia.com/gpu"},
        before={},
    )
    add("shape-immutable", "what may change", {
        "spec.replicas": 3, "spec.roles[0].replicas": 2, "spec.engine.image": "registry.example/engine:2",
        "spec.roles[0].chunkBudgetTokens": 4096, "spec.suspend": True,
    }, before={})  # fmt: skip
    larger = {"spec.model.cache.create.size": "2Ti"}
    add("claim-immutable", "another size", larger, CREATE, "spec.model.cache.create", before={})
    add(
        "claim-immutable",
        "also while suspended",
        larger | SUSPENDED,
        CREATE,
        "spec.model.cache.create",
        before=SUSPENDED,
    )
    add(
        "claim-immutable", "a claim of another name", {"spec.model.cache": {"claimName": "larger"}}, before={}
    )
    add("claim-immutable", "the first claim", {}, before={"spec.model.cache": ABSENT})
    secured = {"spec.security.tls": {}}
    other = {"spec.security.tls": {"secretPrefix": "other"}}
    add("tls-immutable", "switched on", secured, TLS, "spec.security.tls", before={})
    add("tls-immutable", "switched off", {}, TLS, "spec.security.tls", before=secured)
    add("tls-immutable", "while suspended", SUSPENDED | secured, before=SUSPENDED)
    add("tls-immutable", "other Secrets", other, before=secured)
    add("claim-immutable", "no cache any more", {"spec.model.cache": ABSENT}, before={})
    return table.cases


RULE_CASES = tuple(_rules())
TRANSITION_CASES = tuple(_transitions())
