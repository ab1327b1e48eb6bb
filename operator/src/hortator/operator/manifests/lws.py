"""A role as a LeaderWorkerSet (kubernetes-sigs/lws, v1): for those who want that instead of the operator.

Rendered, never run; `hortator plan --output lws` prints it, the operator knows nothing of it. The pods are
those of the role's StatefulSets, with what differs between groups told by the labels of LeaderWorkerSet:

    group                    pod of the operator   pod of a LeaderWorkerSet   headless Service
    decode 1, first pod      NAME-d-1-0            NAME-d-1                   NAME-d-1
    decode 1, third pod      NAME-d-1-2            NAME-d-1-2                 NAME-d-1

So a member's own name for itself (`group-ordinal`) is put together, and the first pod is found by the group's
name. One Secret serves all groups of a role, because one template does. An epoch is not counted: a group that
is recreated joins as a new boot of epoch 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.api.arithmetic import num_groups
from hortator.api.v1alpha1 import LLMService, RoleSpec
from hortator.operator import names
from hortator.operator.manifests import engine, environment, pods
from hortator.operator.manifests.group import substituted
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import items, mapping

API_VERSION, KIND = "leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"
PREFIX = "leaderworkerset.sigs.k8s.io/"
EPOCH = 1
_GROUP, _MEMBER, _POD = "HORTATOR_LWS_GROUP", "HORTATOR_LWS_MEMBER", "HORTATOR_LWS_POD"


def leader_worker_set(service: LLMService, role: RoleSpec, *, template: Obj, revision: str) -> Obj:
    """All groups of a role; `template` is the frozen one of its revision."""
    name = set_name(service, role)
    rollout, placement = service.spec.rollout, service.spec.placement
    labels = names.component_labels(service.metadata.name, names.COMPONENT_ENGINE) | {
        names.LABEL_ROLE: names.role_label(role.name)
    }
    metadata: Obj = {
        "name": name,
        "namespace": service.metadata.own_namespace,
        "labels": labels,
    }
    if placement.topology_key and placement.mode == "Required" and role.nodes > 1:
        metadata["annotations"] = {f"{PREFIX}exclusive-topology": placement.topology_key}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": {
            "replicas": num_groups(service, role),
            "startupPolicy": "LeaderCreated",
            "networkConfig": {"subdomainPolicy": "UniquePerReplica"},
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {
                    "maxUnavailable": rollout.max_unavailable,
                    "maxSurge": rollout.max_surge,
                    "partition": rollout.partition,
                },
            },
            "leaderWorkerTemplate": {
                "size": role.nodes,
                "restartPolicy": "RecreateGroupAfterStart",
                "workerTemplate": _template(service, role, template, revision),
            },
        },
    }


def set_name(service: LLMService, role: RoleSpec) -> str:
    """Of which the names of groups are made as the operator makes them."""
    return f"{service.metadata.name}-{names.role_letter(role.name)}"


def secret_name(service: LLMService, role: RoleSpec) -> str:
    """By which the members of its groups know each other; a person makes it."""
    return f"{set_name(service, role)}-identity"


def _template(service: LLMService, role: RoleSpec, template: Obj, revision: str) -> Obj:
    group = f"{set_name(service, role)}-$({_GROUP})"
    drain_s = service.spec.drain.timeout_s
    values = {  # what holds another mark comes first
        f"{engine.GROUP_NAME}-0.": f"{group}.",
        f"$({engine.PREFIX}POD_NAME).": f"$({_POD}).",
        engine.GROUP_NAME: group,
        engine.WORKER_ID: f"{names.role_label(role.name)}-$({_GROUP})",
        engine.IDENTITY: secret_name(service, role),
        engine.INCARNATION: "",
        engine.DRAIN_TIMEOUT_S: f"{drain_s:g}",
    }
    filled: Obj = substituted(template, values)
    labels = {key: value for key, value in filled["metadata"]["labels"].items() if key != names.LABEL_GROUP}
    filled["metadata"]["labels"] = labels | {
        names.LABEL_REVISION: revision,
        names.LABEL_EPOCH: str(EPOCH),
    }
    spec = filled["spec"]
    spec["terminationGracePeriodSeconds"] = pods.grace_s(drain_s)
    if "affinity" in spec:
        spec["affinity"] = _apart(spec["affinity"])
    for container in items(spec, "containers"):
        if container["name"] == names.ENGINE_CONTAINER:
            container["env"] = list(_environment(container["env"], group))
    return filled


def _environment(entries: list[Obj], group: str) -> Iterator[Obj]:
    """A variable is put together from those before it."""
    yield environment.from_label(_GROUP, f"{PREFIX}group-index")
    yield environment.from_label(_MEMBER, f"{PREFIX}worker-index")
    yield environment.from_field(_POD, "metadata.name")
    for entry in entries:
        is_name = entry["name"] == f"{engine.PREFIX}POD_NAME"
        yield {"name": entry["name"], "value": f"{group}-$({_MEMBER})"} if is_name else entry


def _apart(affinity: Obj) -> Obj:
    """Members of all groups keep apart; that those of one keep together is the annotation's."""
    kept: Obj = {}
    for way, terms in mapping(affinity, "podAntiAffinity").items():
        kept[way] = [_of_role(term) for term in terms]
    return {"podAntiAffinity": kept}


def _of_role(term: Obj) -> Obj:
    if "podAffinityTerm" in term:
        return term | {"podAffinityTerm": _of_role(term["podAffinityTerm"])}
    labels = {k: v for k, v in term["labelSelector"]["matchLabels"].items() if k != names.LABEL_GROUP}
    return term | {"labelSelector": {"matchLabels": labels}}
