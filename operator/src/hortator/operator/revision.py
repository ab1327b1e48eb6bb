"""Revisions: when the pods of a role must be replaced, and the frozen template that else keeps them from it.

    fields of the LLMService that reach an engine pod  --hash-->  revision
    revision  -->  ControllerRevision with the pod template as it was first rendered

A new version of the operator may render another template from the same LLMService. As long as the hash is the
same the frozen template is used, also for groups that start anew, so an upgrade of the operator replaces no
engine that took 45 minutes to start. Two rules keep the hash itself from moving:

1. Fields with their default value do not count. A field that a newer version adds changes no hash until it is
   set, and neither does a default that the API server fills in.
2. What does not reach the pods does not count: replicas, scheduler, gateway, restart, drain, disruption,
   suspend, labels, who sees to gangs unless another scheduler does. The drain timeout does reach them, but
   is filled in outside of the frozen part: a group has the new one from its next start on.

A StatefulSet's controller makes ControllerRevisions too, with all labels of the pod template: ours are told
from them by their owner alone (`is_owned_by`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hortator.api.v1alpha1 import LLMService, RoleName, RoleSpec
from hortator.operator import names
from hortator.operator.digest import digest
from hortator.operator.manifests import cache, engine, gang
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import is_owned_by, items, mapping, texts
from hortator.operator.options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What the pods of a role look like, now and until their fields change."""

    role: RoleName
    hash: str
    template: Obj
    """Frozen, with marks where groups differ (see `manifests.engine`)."""
    obj: Obj
    """The ControllerRevision; created once, its data never changes."""


def pod_fields(service: LLMService, role: RoleSpec) -> Obj:
    """What the pods of a role depend on, as YAML spells it, without what has its default value."""
    spec = service.spec
    fields: Obj = {
        "model": _dump(spec.model, exclude={"cache": True}) | {"name": service.model_name},
        "cache": _cache(service),
        "engine": _dump(spec.engine),
        "role": _dump(role, exclude={"replicas": True}),
        "placement": _dump(spec.placement, exclude={"gang": True})
        | {"gang": gang.fields(spec.placement.gang)},
        "tls": _dump(spec.security.tls, exclude={"issuer": True, "hosts": True}) | {"isOn": True}
        if spec.security.tls
        else None,
        "maxSequenceTokens": min(
            (other.max_sequence_tokens for other in spec.roles if other.max_sequence_tokens), default=None
        ),
    }
    pruned: Obj = _pruned(fields)
    return pruned


def revision_hash(service: LLMService, role: RoleSpec) -> str:
    """The revision of a role."""
    return digest(pod_fields(service, role), length=names.REVISION_HASH_LENGTH)


def revision_of(
    service: LLMService,
    role: RoleSpec,
    *,
    owner: Owner,
    options: Options,
    generation: int = 1,
    known: Iterable[Obj] = (),
) -> Revision:
    """The revision that a role's groups should run.

    `known` are the ControllerRevisions that exist: the one of this hash wins over what would be rendered now.
    `generation` is noted on a new one: revisions of several roles that one change made go back together.
    """
    hashed = revision_hash(service, role)
    name = names.revision_name(owner.name, role.name, hashed)
    ours = [obj for obj in known if is_owned_by(obj, owner.uid) and role_of(obj) == role.name]
    for obj in ours:
        if obj["metadata"]["name"] == name:
            return Revision(role=role.name, hash=hashed, template=template_of(obj), obj=obj)
    template = engine.pod_template(service, role, owner=owner, options=options)
    labels = names.component_labels(owner.name, names.COMPONENT_ENGINE) | {
        names.LABEL_ROLE: names.role_label(role.name),
        names.LABEL_REVISION: hashed,
    }
    noted = {names.ANNOTATION_GENERATION: str(generation)}
    obj = child("apps/v1", "ControllerRevision", name, owner=owner, labels=labels, annotations=noted)
    obj["revision"] = 1 + max((int(one.get("revision", 0)) for one in ours), default=0)
    obj["data"] = {"fields": pod_fields(service, role), "template": template}
    return Revision(role=role.name, hash=hashed, template=template, obj=obj)


_SHAPE = ("nodes", "gpusPerNode", "gpuResourceName", "parallelism")


def has_shape(obj: Obj, role: RoleSpec) -> bool:
    """Whether groups of a ControllerRevision have as many pods, GPUs and ranks as the role has now.

    Total: what is no ControllerRevision of ours, or a damaged one, has no shape at all.
    """
    was, now = mapping(obj, "data", "fields", "role"), _pruned(_dump(role))
    template = mapping(obj, "data", "template")
    is_template = bool(mapping(template, "metadata", "labels") and items(template, "spec", "containers"))
    return is_template and all(was.get(key) == now.get(key) for key in _SHAPE)


def template_of(obj: Obj) -> Obj:
    """The frozen template of a ControllerRevision."""
    template: Obj = obj["data"]["template"]
    return template


def hash_of(obj: Obj) -> str:
    """The revision on a ControllerRevision, a StatefulSet's pod template or a pod; empty: none."""
    return texts(obj, "metadata", "labels").get(names.LABEL_REVISION, "")


def role_of(obj: Obj) -> RoleName | None:
    """The role that an engine object is labelled with."""
    label = texts(obj, "metadata", "labels").get(names.LABEL_ROLE)
    return names.role_of_label(label) if label else None


def _cache(service: LLMService) -> Obj | None:
    mount = cache.mount(service)
    if mount is None:
        return None
    return {"claim": mount.claim, "filledByEngines": cache.is_filled_by_engines(service) or None}


def _dump(model: Any, exclude: Any = None) -> Obj:
    dumped: Obj = model.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=exclude)
    return dumped


def _pruned(value: Any) -> Any:
    """Without what says nothing: a mapping that is given but empty is as good as none."""
    match value:
        case dict():
            kept = {key: _pruned(item) for key, item in value.items()}
            return {key: item for key, item in kept.items() if item not in (None, {}, [])}
        case list():
            return [_pruned(item) for item in value]
        case _:
            return value
