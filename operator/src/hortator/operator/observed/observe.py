"""Raw objects of the cluster become `Observed`, the facts about one LLMService.

`observe` takes what a watcher holds, in any order, and sorts it:

- children of the service (label `serving.hortator.dev/name` in its namespace): groups, Deployments, Jobs and
  the rest;
- Nodes, and every Pod of every namespace that stands on one: what is free;
- LLMServiceScalers that name the service;
- StatefulSets of groups of other services: who else has been promised nodes;
- Warning Events about the pods, StatefulSets and Jobs of the service.

It is total: an object that is not an object, or not one of those, is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hortator.api.v1alpha1 import SCALER_KIND
from hortator.operator import names
from hortator.operator.certificates import CertificatesFacts
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.facts import (
    DeploymentFacts,
    GroupFacts,
    JobFacts,
    Meta,
    Observed,
    PodFacts,
    Refusal,
    WarningEvent,
    WorkerLoad,
)
from hortator.operator.observed.memory import read_memory
from hortator.operator.observed.nodes import claims, node_facts
from hortator.operator.observed.pods import event_facts, parse_epoch, pod_facts
from hortator.operator.observed.reading import flag, is_owned_by, items, mapping, number, text, texts
from hortator.operator.observed.scalers import scalers_of

_Events = Mapping[tuple[str, str], Sequence[WarningEvent]]


def observe(
    objects: Sequence[Obj],
    *,
    meta: Meta,
    loads: Mapping[str, WorkerLoad],
    departed: Sequence[Obj] = (),
    gang_providers: frozenset[str] = frozenset(),
    pull_refusal: Refusal | None = None,
    certificates: CertificatesFacts | None = None,
) -> Observed:
    """The facts about the LLMService `meta` in these objects. Total, and independent of their order.

    What no object says: `departed` are pods of it that are not there any more, the oldest first,
    `gang_providers` those whose API is there, `pull_refusal` says that Jobs are not made, `certificates` what
    is known of Secrets.
    """
    given = sorted((entry for entry in objects if isinstance(entry, dict)), key=_sort_key)
    pods = [entry for entry in given if text(entry, "kind") == "Pod"]
    statefulsets = [entry for entry in given if text(entry, "kind") == "StatefulSet"]
    events = _events(given)
    own = [entry for entry in given if _is_own(entry, meta)]
    objects_by_ref = {_ref(entry): entry for entry in own if _is_child(entry)}
    leftovers = frozenset(ref for ref, entry in objects_by_ref.items() if _is_leftover(entry, meta))
    own_pods = [entry for entry in own if text(entry, "kind") == "Pod"]
    return Observed(
        groups=_groups(own, leftovers, meta=meta, events=events, loads=loads, departed=departed),
        deployments={
            text(entry, "metadata", "name"): _deployment(entry, own_pods, events)
            for entry in own
            if text(entry, "kind") == "Deployment"
        },
        jobs={
            text(entry, "metadata", "name"): _job(entry, own_pods, events)
            for entry in own
            if text(entry, "kind") == "Job"
        },
        objects=objects_by_ref,
        leftovers=leftovers,
        nodes=node_facts((entry for entry in given if text(entry, "kind") == "Node"), pods),
        claims=claims(statefulsets, pods),
        loads=dict(loads),
        gang_providers=gang_providers,
        pull_refusal=pull_refusal,
        certificates=certificates,
        scalers=scalers_of(given, namespace=meta.namespace, service=meta.name),
    )


def _sort_key(obj: Obj) -> tuple[str, str, str]:
    return text(obj, "kind"), text(obj, "metadata", "namespace"), text(obj, "metadata", "name")


def _ref(obj: Obj) -> Ref:
    return Ref(
        api_version=text(obj, "apiVersion"),
        kind=text(obj, "kind"),
        namespace=text(obj, "metadata", "namespace"),
        name=text(obj, "metadata", "name"),
    )


def _is_own(obj: Obj, meta: Meta) -> bool:
    labels = texts(obj, "metadata", "labels")
    return (
        labels.get(names.LABEL_SERVICE) == meta.name
        and text(obj, "metadata", "namespace") == meta.namespace
        and text(obj, "metadata", "name") != ""
        and text(obj, "kind") not in {"", "Event", "Node", SCALER_KIND}
    )


def _is_child(obj: Obj) -> bool:
    """Made for the LLMService, not by a controller for one of its children.

    ReplicaSets, and the ControllerRevisions of a StatefulSet, carry all labels of a pod template.
    """
    controllers = [owner for owner in items(obj, "metadata", "ownerReferences") if flag(owner, "controller")]
    return text(obj, "kind") != "Pod" and all(text(owner, "kind") == "LLMService" for owner in controllers)


def _is_leftover(obj: Obj, meta: Meta) -> bool:
    """On its way out, or owned by an LLMService that is not this one.

    A StatefulSet's controller makes ControllerRevisions with all labels of the pod template: of these only
    what this LLMService owns is ours.
    """
    if text(obj, "metadata", "deletionTimestamp"):
        return True
    owners = items(obj, "metadata", "ownerReferences")
    services = [text(owner, "uid") for owner in owners if text(owner, "kind") == "LLMService"]
    is_claimed = bool(services) or text(obj, "kind") == "ControllerRevision"
    return is_claimed and meta.uid not in services


def _events(objects: Iterable[Obj]) -> _Events:
    found: dict[tuple[str, str], list[WarningEvent]] = {}
    for entry in objects:
        facts = event_facts(entry) if text(entry, "kind") == "Event" else None
        if facts is not None:
            kind, key, event = facts
            found.setdefault((kind, key), []).append(event)
    return found


def _about(obj: Obj, kind: str, events: _Events) -> list[WarningEvent]:
    """Events name their object by uid; those without a uid by name."""
    by_uid = events.get((kind, text(obj, "metadata", "uid")), ())
    by_name = events.get((kind, text(obj, "metadata", "name")), ())
    return [*by_uid, *by_name]


def _groups(
    own: Sequence[Obj],
    leftovers: frozenset[Ref],
    *,
    meta: Meta,
    events: _Events,
    loads: Mapping[str, WorkerLoad],
    departed: Sequence[Obj],
) -> dict[str, GroupFacts]:
    statefulsets: dict[str, Obj] = {}
    pods: dict[str, list[Obj]] = {}
    found: set[str] = set()
    for entry in own:
        kind, name = text(entry, "kind"), text(entry, "metadata", "name")
        if kind == "Pod":
            group, _, _ = name.rpartition("-")
            if names.parse_pod_name(name) is not None:
                pods.setdefault(group, []).append(entry)
                found.add(group)
        elif kind in {"StatefulSet", "PodDisruptionBudget", "Service"} and names.parse_group_name(name):
            found.add(name)
            if kind == "StatefulSet" and _ref(entry) not in leftovers:
                statefulsets[name] = entry
    return {
        name: replace(facts, departed=_departed(facts, departed))
        for name in sorted(found)
        if (facts := _group(name, statefulsets.get(name, {}), pods.get(name, []), meta, events, loads))
    }


def _departed(group: GroupFacts, pods: Sequence[Obj]) -> tuple[PodFacts, ...]:
    """Those of the group that the cluster took away."""
    names_of_pods = ((pod, text(pod, "metadata", "name").rpartition("-")[0]) for pod in pods)
    own = (_member(pod, group.uid, {}) for pod, name in names_of_pods if name == group.name)
    return tuple(pod for pod in own if pod.is_disrupted)


def _group(
    name: str,
    statefulset: Obj,
    pods: Sequence[Obj],
    meta: Meta,
    events: _Events,
    loads: Mapping[str, WorkerLoad],
) -> GroupFacts | None:
    parsed = names.parse_group_name(name)
    if parsed is None or parsed.service != meta.name:
        return None
    template = mapping(statefulset, "spec", "template")
    labels = texts(template, "metadata", "labels")
    uid = text(statefulset, "metadata", "uid")
    epoch = max(0, parse_epoch(labels))
    worker_id = names.worker_id(parsed.role, parsed.index)
    load = loads.get(worker_id)
    return GroupFacts(
        name=name,
        role=parsed.role,
        index=parsed.index,
        worker_id=worker_id,
        uid=uid,
        epoch=epoch,
        revision=labels.get(names.LABEL_REVISION, ""),
        replicas=max(0, number(statefulset, "spec", "replicas", default=1 if statefulset else 0)),
        node_selector=texts(template, "spec", "nodeSelector"),
        memory=read_memory(texts(statefulset, "metadata", "annotations")),
        pods=tuple(
            sorted((_member(pod, uid, events) for pod in pods), key=lambda pod: (pod.ordinal, pod.uid))
        ),
        statefulset=statefulset,
        load=load if load is not None and _is_of(load, epoch, uid) else None,
        events=tuple(_about(statefulset, "StatefulSet", events)) if statefulset else (),
    )


def _is_of(load: WorkerLoad, epoch: int, uid: str) -> bool:
    """Whether a worker reports for this epoch of this StatefulSet; an older template names no incarnation."""
    return load.epoch == epoch and load.incarnation in {"", names.incarnation(uid)}


def _member(pod: Obj, owner_uid: str, events: _Events) -> PodFacts:
    parsed = names.parse_pod_name(text(pod, "metadata", "name"))
    ordinal = parsed.ordinal if parsed is not None else -1
    return pod_facts(pod, ordinal=ordinal, owner_uid=owner_uid or "-", events=_about(pod, "Pod", events))


def _of_component(pods: Sequence[Obj], obj: Obj, events: _Events) -> tuple[PodFacts, ...]:
    component = texts(obj, "metadata", "labels").get(names.LABEL_COMPONENT)
    return tuple(
        pod_facts(pod, ordinal=-1, owner_uid="", events=_about(pod, "Pod", events))
        for pod in pods
        if component and texts(pod, "metadata", "labels").get(names.LABEL_COMPONENT) == component
    )


def _deployment(obj: Obj, pods: Sequence[Obj], events: _Events) -> DeploymentFacts:
    return DeploymentFacts(
        name=text(obj, "metadata", "name"),
        desired=number(obj, "spec", "replicas", default=1),
        ready=number(obj, "status", "readyReplicas"),
        updated=number(obj, "status", "updatedReplicas"),
        is_current=number(obj, "status", "observedGeneration") >= number(obj, "metadata", "generation"),
        pods=_of_component(pods, obj, events),
    )


def _job(obj: Obj, pods: Sequence[Obj], events: _Events) -> JobFacts:
    conditions = [entry for entry in items(obj, "status", "conditions") if text(entry, "status") == "True"]
    by_type = {text(entry, "type"): entry for entry in conditions}
    uid = text(obj, "metadata", "uid")
    own = [pod for pod in pods if is_owned_by(pod, uid)]
    return JobFacts(
        name=text(obj, "metadata", "name"),
        is_complete="Complete" in by_type,
        is_failed="Failed" in by_type,
        message=text(by_type.get("Failed", {}), "message"),
        pods=_of_component(own, obj, events),
        events=tuple(_about(obj, "Job", events)),
    )
