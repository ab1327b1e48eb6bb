"""What several fields of an LLMService must satisfy together.

Per role (one EP group):

    world size  = nodes x gpusPerNode = attentionDP x tensor x pipeline
    expert x expertTensor             = attentionDP x tensor

Every GPU of a pipeline stage takes part in its attention (attentionDP x tensor) and, in the same
stage, in its experts (expert x expertTensor): the two products are the same GPUs. Locally a role's
nodes and gpusPerNode describe ranks, not hardware.

Roles match the topology: Aggregated has exactly one Aggregated role, PrefillDecode exactly one Prefill
and one Decode. Both roles of a PrefillDecode service hand KV blocks over, so their block sizes agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hortator.api.v1alpha1 import LLMService, Parallelism, RoleName, RoleSpec, Topology

ROLES_OF: dict[Topology, tuple[RoleName, ...]] = {
    "Aggregated": ("Aggregated",),
    "PrefillDecode": ("Prefill", "Decode"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a manifest."""

    path: str
    """The field as YAML spells it, for example ``spec.roles[0].nodes``; empty for the whole file."""
    message: str
    """What is wrong and, in brackets, what is allowed."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def world_size(role: RoleSpec) -> int:
    """GPUs (locally: ranks) of one EP group."""
    return role.nodes * role.gpus_per_node


def num_groups(service: LLMService, role: RoleSpec) -> int:
    """EP groups of a role over all replicas of the service."""
    return service.spec.replicas * role.replicas


def num_ranks(service: LLMService) -> int:
    """DP ranks of all EP groups of the service."""
    return sum(num_groups(service, role) * role.parallelism.attention_dp for role in service.spec.roles)


def problems(service: LLMService) -> list[Problem]:
    """Every violated rule, in the order of the fields; empty for a valid service."""
    found = list(_topology(service))
    for index, role in enumerate(service.spec.roles):
        found += _parallelism(f"spec.roles[{index}]", role)
        found += _backend(f"spec.roles[{index}].parallelism", service, role.parallelism)
    found += _hand_over(service)
    found += _engine(service)
    return found


def _topology(service: LLMService) -> Iterator[Problem]:
    topology = service.spec.topology
    given = [role.name for role in service.spec.roles]
    wanted = ROLES_OF[topology]
    if Counter(given) != Counter(wanted):
        listed = " and ".join(f"one {name}" for name in wanted)
        yield Problem(
            path="spec.roles",
            message=f"topology {topology} needs exactly {listed} role, got {', '.join(given)}",
        )


def _parallelism(path: str, role: RoleSpec) -> Iterator[Problem]:
    split = role.parallelism
    ranks = split.attention_dp * split.tensor * split.pipeline
    if world_size(role) != ranks:
        yield Problem(
            path=f"{path}.parallelism.attentionDP",
            message=(
                f"nodes x gpusPerNode = {role.nodes} x {role.gpus_per_node} = {world_size(role)}, but "
                f"attentionDP x tensor x pipeline = {split.attention_dp} x {split.tensor} x {split.pipeline} "
                f"= {ranks} (allowed: both equal the group's world size)"
            ),
        )
    attention, experts = split.attention_dp * split.tensor, split.expert * split.expert_tensor
    if attention != experts:
        yield Problem(
            path=f"{path}.parallelism.expert",
            message=(
                f"expert x expertTensor = {split.expert} x {split.expert_tensor} = {experts}, but "
                f"attentionDP x tensor = {split.attention_dp} x {split.tensor} = {attention} "
                "(allowed: equal products)"
            ),
        )


def _backend(path: str, service: LLMService, split: Parallelism) -> Iterator[Problem]:
    backend = service.spec.engine.backend
    if backend == "TensorRTLLM":
        if split.attention_dp > 1 and split.tensor > 1:
            yield Problem(
                path=f"{path}.tensor",
                message=f"got {split.tensor}, but attention is either data-parallel or tensor-parallel "
                "in TensorRTLLM (allowed: 1 when attentionDP > 1)",
            )
        return
    for name, value in (
        ("tensor", split.tensor),
        ("pipeline", split.pipeline),
        ("expertTensor", split.expert_tensor),
    ):
        if value != 1:
            yield Problem(path=f"{path}.{name}", message=f"got {value} (allowed with {backend}: 1)")


def _hand_over(service: LLMService) -> Iterator[Problem]:
    roles = service.spec.roles
    if len({role.tokens_per_block for role in roles}) > 1:
        sizes = ", ".join(f"{role.name} {role.tokens_per_block}" for role in roles)
        yield Problem(
            path="spec.roles[1].tokensPerBlock",
            message=f"KV blocks are handed over between roles, got {sizes} (allowed: equal values)",
        )


def _engine(service: LLMService) -> Iterator[Problem]:
    spec = service.spec
    backend = spec.engine.backend
    if spec.engine.simulated is not None and backend != "Simulated":
        yield Problem(
            path="spec.engine.simulated",
            message=f"given with backend {backend} (allowed: only with backend Simulated)",
        )
    scheme = spec.model.uri.partition("://")[0]
    if backend == "TorchMoE" and scheme not in {"builtin", "file"}:
        yield Problem(
            path="spec.model.uri",
            message=f"got {scheme}:// with backend TorchMoE (allowed: builtin://, file://)",
        )
    if backend == "TensorRTLLM" and scheme == "builtin":
        yield Problem(
            path="spec.model.uri",
            message="got builtin:// with backend TensorRTLLM (allowed: hf://, pvc://, oci://, s3://, file://)",
        )
