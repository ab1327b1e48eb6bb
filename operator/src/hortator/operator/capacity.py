"""Is there room for all pods of a group at once, and in which topology domain?

    slots(node)   = min over resources of floor(free / requested); at most 1 where members keep apart
    slots(domain) = sum over its usable nodes
    a group fits where slots(domain) >= members; the domain with the fewest such slots is taken (best fit)

Usable nodes are ready, not cordoned, not avoided, carry the group's node selector, and have no taint that it
does not tolerate. Pods that other groups have been promised and that stand nowhere yet (`Claim`) take their
slots first, in the order of nodes that they can use, so two groups never share the promise of the same node.
Room is looked for only where devices (nvidia.com/gpu, rdma/...) are asked for; for pods without any,
kube-scheduler's choice will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hortator.operator.objects import Obj
from hortator.operator.observed import Claim, NodeFacts
from hortator.operator.observed.pods import is_device, keeps_apart, pod_requests
from hortator.operator.observed.reading import items, mapping, text, texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one group asks of the nodes."""

    num_pods: int
    requests: Mapping[str, float]
    """Per pod: devices, processors, bytes."""
    node_selector: Mapping[str, str]
    tolerations: tuple[Obj, ...]
    keeps_apart: bool
    """No two members on one node."""
    topology_key: str
    """"": anywhere."""
    is_domain_required: bool
    avoided: frozenset[str] = frozenset()
    """Nodes that do not count."""

    @property
    def has_devices(self) -> bool:
        """Whether room has to be looked for."""
        return any(map(is_device, self.requests))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The answer: `fits`, and if not, how much is missing of what."""

    fits: bool
    domain: str
    """To bind the group to; "" where it is free to spread."""
    num_slots: int
    """Of the best domain (or of all nodes, where domains do not matter): pods that have room."""
    num_slots_anywhere: int
    avoided: frozenset[str]
    """Nodes that the group fits without, to be ruled out."""
    resource: str
    """What most usable nodes have too little of, a device first; "" when there are no usable nodes."""


def need_of(template: Obj, *, num_pods: int, topology_key: str, is_domain_required: bool) -> Need:
    """What a group with this pod template asks for."""
    return Need(
        num_pods=num_pods,
        requests=pod_requests(template),
        node_selector=texts(template, "spec", "nodeSelector"),
        tolerations=tuple(items(template, "spec", "tolerations")),
        keeps_apart=keeps_apart(template),
        topology_key=topology_key,
        is_domain_required=is_domain_required,
    )


def room_for(need: Need, *, nodes: Mapping[str, NodeFacts], claims: Sequence[Claim]) -> Room:
    """Where the group fits. `claims` are those of other groups."""
    free = _after_claims(nodes, claims)
    usable = [node for name, node in sorted(nodes.items()) if _is_usable(node, need)]
    slots = {node.name: _slots(free[node.name], need) for node in usable}
    anywhere = sum(slots.values())
    by_domain: dict[str, int] = {}
    if need.topology_key:
        for node in usable:
            domain = node.labels.get(need.topology_key, "")
            if domain:
                by_domain[domain] = by_domain.get(domain, 0) + slots[node.name]
    fitting = sorted((count, domain) for domain, count in by_domain.items() if count >= need.num_pods)
    in_domain = bool(need.topology_key) and need.is_domain_required
    return Room(
        fits=bool(fitting) or (not in_domain and anywhere >= need.num_pods),
        domain=fitting[0][1] if fitting else "",
        num_slots=max(by_domain.values(), default=0) if in_domain else anywhere,
        num_slots_anywhere=anywhere,
        avoided=need.avoided,
        resource=_scarcest(need, [free[node.name] for node in usable]),
    )


def _after_claims(nodes: Mapping[str, NodeFacts], claims: Iterable[Claim]) -> dict[str, dict[str, float]]:
    """What is free on each node once every claim has been given the first nodes that suit it."""
    free = {name: dict(node.free) for name, node in sorted(nodes.items())}
    for claim in claims:
        missing = claim.num_pods
        for name, left in free.items():
            if missing == 0:
                break
            if not _is_usable(nodes[name], claim):
                continue
            most = 1 if claim.keeps_apart else missing
            while most and all(left.get(device, 0.0) >= amount for device, amount in claim.requests.items()):
                for device, amount in claim.requests.items():
                    left[device] = left.get(device, 0.0) - amount
                most, missing = most - 1, missing - 1
    return free


def _slots(free: Mapping[str, float], need: Need) -> int:
    if not need.requests:
        return need.num_pods
    fitting = min(int(max(0.0, free.get(device, 0.0)) // amount) for device, amount in need.requests.items())
    return min(fitting, 1) if need.keeps_apart else min(fitting, need.num_pods)


def _scarcest(need: Need, free: Sequence[Mapping[str, float]]) -> str:
    lacking = {
        device: sum(left.get(device, 0.0) < amount for left in free)
        for device, amount in need.requests.items()
    }
    by_name = sorted(lacking)
    return max(by_name, key=lambda name: (lacking[name], is_device(name)), default="") if free else ""


def _is_usable(node: NodeFacts, need: Need | Claim) -> bool:
    return (
        node.is_ready
        and not node.is_cordoned
        and node.name not in need.avoided
        and _carries(node, need.node_selector)
        and all(_tolerates(taint, need.tolerations) for taint in node.taints)
    )


def _carries(node: NodeFacts, selector: Mapping[str, str]) -> bool:
    return all(node.labels.get(key) == value for key, value in selector.items())


def _tolerates(taint: Obj, tolerations: Sequence[Obj]) -> bool:
    if text(taint, "effect") not in {"NoSchedule", "NoExecute"}:
        return True
    return any(_matches(taint, mapping(toleration)) for toleration in tolerations)


def _matches(taint: Obj, toleration: Obj) -> bool:
    effect, key = text(toleration, "effect"), text(toleration, "key")
    if effect and effect != text(taint, "effect"):
        return False
    if text(toleration, "operator") == "Exists":
        return key in {"", text(taint, "key")}
    return key == text(taint, "key") and text(toleration, "value") == text(taint, "value")
