"""Volcano: a PodGroup in a queue, and a scheduler that starts all of its pods or none."""

from __future__ import annotations

from hortator.api.v1alpha1 import GangSpec, RoleSpec
from hortator.operator import names
from hortator.operator.kinds import ours
from hortator.operator.manifests.gang.provider import GROUP_NAME, Provider
from hortator.operator.objects import Obj

SCHEDULER = "volcano"
KIND = ours("scheduling.volcano.sh/v1beta1", "PodGroup", "podgroups")


def _annotations(_: GangSpec, __: RoleSpec) -> dict[str, str]:
    return {names.VOLCANO_GROUP: GROUP_NAME}


def _scheduler(gang: GangSpec) -> str:
    return gang.scheduler_name or SCHEDULER


def _spec(gang: GangSpec, role: RoleSpec) -> Obj:
    spec: Obj = {"minMember": role.nodes}
    if gang.queue:
        spec["queue"] = gang.queue
    if role.priority_class_name:
        spec["priorityClassName"] = role.priority_class_name
    return spec


PROVIDER = Provider(
    name="Volcano",
    needs=((KIND.api_version, KIND.kind),),
    kind=KIND,
    annotations=_annotations,
    scheduler=_scheduler,
    spec=_spec,
)
