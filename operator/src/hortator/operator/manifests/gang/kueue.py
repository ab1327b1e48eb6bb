"""Kueue: pods that wait in a LocalQueue until there is quota for all of a group; kube-scheduler places them.

Groups are plain pods to it, not StatefulSets: Kueue's own integration of StatefulSets takes one for a service
that it starts once, and would hold back the number of replicas that the operator writes. A group never gets
another pod for one that went, so it is not retriable: Kueue lets go of the pods when all have ended.
"""

from __future__ import annotations

from hortator.api.v1alpha1 import GangSpec, RoleSpec
from hortator.operator import names
from hortator.operator.manifests.gang.provider import GROUP_NAME, Provider

PREFIX = "kueue.x-k8s.io/"


def _labels(gang: GangSpec, _: RoleSpec) -> dict[str, str]:
    return {f"{PREFIX}queue-name": gang.queue or "", names.KUEUE_GROUP: GROUP_NAME}


def _annotations(_: GangSpec, role: RoleSpec) -> dict[str, str]:
    return {f"{PREFIX}pod-group-total-count": str(role.nodes), f"{PREFIX}retriable-in-group": "false"}


PROVIDER = Provider(
    name="Kueue",
    needs=(("kueue.x-k8s.io/v1beta1", "LocalQueue"), ("kueue.x-k8s.io/v1beta2", "LocalQueue")),
    labels=_labels,
    annotations=_annotations,
)
