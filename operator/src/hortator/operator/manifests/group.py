"""The objects of one EP group: StatefulSet, headless Service, identity Secret.

The StatefulSet starts all pods at once (Parallel), never updates one by itself (OnDelete) and is made with
replicas 0; it is admitted by applying the number of members. Its template is the frozen one of its revision
with the group's own values filled in, and the epoch as a label: the one place where that lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hortator.operator import names
from hortator.operator.manifests import engine, gang, pods
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.topology import Group


def statefulset(
    group: Group,
    *,
    owner: Owner,
    template: Obj,
    revision: str,
    epoch: int,
    replicas: int,
    drain_timeout_s: float,
    annotations: Mapping[str, str],
    domain: tuple[str, str] | None,
    avoided: frozenset[str],
    uid: str,
) -> Obj:
    """The StatefulSet.

    `template` is a revision's frozen one; `domain` is a node label that all members are bound to, `avoided`
    are names of nodes that none of them may stand on; `uid` is that of the StatefulSet, "" while there is
    none: its pods are made only when it has one.
    """
    name = names.group_name(owner.name, group.role_name, group.index)
    labels = names.group_labels(owner.name, group.role_name, group.index)
    filled = fill(template, group, owner=owner, drain_timeout_s=drain_timeout_s, uid=uid, epoch=epoch)
    filled["metadata"]["labels"] |= {names.LABEL_REVISION: revision, names.LABEL_EPOCH: str(epoch)}
    if group.is_scale_unit and group.role.nodes == 1:
        filled["metadata"]["labels"][names.LABEL_SCALE_UNIT] = "true"
    filled["spec"]["terminationGracePeriodSeconds"] = pods.grace_s(drain_timeout_s)
    if domain is not None:
        key, value = domain
        filled["spec"]["nodeSelector"] = filled["spec"].get("nodeSelector", {}) | {key: value}
    if avoided:
        filled["spec"]["affinity"] = filled["spec"].get("affinity", {}) | _not_on(avoided)
    obj = child("apps/v1", "StatefulSet", name, owner=owner, labels=labels, annotations=annotations)
    obj["spec"] = {
        "replicas": replicas,
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "revisionHistoryLimit": 0,  # the history is in our own ControllerRevisions; each epoch would add one
        "selector": {"matchLabels": names.group_selector(owner.name, group.role_name, group.index)},
        "template": filled,
    }
    return obj


def _not_on(nodes: frozenset[str]) -> Obj:
    """Each by a requirement of its own: a field takes one value."""
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in sorted(nodes)]
    terms = {"nodeSelectorTerms": [{"matchFields": fields}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def headless_service(group: Group, *, owner: Owner) -> Obj:
    """Gives every member a host name from its start on: members meet before they are ready."""
    name = names.group_name(owner.name, group.role_name, group.index)
    labels = names.group_labels(owner.name, group.role_name, group.index)
    obj = child("v1", "Service", name, owner=owner, labels=labels)
    obj["spec"] = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": names.group_selector(owner.name, group.role_name, group.index),
        "ports": [
            pods.service_port("grpc", names.PORT_WORKER),
            pods.service_port("join", names.PORT_JOIN),
            pods.service_port("admin", names.PORT_ADMIN),
        ],
    }
    return obj


def identity(group: Group, *, owner: Owner) -> Obj:
    """The Secret without its content, which `with_token` adds: what is random is not decided here.

    It is created and never read or changed; that it exists already is fine. Its name holds a part of the
    owner's uid, because the Secret of a deleted LLMService of the same name may still be waiting for its
    deletion, unseen.
    """
    name = names.identity_name(owner.name, group.role_name, group.index, owner.uid)
    labels = names.group_labels(owner.name, group.role_name, group.index)
    obj = child("v1", "Secret", name, owner=owner, labels=labels)
    return obj | {"type": "Opaque", "immutable": True}


def with_token(secret: Obj, token: str) -> Obj:
    """The Secret as it is created; `token` is new random text."""
    return secret | {"stringData": {engine.IDENTITY_KEY: token}}


def fill(template: Obj, group: Group, *, owner: Owner, drain_timeout_s: float, uid: str, epoch: int) -> Obj:
    """A copy of a frozen template with a group's values in place of the marks; `uid` is its StatefulSet's."""
    name = names.group_name(owner.name, group.role_name, group.index)
    values = {
        engine.GROUP_NAME: name,
        gang.GROUP_NAME: names.pod_group_name(name, uid, epoch),
        engine.GROUP_INDEX: str(group.index),
        engine.WORKER_ID: names.worker_id(group.role_name, group.index),
        engine.IDENTITY: names.identity_name(owner.name, group.role_name, group.index, owner.uid),
        engine.INCARNATION: names.incarnation(uid),
        engine.DRAIN_TIMEOUT_S: f"{drain_timeout_s:g}",
    }
    filled: Obj = substituted(template, values)
    return filled


def substituted(value: Any, values: Mapping[str, str]) -> Any:
    """A copy with each of these texts replaced wherever it stands, in this order."""
    match value:
        case str():
            for mark, text in values.items():
                if mark in value:
                    value = value.replace(mark, text)
            return value
        case dict():
            return {key: substituted(item, values) for key, item in value.items()}
        case list():
            return [substituted(item, values) for item in value]
        case _:
            return value
