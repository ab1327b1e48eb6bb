"""Coscheduling, a plugin of kube-scheduler (scheduler-plugins): a PodGroup whose pods are bound together.

The plugin may run in a second scheduler, whose default name is that of its chart, or in the cluster's own:
then spec.placement.gang.schedulerName is `default-scheduler`.
"""

from __future__ import annotations

from hortator.api.v1alpha1 import GangSpec, RoleSpec
from hortator.operator import names
from hortator.operator.kinds import ours
from hortator.operator.manifests.gang.provider import GROUP_NAME, Provider
from hortator.operator.objects import Obj

SCHEDULER = "scheduler-plugins-scheduler"
KIND = ours("scheduling.x-k8s.io/v1alpha1", "PodGroup", "podgroups")


def _labels(_: GangSpec, __: RoleSpec) -> dict[str, str]:
    return {names.COSCHEDULING_GROUP: GROUP_NAME}


def _scheduler(gang: GangSpec) -> str:
    return gang.scheduler_name or SCHEDULER


def _spec(_: GangSpec, role: RoleSpec) -> Obj:
    return {"minMember": role.nodes}


PROVIDER = Provider(
    name="Coscheduling",
    needs=((KIND.api_version, KIND.kind),),
    kind=KIND,
    labels=_labels,
    scheduler=_scheduler,
    spec=_spec,
)
