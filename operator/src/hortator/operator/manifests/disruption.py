"""The PodDisruptionBudget of one EP group: closed, and open only for a group that has been drained.

One budget per group, because a budget per role lets one eviction in each group take all of them down. Closed
it allows no eviction of a healthy pod; pods that are not ready may always be evicted, so a broken group never
holds up the drain of a node. No pod matches two budgets.
"""

from __future__ import annotations

from hortator.operator import names
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.topology import Group


def budget(group: Group, *, owner: Owner, is_open: bool) -> Obj:
    """Open: all members may be evicted."""
    name = names.group_name(owner.name, group.role_name, group.index)
    labels = names.group_labels(owner.name, group.role_name, group.index)
    obj = child("policy/v1", "PodDisruptionBudget", name, owner=owner, labels=labels)
    obj["spec"] = {
        "maxUnavailable": group.role.nodes if is_open else 0,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": names.group_selector(owner.name, group.role_name, group.index)},
    }
    return obj
