"""Which DP rank lives on which pod: the numbering of an EP group, and which groups make a role set.

GPUs of a group are numbered node by node, the pod's ordinal being the node:

    gpu = ordinal x gpusPerNode + local index
    gpu = (stage x attentionDP + dp_rank) x tensor + shard

Both are bijections of 0 .. world size - 1, so every GPU has exactly one occupant. A DP rank's home is the pod
of its first GPU; with several pipeline stages it has GPUs on other pods as well.

Groups of a role are numbered over all role sets: set `s` has s x replicas .. (s + 1) x replicas - 1. The
first group of a set's first role is its scale unit: the pod with ordinal 0 of that group carries the label
`scale-unit`, so that an autoscaler, which multiplies by ready selected pods, counts role sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hortator.api.arithmetic import num_groups
from hortator.api.v1alpha1 import LLMService, RoleName, RoleSpec
from hortator.operator import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU of a group: which pod, and which of that pod's."""

    ordinal: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """What runs on a GPU: a shard of a DP rank's attention in a pipeline stage."""

    dp_rank: int
    stage: int
    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One pod of a group."""

    ordinal: int
    pod: str
    ranks: tuple[int, ...]
    """DP ranks that have a GPU there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One EP group of a service."""

    role: RoleSpec
    index: int
    is_scale_unit: bool
    """Whether its pod 0 carries the label `scale-unit`."""

    @property
    def role_name(self) -> RoleName:
        """Prefill, Decode or Aggregated."""
        return self.role.name


def groups(service: LLMService) -> Iterator[Group]:
    """Every EP group, role by role, as `hortator up` numbers them too."""
    first = next((role.name for role in service.spec.roles if role.replicas > 0), None)
    for role in service.spec.roles:
        for index in range(num_groups(service, role)):
            is_unit = role.name == first and index % role.replicas == 0
            yield Group(role=role, index=index, is_scale_unit=is_unit)


def surge_groups(service: LLMService) -> Iterator[Group]:
    """EP groups that may stand beside the wanted ones during a rollout: they go on where these end."""
    for role in service.spec.roles:
        number = num_groups(service, role)
        for index in range(number, number + (service.spec.rollout.max_surge if number else 0)):
            yield Group(role=role, index=index, is_scale_unit=False)


def role_set(role: RoleSpec, index: int) -> int:
    """The role set that a group belongs to."""
    return index // role.replicas


def scale_unit_pods(service: LLMService) -> tuple[str, ...]:
    """The pods that carry the label `scale-unit`, one per role set."""
    name = service.metadata.name
    return tuple(
        names.pod_name(name, group.role_name, group.index, 0)
        for group in groups(service)
        if group.is_scale_unit
    )


def gpu_of(role: RoleSpec, occupant: Occupant) -> Gpu:
    """Where a shard of a rank runs."""
    split = role.parallelism
    number = (occupant.stage * split.attention_dp + occupant.dp_rank) * split.tensor + occupant.shard
    ordinal, index = divmod(number, role.gpus_per_node)
    return Gpu(ordinal=ordinal, index=index)


def occupant_of(role: RoleSpec, gpu: Gpu) -> Occupant:
    """What runs on a GPU: the inverse of `gpu_of`."""
    split = role.parallelism
    number, shard = divmod(gpu.ordinal * role.gpus_per_node + gpu.index, split.tensor)
    stage, dp_rank = divmod(number, split.attention_dp)
    return Occupant(dp_rank=dp_rank, stage=stage, shard=shard)


def home_of(role: RoleSpec, dp_rank: int) -> int:
    """Ordinal of the pod that a rank is counted at."""
    return gpu_of(role, Occupant(dp_rank=dp_rank, stage=0, shard=0)).ordinal


def ranks_on(role: RoleSpec, ordinal: int) -> tuple[int, ...]:
    """DP ranks that have a GPU on a pod, ascending."""
    gpus = (Gpu(ordinal=ordinal, index=index) for index in range(role.gpus_per_node))
    return tuple(sorted({occupant_of(role, gpu).dp_rank for gpu in gpus}))


def members(service: LLMService, group: Group) -> tuple[Member, ...]:
    """The pods of a group with their ranks."""
    return tuple(
        Member(
            ordinal=ordinal,
            pod=names.pod_name(service.metadata.name, group.role_name, group.index, ordinal),
            ranks=ranks_on(group.role, ordinal),
        )
        for ordinal in range(group.role.nodes)
    )


def ranks_text(ranks: Sequence[int]) -> str:
    """Ranks for people: `0-7`, `3`, `0-3,8-11`; empty for none."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1][1:] = [rank]
        else:
            runs.append([rank])
    return ",".join("-".join(str(end) for end in run) for run in runs)
