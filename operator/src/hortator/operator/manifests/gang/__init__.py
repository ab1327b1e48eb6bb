"""Gangs that another scheduler sees to: what its kind of group is, and what pods carry so that it knows them.

    provider      object    pods carry                                        are placed by
    volcano       PodGroup  an annotation with its name                       Volcano
    coscheduling  PodGroup  a label with its name                             its scheduler
    kueue         none      labels: queue and name; annotation: their number  kube-scheduler

A group has a name of its own in each epoch (`names.pod_group_name`): what a scheduler has noted of the pods
of one start says nothing of the next. Its least number of members is all of them. What is done with the
objects, and when, is in `plan.gang`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from hortator.api.v1alpha1 import GangSpec, RoleSpec
from hortator.operator import names
from hortator.operator.manifests.gang import coscheduling, kueue, volcano
from hortator.operator.manifests.gang.provider import GROUP_NAME, Provider
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import mapping, text
from hortator.operator.topology import Group

__all__ = ["GROUP_NAME", "PROVIDERS", "Provider", "fields", "marked", "of_revision", "pod_group"]

PROVIDERS: Mapping[str, Provider] = {
    one.name: one for one in (volcano.PROVIDER, coscheduling.PROVIDER, kueue.PROVIDER)
}


def fields(gang: GangSpec) -> Obj | None:
    """What of it reaches the pods, as YAML spells it; None where the operator, or nobody, sees to gangs."""
    if gang.provider not in PROVIDERS:
        return None
    dumped: Obj = gang.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"timeout_s"})
    return dumped


def of_revision(obj: Obj) -> GangSpec | None:
    """What the pods of a ControllerRevision are told of it; None where that is nothing. Total."""
    found = mapping(obj, "data", "fields", "placement", "gang")
    if text(found, "provider") not in PROVIDERS:
        return None
    try:
        return GangSpec.model_validate(found)
    except ValidationError:  # of another version, or damaged
        return None


def marked(gang: GangSpec, role: RoleSpec, template: Obj) -> Obj:
    """A pod template with what the provider knows its pods by: marks, where groups differ."""
    provider = PROVIDERS[gang.provider]
    metadata, spec = mapping(template, "metadata"), mapping(template, "spec")
    metadata["labels"] = mapping(metadata, "labels") | provider.labels(gang, role)
    annotations = provider.annotations(gang, role)
    if annotations:
        metadata["annotations"] = mapping(metadata, "annotations") | annotations
    scheduler = provider.scheduler(gang)
    if scheduler:
        spec["schedulerName"] = scheduler
    return template | {"metadata": metadata, "spec": spec}


def pod_group(gang: GangSpec, group: Group, *, name: str, owner: Owner) -> Obj | None:
    """The object that stands for one epoch of a group; None: the provider has none."""
    provider = PROVIDERS[gang.provider]
    if provider.kind is None:
        return None
    labels = names.group_labels(owner.name, group.role_name, group.index)
    obj = child(provider.kind.api_version, provider.kind.kind, name, owner=owner, labels=labels)
    obj["spec"] = provider.spec(gang, group.role)
    return obj
