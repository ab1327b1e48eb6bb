"""The objects by which another scheduler knows a group (PodGroups): made with its start, gone with its epoch.

    a group starts    its PodGroup is applied right before its StatefulSet gets pods (`admission`)
    it has pods       the PodGroup that they name stays
    no pod names it   it goes: the group was closed, or is not wanted, or the provider is another

A group that is going gets none, because only a start makes one. Between the two writes of a start the
operator may end: the name follows from the StatefulSet and its epoch, so the next start takes the same one.
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.operator import names
from hortator.operator.manifests.gang import PROVIDERS
from hortator.operator.objects import Obj, Ref, ref_of
from hortator.operator.observed import GroupFacts
from hortator.operator.observed.reading import at, text, texts
from hortator.operator.plan import rendering
from hortator.operator.plan.actions import Apply, Delete, Item
from hortator.operator.situation import Situation, View

MAX_DIGITS = 10
"""Of the index of a group."""
_KINDS = {(one.kind.api_version, one.kind.kind) for one in PROVIDERS.values() if one.kind is not None}


def told_of_start(view: View) -> Iterator[Apply]:
    """What must be there before a closed group gets pods."""
    obj = _pod_group_of_start(view)
    if obj is not None:
        yield Apply(obj=obj, why=f"group {view.wanted.name} starts in gang {obj['metadata']['name']}")


def old_pod_groups(situation: Situation) -> Iterator[Item]:
    """Delete those that no pod names, nor is about to."""
    starting = {
        ref_of(obj)
        for view in (() if situation.spec.suspend else situation.all_views)
        if view.group.exists and view.group.replicas == 0 and (obj := _pod_group_of_start(view)) is not None
    }
    for ref, obj in situation.observed.objects.items():
        is_ours = (ref.api_version, ref.kind) in _KINDS and ref not in situation.observed.leftovers
        if is_ours and ref not in starting and not _is_named(ref, situation.observed.group(_group_of(obj))):
            uid = text(obj, "metadata", "uid")
            yield Delete(ref=ref, uid=uid, grace_s=None, why=f"no pod is of {ref} any more")


def _pod_group_of_start(view: View) -> Obj | None:
    return view.wanted.pod_group(epoch=rendering.epoch_of_start(view.group), uid=view.group.uid)


def _is_named(ref: Ref, group: GroupFacts | None) -> bool:
    """Whether a pod may name it: those of the present epoch do as their template does."""
    if group is None:
        return False
    if group.replicas == 0:
        return bool(group.pods)
    metadata = at(group.statefulset, "spec", "template", "metadata")
    said = texts(metadata, "labels") | texts(metadata, "annotations")
    return ref.name in said.values()


def _group_of(obj: Obj) -> str:
    """The name of the group that a PodGroup was made for; "" when its labels say none."""
    labels = texts(obj, "metadata", "labels")
    role = names.role_of_label(labels.get(names.LABEL_ROLE, ""))
    index = labels.get(names.LABEL_GROUP, "")
    if role is None or not (index.isascii() and index.isdigit() and len(index) < MAX_DIGITS):
        return ""
    return names.group_name(labels.get(names.LABEL_SERVICE, ""), role, int(index))
