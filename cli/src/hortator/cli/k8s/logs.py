"""`hortator k8s logs`: the log of the pod that a rank, a member or a component runs in."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from hortator.api.parse import parse
from hortator.api.v1alpha1 import LLMService
from hortator.cli.errors import EXIT_USAGE, CommandError
from hortator.cli.k8s.client import Kube, open_cluster
from hortator.cli.k8s.options import ClusterOptions
from hortator.cli.k8s.service import find_service
from hortator.operator import names
from hortator.operator.objects import Obj
from hortator.operator.topology import Group, groups, home_of, members, ranks_text

COMPONENTS = (names.COMPONENT_SCHEDULER, names.COMPONENT_GATEWAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Whose log."""

    group: str | None = None
    """Worker id or StatefulSet; None: the only one."""
    rank: int | None = None
    member: int | None = None
    component: str | None = None
    """scheduler or gateway, instead of a group."""


async def run(
    options: ClusterOptions,
    *,
    name: str | None,
    wanted: Wanted,
    follow: bool,
    previous: bool,
    tail: int | None,
) -> None:
    """Print the log."""
    async with open_cluster(options) as kube:
        service = await find_service(kube, name)
        pod, container = await pod_of(kube, service, wanted)
        pieces = kube.logs(pod, container=container, follow=follow, previous=previous, tail=tail)
        async for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


async def pod_of(kube: Kube, service: Obj, wanted: Wanted) -> tuple[str, str]:
    """The pod and its container.

    Raises:
        CommandError: there is no such group, rank, member or component.
    """
    if wanted.component is not None:
        return await _component_pod(kube, service, wanted.component), wanted.component
    typed = parse(service).service
    if typed is None:
        raise CommandError(
            "the LLMService is not valid (hortator k8s explain says why)", exit_code=EXIT_USAGE
        )
    group = _group(typed, wanted.group)
    return member_pod(typed, group, wanted), names.ENGINE_CONTAINER


def member_pod(service: LLMService, group: Group, wanted: Wanted) -> str:
    """The pod of a rank or of a member; of the engine's host when neither is asked for. Pure."""
    pods = members(service, group)
    ordinal = wanted.member or 0
    if wanted.rank is not None:
        num_ranks = group.role.parallelism.attention_dp
        if not 0 <= wanted.rank < num_ranks:
            line = f"--rank: got {wanted.rank} (allowed for {_worker_id(group)}: 0 to {num_ranks - 1})"
            raise CommandError(line, exit_code=EXIT_USAGE)
        ordinal = home_of(group.role, wanted.rank)
    if not 0 <= ordinal < len(pods):
        there = ", ".join(f"{pod.ordinal} (ranks {ranks_text(pod.ranks)})" for pod in pods)
        raise CommandError(f"--member: got {ordinal} (allowed: {there})", exit_code=EXIT_USAGE)
    return pods[ordinal].pod


def _group(service: LLMService, name: str | None) -> Group:
    found = {_worker_id(group): group for group in groups(service)}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    for worker_id, group in found.items():
        if name in {worker_id, names.group_name(service.metadata.name, group.role_name, group.index)}:
            return group
    got = "which group?" if name is None else f"--group: got {name}"
    raise CommandError(f"{got} (allowed: {', '.join(found) or 'none'})", exit_code=EXIT_USAGE)


def _worker_id(group: Group) -> str:
    return names.worker_id(group.role_name, group.index)


async def _component_pod(kube: Kube, service: Obj, component: str) -> str:
    if component not in COMPONENTS:
        line = f"--component: got {component} (allowed: {', '.join(COMPONENTS)})"
        raise CommandError(line, exit_code=EXIT_USAGE)
    labels = names.component_selector(service["metadata"]["name"], component)
    pods = await kube.objects("v1", "Pod", namespace=kube.namespace, labels=labels)
    if not pods:
        raise CommandError(f"no {component} pod yet (hortator k8s explain says why)", exit_code=EXIT_USAGE)
    newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    return str(newest["metadata"]["name"])
