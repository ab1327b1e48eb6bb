"""Sizes that follow from an LLMService, and what several of its fields must satisfy together.

Per role (one EP group):

    world size  = nodes x gpusPerNode = attentionDP x tensor x pipeline
    expert x expertTensor             = attentionDP x tensor

Every GPU of a pipeline stage takes part in its attention (attentionDP x tensor) and, in the same
stage, in its experts (expert x expertTensor): the two products are the same GPUs. Locally a role's
nodes and gpusPerNode describe ranks, not hardware. The rules themselves are in `rules`.
"""

from __future__ import annotations

from hortator.api.problem import Problem
from hortator.api.rules import RULES
from hortator.api.transitions import TRANSITIONS
from hortator.api.v1alpha1 import LLMService, RoleSpec

__all__ = ["Problem", "immutable_problems", "num_groups", "num_ranks", "problems", "world_size"]


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
    """Every violated rule, in the order of the rules; empty for a valid service."""
    return [problem for rule in RULES for problem in rule.problems(service)]


def immutable_problems(old: LLMService, new: LLMService) -> list[Problem]:
    """What may not change from `old` to `new`; empty for a change that the API server would take."""
    return [problem for rule in TRANSITIONS for problem in rule.problems(old, new)]
