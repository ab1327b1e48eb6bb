"""Who may reach whom, by NetworkPolicies: what a cluster network that enforces them would decide.

The rules of networking.k8s.io/v1: a pod that no policy selects is open; one that some select is open to what any of
them lets through, in each direction on its own. A connection needs both ends. Whatever a policy says that is not
understood here is an error, never a guess.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

NAMESPACE = "kubernetes.io/metadata.name"
DIRECTIONS = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A pod; without a namespace something outside of the cluster."""

    name: str
    namespace: str | None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """NetworkPolicies, taken together."""

    policies: tuple[dict[str, Any], ...]

    def is_allowed(self, source: End, target: End, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection is let out at one end and in at the other."""
        asked = (port, protocol)
        return self._lets("Egress", source, target, asked) and self._lets("Ingress", target, source, asked)

    def is_fenced(self, end: End) -> bool:
        """Whether any policy selects it."""
        return any(_selects(policy, end) for policy in self.policies)

    def _lets(self, direction: str, end: End, other: End, asked: tuple[int, str]) -> bool:
        rules, side = DIRECTIONS[direction]
        mine = [
            policy
            for policy in self.policies
            if direction in policy["spec"]["policyTypes"] and _selects(policy, end)
        ]
        return not mine or any(
            _has_port(rule.get("ports"), *asked) and _has_peer(rule.get(side), other, policy)
            for policy in mine
            for rule in policy["spec"].get(rules, ())
        )


def _selects(policy: dict[str, Any], end: End) -> bool:
    is_near = end.namespace == policy["metadata"]["namespace"]
    return is_near and matches(policy["spec"]["podSelector"], end.labels)


def _has_port(ports: Iterable[dict[str, Any]] | None, port: int, protocol: str) -> bool:
    """None or no ports at all: every port."""
    listed = list(ports or ())
    for one in listed:
        _known(one, {"port", "protocol"})
        if not isinstance(one["port"], int):
            raise TypeError(f"a port by its name: {one}")
    return not listed or {"port": port, "protocol": protocol} in listed


def _has_peer(peers: Iterable[dict[str, Any]] | None, other: End, policy: dict[str, Any]) -> bool:
    """None or no peers at all: everybody."""
    listed = list(peers or ())
    return not listed or any(_is_peer(peer, other, policy) for peer in listed)


def _is_peer(peer: dict[str, Any], other: End, policy: dict[str, Any]) -> bool:
    _known(peer, {"podSelector", "namespaceSelector"})
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        is_near = matches(peer["namespaceSelector"], {NAMESPACE: other.namespace})
    else:
        is_near = other.namespace == policy["metadata"]["namespace"]
    return is_near and matches(peer.get("podSelector", {}), other.labels)


def matches(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    """A label selector; an empty one matches everything."""
    _known(selector, {"matchLabels", "matchExpressions"})
    for one in selector.get("matchExpressions", ()):
        if one["operator"] != "In":
            raise ValueError(f"an operator that nobody used before: {one}")
        if labels.get(one["key"]) not in one["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _known(node: dict[str, Any], names: set[str]) -> None:
    if not node.keys() <= names:
        raise ValueError(f"fields that nobody used before: {sorted(node.keys() - names)}")
