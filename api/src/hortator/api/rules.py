"""What several fields of an LLMService must satisfy together, in the order of the fields.

Rules of one field (patterns, bounds) are not here: the types in `v1alpha1` carry them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from hortator.api.v1alpha1 import LLMService, RoleName, Topology
from hortator.api.v1alpha1.tensorrt_llm import (
    ARGS_OF_FIELDS,
    ARGS_THAT_WAIT,
    BATCH_WAIT,
    BATCH_WAIT_PATTERN,
)
from hortator.api.validation import Found, Rule

ROLES_OF: dict[Topology, tuple[RoleName, ...]] = {
    "Aggregated": ("Aggregated",),
    "PrefillDecode": ("Prefill", "Decode"),
}
MAX_GROUPS_PER_ROLE = 1024


def _product(*factors: int) -> str:
    return f"{' x '.join(map(str, factors))} = {math.prod(factors)}"


def _topology(service: LLMService) -> Iterator[Found]:
    given = [role.name for role in service.spec.roles]
    if Counter(given) != Counter(ROLES_OF[service.spec.topology]):
        yield "spec.roles", f"{service.spec.topology} with {', '.join(given)}"


def _world_size(service: LLMService) -> Iterator[Found]:
    for index, role in enumerate(service.spec.roles):
        split = role.parallelism
        if split.attention_dp * split.tensor * split.pipeline != role.nodes * role.gpus_per_node:
            yield (
                f"spec.roles[{index}].parallelism.attentionDP",
                f"{_product(split.attention_dp, split.tensor, split.pipeline)} and "
                + _product(role.nodes, role.gpus_per_node),
            )


def _experts(service: LLMService) -> Iterator[Found]:
    for index, role in enumerate(service.spec.roles):
        split = role.parallelism
        if split.expert * split.expert_tensor != split.attention_dp * split.tensor:
            yield (
                f"spec.roles[{index}].parallelism.expert",
                f"{_product(split.expert, split.expert_tensor)} and "
                + _product(split.attention_dp, split.tensor),
            )


def _tensorrt_llm_attention(service: LLMService) -> Iterator[Found]:
    for index, role in enumerate(service.spec.roles):
        split = role.parallelism
        if service.spec.engine.backend == "TensorRTLLM" and split.attention_dp > 1 and split.tensor > 1:
            yield (
                f"spec.roles[{index}].parallelism.tensor",
                f"tensor {split.tensor} with attentionDP {split.attention_dp}",
            )


def _cpu_parallelism(service: LLMService) -> Iterator[Found]:
    if service.spec.engine.backend == "TensorRTLLM":
        return
    for index, role in enumerate(service.spec.roles):
        split = role.parallelism
        for name, value in (
            ("tensor", split.tensor),
            ("pipeline", split.pipeline),
            ("expertTensor", split.expert_tensor),
        ):
            if value != 1:
                yield (
                    f"spec.roles[{index}].parallelism.{name}",
                    f"{value} with {service.spec.engine.backend}",
                )


def _hand_over(service: LLMService) -> Iterator[Found]:
    roles = service.spec.roles
    if len({role.tokens_per_block for role in roles}) > 1:
        sizes = ", ".join(f"{role.name} {role.tokens_per_block}" for role in roles)
        yield "spec.roles[1].tokensPerBlock", sizes


def _hand_over_dtype(service: LLMService) -> Iterator[Found]:
    roles = service.spec.roles
    if len({role.kv_cache_dtype for role in roles}) > 1:
        dtypes = ", ".join(f"{role.name} {role.kv_cache_dtype}" for role in roles)
        yield "spec.roles[1].tensorrtLLM.kvCacheDtype", dtypes


def _graph_sizes(service: LLMService) -> Iterator[Found]:
    for index, role in enumerate(service.spec.roles):
        sizes = () if role.tensorrt_llm is None else role.tensorrt_llm.cuda_graph.batch_sizes
        most = role.max_batch_size
        if any(size > most for size in sizes):
            yield f"spec.roles[{index}].tensorrtLLM.cudaGraph.batchSizes", f"{max(sizes)} above {most}"


def _args_of_fields(service: LLMService) -> Iterator[Found]:
    for at, name, _ in _args(service):
        if name in ARGS_OF_FIELDS:
            yield at, f"{name}, which is said by {ARGS_OF_FIELDS[name]}"


def _args_that_wait(service: LLMService) -> Iterator[Found]:
    for at, name, _ in _args(service):
        if name in ARGS_THAT_WAIT:
            yield at, f"{name}: {ARGS_THAT_WAIT[name]}"


def _batch_wait(service: LLMService) -> Iterator[Found]:
    for index, role in enumerate(service.spec.roles):
        for arg in () if role.tensorrt_llm is None else role.tensorrt_llm.args:
            is_short = re.fullmatch(BATCH_WAIT_PATTERN, arg.value, re.ASCII) is not None
            if arg.name == BATCH_WAIT and not (role.name == "Prefill" and is_short):
                yield f"spec.roles[{index}].tensorrtLLM.args", f"{arg.value} in role {role.name}"


def _args(service: LLMService) -> Iterator[tuple[str, str, str]]:
    """Place of its name, name and value of every further argument."""
    for index, role in enumerate(service.spec.roles):
        for number, arg in enumerate(() if role.tensorrt_llm is None else role.tensorrt_llm.args):
            yield f"spec.roles[{index}].tensorrtLLM.args[{number}].name", arg.name, arg.value


def _is_none_of(names: Iterable[str]) -> str:
    return f"!(self.name in [{', '.join(repr(name) for name in names)}])"


def _too_many_groups(service: LLMService) -> Iterator[Found]:
    for role in service.spec.roles:
        if service.spec.replicas * role.replicas > MAX_GROUPS_PER_ROLE:
            yield "spec.replicas", f"{service.spec.replicas} x {role.replicas} {role.name} groups"


def _autoscaling_bounds(service: LLMService) -> Iterator[Found]:
    scaling = service.spec.autoscaling
    if scaling is not None and scaling.min_replicas > scaling.max_replicas:
        yield "spec.autoscaling.minReplicas", f"{scaling.min_replicas} and {scaling.max_replicas}"


def _simulated_options(service: LLMService) -> Iterator[Found]:
    engine = service.spec.engine
    if engine.simulated is not None and engine.backend != "Simulated":
        yield "spec.engine.simulated", f"backend {engine.backend}"


def _scheme(service: LLMService) -> str:
    return service.spec.model.uri.partition("://")[0]


def _torch_moe_weights(service: LLMService) -> Iterator[Found]:
    if service.spec.engine.backend == "TorchMoE" and _scheme(service) not in {"builtin", "file"}:
        yield "spec.model.uri", f"{_scheme(service)}://"


def _tensorrt_llm_weights(service: LLMService) -> Iterator[Found]:
    if service.spec.engine.backend == "TensorRTLLM" and _scheme(service) == "builtin":
        yield "spec.model.uri", "builtin://"


def _cache_claim(service: LLMService) -> Iterator[Found]:
    cache = service.spec.model.cache
    if cache is not None and (cache.claim_name is None) == (cache.create is None):
        yield "spec.model.cache", "neither" if cache.create is None else "both"


def _gang_queue(service: LLMService) -> Iterator[Found]:
    gang = service.spec.placement.gang
    if gang.provider == "Kueue" and gang.queue is None:
        yield "spec.placement.gang.queue", "Kueue without a queue"
    if gang.queue is not None and gang.provider not in {"Volcano", "Kueue"}:
        yield "spec.placement.gang.queue", f"{gang.queue} with provider {gang.provider}"


def _gang_scheduler(service: LLMService) -> Iterator[Found]:
    gang = service.spec.placement.gang
    if gang.scheduler_name is not None and gang.provider not in {"Volcano", "Coscheduling"}:
        yield "spec.placement.gang.schedulerName", f"{gang.scheduler_name} with provider {gang.provider}"


def _client_certificates(service: LLMService) -> Iterator[Found]:
    security = service.spec.security
    if security.client_auth == "Certificate" and security.tls is None:
        yield "spec.security.clientAuth", "Certificate without tls"


def _hosts_of_certificates(service: LLMService) -> Iterator[Found]:
    tls = service.spec.security.tls
    if tls is not None and tls.hosts and tls.issuer != "Operator":
        yield "spec.security.tls.hosts", f"{', '.join(tls.hosts)} with issuer {tls.issuer}"


def _restart_delays(service: LLMService) -> Iterator[Found]:
    restart = service.spec.restart
    if restart.base_delay_s > restart.max_delay_s:
        yield "spec.restart.baseDelay", f"{restart.base_delay_s:g} s and {restart.max_delay_s:g} s"


def _rollout_steps(service: LLMService) -> Iterator[Found]:
    rollout = service.spec.rollout
    if rollout.max_unavailable == 0 and rollout.max_surge == 0:
        yield "spec.rollout.maxUnavailable", "0 and maxSurge 0"


def _toleration(service: LLMService) -> Iterator[Found]:
    for number, role in enumerate(service.spec.roles):
        for index, toleration in enumerate(role.tolerations):
            is_everything = toleration.operator == "Exists"
            if toleration.value is not None if is_everything else toleration.key is None:
                yield (
                    f"spec.roles[{number}].tolerations[{index}]",
                    f"{toleration.operator} {'with a value' if is_everything else 'without a key'}",
                )


RULES: tuple[Rule[LLMService], ...] = (
    Rule(
        name="topology",
        at="spec",
        field="roles",
        cel="self.topology == 'Aggregated'"
        " ? self.roles.size() == 1 && self.roles[0].name == 'Aggregated'"
        " : self.roles.size() == 2 && ['Prefill', 'Decode'].all(n, self.roles.exists(r, r.name == n))",
        message="topology Aggregated needs exactly one Aggregated role, "
        "topology PrefillDecode exactly one Prefill and one Decode role",
        find=_topology,
    ),
    Rule(
        name="world-size",
        at="spec.roles[]",
        field="parallelism.attentionDP",
        cel="self.parallelism.attentionDP * self.parallelism.tensor * self.parallelism.pipeline"
        " == self.nodes * self.gpusPerNode",
        message="attentionDP x tensor x pipeline must equal nodes x gpusPerNode",
        find=_world_size,
    ),
    Rule(
        name="experts",
        at="spec.roles[]",
        field="parallelism.expert",
        cel="self.parallelism.expert * self.parallelism.expertTensor"
        " == self.parallelism.attentionDP * self.parallelism.tensor",
        message="expert x expertTensor must equal attentionDP x tensor",
        find=_experts,
    ),
    Rule(
        name="tensorrt-llm-attention",
        at="spec",
        field="roles",
        cel="self.engine.backend != 'TensorRTLLM'"
        " || self.roles.all(r, r.parallelism.attentionDP == 1 || r.parallelism.tensor == 1)",
        message="attention is either data-parallel or tensor-parallel in TensorRTLLM: "
        "tensor must be 1 when attentionDP is above 1",
        find=_tensorrt_llm_attention,
    ),
    Rule(
        name="cpu-parallelism",
        at="spec",
        field="roles",
        cel="self.engine.backend == 'TensorRTLLM' || self.roles.all(r, r.parallelism.tensor == 1"
        " && r.parallelism.pipeline == 1 && r.parallelism.expertTensor == 1)",
        message="tensor, pipeline and expertTensor must be 1 with backends TorchMoE and Simulated",
        find=_cpu_parallelism,
    ),
    Rule(
        name="hand-over",
        at="spec",
        field="roles",
        cel="self.roles.all(r, r.tokensPerBlock == self.roles[0].tokensPerBlock)",
        message="tokensPerBlock must be equal in all roles: KV blocks are handed over between them",
        find=_hand_over,
    ),
    Rule(
        name="hand-over-dtype",
        at="spec",
        field="roles",
        cel="self.roles.all(r, (has(r.tensorrtLLM) ? r.tensorrtLLM.kvCacheDtype : 'auto')"
        " == (has(self.roles[0].tensorrtLLM) ? self.roles[0].tensorrtLLM.kvCacheDtype : 'auto'))",
        message="kvCacheDtype must be equal in all roles: KV blocks are handed over between them",
        find=_hand_over_dtype,
    ),
    Rule(
        name="graph-sizes",
        at="spec.roles[]",
        field="tensorrtLLM.cudaGraph.batchSizes",
        cel="!has(self.tensorrtLLM) || !has(self.tensorrtLLM.cudaGraph.batchSizes)"
        " || self.tensorrtLLM.cudaGraph.batchSizes.all(n, n <= self.maxBatchSize)",
        message="batchSizes must not be above maxBatchSize of the role",
        find=_graph_sizes,
    ),
    Rule(
        name="args-of-fields",
        at="spec.roles[].tensorrtLLM.args[]",
        field="name",
        cel=_is_none_of(ARGS_OF_FIELDS),
        message="an argument that Hortator sets, from a field of its own (docs/reference/llmservice.md)",
        find=_args_of_fields,
    ),
    Rule(
        name="args-that-wait",
        at="spec.roles[].tensorrtLLM.args[]",
        field="name",
        cel=_is_none_of(ARGS_THAT_WAIT),
        message="an argument by which the engine would hold back, move or hide what the scheduler has placed",
        find=_args_that_wait,
    ),
    Rule(
        name="batch-wait",
        at="spec.roles[]",
        field="tensorrtLLM.args",
        cel="!has(self.tensorrtLLM) || !has(self.tensorrtLLM.args)"
        f" || self.tensorrtLLM.args.all(a, a.name != '{BATCH_WAIT}'"
        f" || self.name == 'Prefill' && a.value.matches(r'^(?:{BATCH_WAIT_PATTERN})$'))",
        message=f"{BATCH_WAIT} is waited in every pass: only in role Prefill, above 0 to 10",
        find=_batch_wait,
    ),
    Rule(
        name="groups-per-role",
        at="spec",
        field="replicas",
        cel=f"self.roles.all(r, self.replicas * r.replicas <= {MAX_GROUPS_PER_ROLE})",
        message=f"a role has at most {MAX_GROUPS_PER_ROLE} EP groups: replicas x replicas of the role",
        find=_too_many_groups,
    ),
    Rule(
        name="autoscaling-bounds",
        at="spec.autoscaling",
        field="minReplicas",
        cel="self.minReplicas <= self.maxReplicas",
        message="minReplicas must not be above maxReplicas",
        find=_autoscaling_bounds,
    ),
    Rule(
        name="simulated-options",
        at="spec.engine",
        field="simulated",
        cel="!has(self.simulated) || self.backend == 'Simulated'",
        message="only with backend Simulated",
        find=_simulated_options,
    ),
    Rule(
        name="torch-moe-weights",
        at="spec",
        field="model.uri",
        cel="self.engine.backend != 'TorchMoE' || self.model.uri.startsWith('builtin://')"
        " || self.model.uri.startsWith('file://')",
        message="must start with builtin:// or file:// with backend TorchMoE",
        find=_torch_moe_weights,
    ),
    Rule(
        name="tensorrt-llm-weights",
        at="spec",
        field="model.uri",
        cel="self.engine.backend != 'TensorRTLLM' || !self.model.uri.startsWith('builtin://')",
        message="must start with hf://, pvc://, oci://, s3:// or file:// with backend TensorRTLLM",
        find=_tensorrt_llm_weights,
    ),
    Rule(
        name="cache-claim",
        at="spec.model.cache",
        field="",
        cel="has(self.claimName) != has(self.create)",
        message="exactly one of claimName and create is needed",
        find=_cache_claim,
    ),
    Rule(
        name="gang-queue",
        at="spec.placement.gang",
        field="queue",
        cel="has(self.queue) ? self.provider in ['Volcano', 'Kueue'] : self.provider != 'Kueue'",
        message="Kueue needs a queue, Volcano may have one, no other provider has any",
        find=_gang_queue,
    ),
    Rule(
        name="gang-scheduler",
        at="spec.placement.gang",
        field="schedulerName",
        cel="!has(self.schedulerName) || self.provider in ['Volcano', 'Coscheduling']",
        message="only with providers Volcano and Coscheduling: else kube-scheduler places the pods",
        find=_gang_scheduler,
    ),
    Rule(
        name="rollout-steps",
        at="spec.rollout",
        field="maxUnavailable",
        cel="self.maxUnavailable > 0 || self.maxSurge > 0",
        message="maxUnavailable and maxSurge must not both be 0: no group could ever move",
        find=_rollout_steps,
    ),
    Rule(
        name="client-certificates",
        at="spec.security",
        field="clientAuth",
        cel="self.clientAuth != 'Certificate' || has(self.tls)",
        message="Certificate needs tls",
        find=_client_certificates,
    ),
    Rule(
        name="hosts-of-certificates",
        at="spec.security.tls",
        field="hosts",
        cel="!has(self.hosts) || self.hosts.size() == 0 || self.issuer == 'Operator'",
        message="only with issuer Operator: else whoever makes the Secrets puts them in",
        find=_hosts_of_certificates,
    ),
    Rule(
        name="restart-delays",
        at="spec.restart",
        field="baseDelay",
        cel="duration(self.baseDelay) <= duration(self.maxDelay)",
        message="baseDelay must not be above maxDelay",
        find=_restart_delays,
    ),
    Rule(
        name="toleration",
        at="spec.roles[].tolerations[]",
        field="",
        cel="self.operator == 'Exists' ? !has(self.value) : has(self.key)",
        message="operator Exists has no value, operator Equal needs a key",
        find=_toleration,
    ),
)
