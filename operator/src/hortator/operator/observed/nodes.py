"""From Nodes and all Pods to what is free, and from StatefulSets to who else has a claim on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hortator.operator import names
from hortator.operator.objects import Obj
from hortator.operator.observed.facts import Claim, NodeFacts
from hortator.operator.observed.pods import avoided_nodes, is_device, is_over, keeps_apart, pod_requests
from hortator.operator.observed.reading import (
    flag,
    instant,
    items,
    mapping,
    number,
    quantities,
    text,
    texts,
)

TAINT_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


def node_facts(nodes: Iterable[Obj], pods: Iterable[Obj]) -> dict[str, NodeFacts]:
    """Every node by name; a pod counts on its node until it has ended."""
    taken: dict[str, dict[str, float]] = {}
    for pod in pods:
        node = text(pod, "spec", "nodeName")
        if node and not is_over(pod):
            sums = taken.setdefault(node, {})
            for name, amount in pod_requests(pod).items():
                sums[name] = sums.get(name, 0.0) + amount
    found = [_facts(node, taken.get(text(node, "metadata", "name"), {})) for node in nodes]
    return {node.name: node for node in found if node.name}


def claims(statefulsets: Iterable[Obj], pods: Iterable[Obj]) -> tuple[Claim, ...]:
    """The pods that admitted groups of any service still have to place, by name `namespace/name`."""
    placed: dict[str, int] = {}
    for pod in pods:
        parsed = names.parse_pod_name(text(pod, "metadata", "name"))
        if parsed is not None and text(pod, "spec", "nodeName") and not is_over(pod):
            group, _, _ = text(pod, "metadata", "name").rpartition("-")
            key = f"{text(pod, 'metadata', 'namespace')}/{group}"
            placed[key] = placed.get(key, 0) + 1
    found: list[Claim] = []
    for statefulset in statefulsets:
        labels = texts(statefulset, "metadata", "labels")
        if labels.get(names.LABEL_COMPONENT) != names.COMPONENT_ENGINE:
            continue
        name = f"{text(statefulset, 'metadata', 'namespace')}/{text(statefulset, 'metadata', 'name')}"
        missing = number(statefulset, "spec", "replicas") - placed.get(name, 0)
        template = mapping(statefulset, "spec", "template")
        if _waits_elsewhere(template):
            continue
        requests = pod_requests(template)
        if missing > 0 and any(map(is_device, requests)):
            found.append(
                Claim(
                    name=name,
                    num_pods=missing,
                    requests=requests,
                    node_selector=texts(template, "spec", "nodeSelector"),
                    tolerations=tuple(items(template, "spec", "tolerations")),
                    keeps_apart=keeps_apart(template),
                    avoided=avoided_nodes(template),
                )
            )
    return tuple(sorted(found, key=lambda claim: claim.name))


def _waits_elsewhere(template: Obj) -> bool:
    """Its pods stand in another scheduler's queue, perhaps for long: nothing is theirs yet."""
    labels, annotations = (texts(template, "metadata", part) for part in ("labels", "annotations"))
    return names.VOLCANO_GROUP in annotations or bool(
        {names.COSCHEDULING_GROUP, names.KUEUE_GROUP} & labels.keys()
    )


def _facts(node: Obj, taken: Mapping[str, float]) -> NodeFacts:
    conditions = items(node, "status", "conditions")
    ready = next((entry for entry in conditions if text(entry, "type") == "Ready"), {})
    is_ready = text(ready, "status") == "True"
    taints = tuple(items(node, "spec", "taints"))
    allocatable = quantities(node, "status", "allocatable")
    return NodeFacts(
        name=text(node, "metadata", "name"),
        is_ready=is_ready,
        unready_since=None if is_ready else instant(ready, "lastTransitionTime"),
        is_cordoned=flag(node, "spec", "unschedulable"),
        is_out_of_service=any(text(taint, "key") == TAINT_OUT_OF_SERVICE for taint in taints),
        labels=texts(node, "metadata", "labels"),
        taints=taints,
        allocatable=allocatable,
        free={name: amount - taken.get(name, 0.0) for name, amount in allocatable.items()},
    )
