"""What the operator may do, each permission with its reason: the one table that its roles are made from.

Rules:

1. No wildcards, neither resource nor verb.
2. Of secrets only `create`: that one exists already is an answer, deletion is by owner reference, and a
   Secret that is missing is read from the message of the pod that waits for it. Where the operator makes
   certificates (the chart's certificates.namespaces) it reads them, each by its name, and replaces them: in
   these namespaces only, never in the whole cluster.
3. What is only for the operator itself (its Lease) is allowed in its own namespace only.
4. What belongs to another scheduler is asked for only where that one is used (the chart's gang.providers).
5. What only makes the operator wiser (nodes, for the capacity check) stands apart, so that an installation
   that may not have it loses nothing else.

An apply of an object that is not there yet needs `create` as well as `patch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from hortator.api.v1alpha1 import GROUP, PLURAL, SCALER_PLURAL
from hortator.operator.names import OPERATOR_NAME
from hortator.operator.objects import Obj

READ = ("get", "list", "watch")
APPLY = ("create", "patch")
_OF_GANGS = ("get", "list", *APPLY, "delete")


class Scope(Enum):
    """Where a permission is needed."""

    SERVED = "served"
    """In every namespace whose LLMServices are served."""
    NODES = "nodes"
    """On the cluster itself; optional."""
    CERTIFICATES = "certificates"
    """In the namespaces where the operator makes certificates; none unless they are named."""
    OWN = "own"
    """In the operator's namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Verbs on a kind of resource, and what they are for."""

    group: str
    """Empty for the core group."""
    resource: str
    verbs: tuple[str, ...]
    why: str
    scope: Scope = Scope.SERVED
    names: tuple[str, ...] = field(default=())
    """Only these objects; empty: all. `create` cannot be bound to names."""
    provider: str = ""
    """Only for those who let this one see to gangs; "": for all."""

    def rule(self) -> Obj:
        """As a role has it."""
        rule: Obj = {"apiGroups": [self.group], "resources": [self.resource], "verbs": list(self.verbs)}
        if self.names:
            rule["resourceNames"] = list(self.names)
        return rule


PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        group=GROUP,
        resource=PLURAL,
        verbs=READ,
        why="what is wanted; of an LLMService itself nothing is changed but its scale",
    ),
    Permission(
        group=GROUP,
        resource=f"{PLURAL}/scale",
        verbs=("patch",),
        why="spec.replicas of services with spec.autoscaling",
    ),
    Permission(
        group=GROUP, resource=f"{PLURAL}/status", verbs=("patch",), why="what is observed, to the rank"
    ),
    Permission(
        group=GROUP,
        resource=SCALER_PLURAL,
        verbs=READ,
        why="how many groups a role has; of an LLMServiceScaler itself nothing is changed but its scale",
    ),
    Permission(
        group=GROUP,
        resource=f"{SCALER_PLURAL}/scale",
        verbs=("patch",),
        why="spec.replicas where it is absent, and of those with spec.autoscaling",
    ),
    Permission(
        group=GROUP,
        resource=f"{SCALER_PLURAL}/status",
        verbs=("patch",),
        why="whether it is in force, and what autoscalers count with",
    ),
    Permission(
        group="apps",
        resource="statefulsets",
        verbs=(*READ, *APPLY, "delete"),
        why="one per EP group; groups that are not wanted any more go",
    ),
    Permission(
        group="apps",
        resource="deployments",
        verbs=(*READ, *APPLY),
        why="scheduler and gateways",
    ),
    Permission(
        group="apps",
        resource="controllerrevisions",
        verbs=(*READ, "create", "delete"),
        why="frozen pod templates and the spec that was accepted last: made once, never changed, old ones go",
    ),
    Permission(
        group="",
        resource="services",
        verbs=(*READ, *APPLY, "delete"),
        why="host names of group members, scheduler and gateways; a group's goes with it",
    ),
    Permission(
        group="",
        resource="serviceaccounts",
        verbs=(*READ, *APPLY),
        why="that of a service's pods, which may do nothing",
    ),
    Permission(
        group="",
        resource="secrets",
        verbs=("create",),
        why="a group's identity; never read, listed or changed",
    ),
    Permission(
        group="",
        resource="secrets",
        verbs=("get", "update"),
        why="certificates of services with tls.issuer Operator: when each ends, and its renewal",
        scope=Scope.CERTIFICATES,
    ),
    Permission(
        group="",
        resource="persistentvolumeclaims",
        verbs=(*READ, *APPLY),
        why="the cache of the weights, and whether it is bound; it goes by its owner only",
    ),
    Permission(
        group="batch",
        resource="jobs",
        verbs=(*READ, "create", "delete"),
        why="the download into the cache, where a Job of another model makes room; pulls before a rollout",
    ),
    Permission(
        group="policy",
        resource="poddisruptionbudgets",
        verbs=(*READ, *APPLY, "delete"),
        why="closed for a group that serves, open for one that is drained",
    ),
    Permission(
        group="networking.k8s.io",
        resource="networkpolicies",
        verbs=(*READ, *APPLY, "delete"),
        why="who may reach a service's pods (spec.security.networkPolicy); they go when it is taken out",
    ),
    Permission(
        group="scheduling.volcano.sh",
        resource="podgroups",
        verbs=_OF_GANGS,
        why="one per start of a group whose gang Volcano sees to; it goes when no pod names it any more",
        provider="Volcano",
    ),
    Permission(
        group="scheduling.x-k8s.io",
        resource="podgroups",
        verbs=_OF_GANGS,
        why="the same where the plugin coscheduling sees to gangs",
        provider="Coscheduling",
    ),
    Permission(
        group="",
        resource="pods",
        verbs=(*READ, "patch", "delete"),
        why="members and why they wait; the label scale-unit; members of a broken epoch, and those on a lost "
        "node, are deleted",
    ),
    Permission(
        group="",
        resource="events",
        verbs=("list", "watch", *APPLY),
        why="why a pod is not scheduled or cannot mount; transitions of an LLMService",
    ),
    Permission(
        group="",
        resource="nodes",
        verbs=READ,
        why="whether a group finds room before it starts, and whether a node is lost",
        scope=Scope.NODES,
    ),
    Permission(
        group="coordination.k8s.io",
        resource="leases",
        verbs=("create",),
        why="the operator's own Lease: one operator writes at a time",
        scope=Scope.OWN,
    ),
    Permission(
        group="coordination.k8s.io",
        resource="leases",
        verbs=("get", "update"),
        why="the operator's own Lease: held, renewed and released",
        scope=Scope.OWN,
        names=(OPERATOR_NAME,),
    ),
)


def rules(scope: Scope, *, provider: str = "") -> list[Obj]:
    """The rules of the role for a scope, in the order of the table; those for a provider stand apart."""
    return [one.rule() for one in PERMISSIONS if (one.scope, one.provider) == (scope, provider)]


def people() -> dict[str, list[Obj]]:
    """What people who may `view` or `edit` a namespace may do with its LLMServices and their scalers."""
    verbs = {"view": READ, "edit": (*READ, "create", "update", "patch", "delete", "deletecollection")}
    scale = {"view": ("get",), "edit": ("get", "update", "patch")}
    return {
        name: [
            rule
            for plural in (PLURAL, SCALER_PLURAL)
            for rule in (
                {"apiGroups": [GROUP], "resources": [plural], "verbs": list(allowed)},
                {"apiGroups": [GROUP], "resources": [f"{plural}/status"], "verbs": ["get"]},
                {"apiGroups": [GROUP], "resources": [f"{plural}/scale"], "verbs": list(scale[name])},
            )
        ]
        for name, allowed in verbs.items()
    }


def is_allowed(group: str, resource: str, verb: str) -> bool:
    """Whether the table has it, wherever: what a test asks for every call that the operator makes."""
    return any(
        permission.group == group and permission.resource == resource and verb in permission.verbs
        for permission in PERMISSIONS
    )


def granted() -> Iterator[tuple[str, str, str]]:
    """(group, resource, verb) of every permission: a test asks whether each is used."""
    for permission in PERMISSIONS:
        for verb in permission.verbs:
            yield permission.group, permission.resource, verb
