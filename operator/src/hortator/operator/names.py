"""Every name, label and annotation that the operator writes, and the proof that they fit.

A name that is also a label value or a DNS label has at most 63 characters. The worst case, with a service
name of 40 characters (its CRD bound), groups counted over at most 1024 x 1024 and 64 nodes per group:

    StatefulSet, headless Service, PDB   <svc>-p-<g>             40 + 2 + 1 + 7     = 50
    pod                                  <svc>-p-<g>-<n>         50 + 1 + 2         = 53
    pre-pull Job, its pod                <svc>-pull-<10>-<5>     40 + 6 + 10 + 6    = 62
    its label controller-revision-hash   <svc>-p-<g>-<10 chars>  50 + 1 + 10        = 61
    PodGroup of another scheduler        <svc>-p-<g>-<10 chars>  50 + 1 + 10        = 61
    ControllerRevision                   <svc>-p-<10 chars>      40 + 2 + 1 + 10    = 53
    Deployment, its pod-template-hash    <svc>-scheduler-<10>    40 + 10 + 1 + 10   = 61

The identity Secret (`<svc>-p-<g>-identity-<6>`) and the record of a spec (`<svc>-accepted-<n>-<6>`) are
neither and have room to 253. A Deployment's pods add five
more characters, for which the API server shortens the base to 58. The kind of a child is told by its ending,
so no service's child can have the name of another service's child.

The rank of a pod comes from the ordinal at the end of its name (`parse_pod_name`): the label `pod-index` is
empty on older clusters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hortator.api.v1alpha1 import RoleName
from hortator.operator.digest import digest

FIELD_MANAGER = "hortator-operator"
OPERATOR_NAME = "hortator-operator"
"""Of the operator's Deployment, service account and Lease."""

PREFIX = "serving.hortator.dev/"

LABEL_APP = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
APP = "hortator"

LABEL_SERVICE = PREFIX + "name"
LABEL_ROLE = PREFIX + "role"
LABEL_GROUP = PREFIX + "group"
LABEL_REVISION = PREFIX + "revision"
LABEL_EPOCH = PREFIX + "epoch"
"""On the pod template of a group only: the one place where the epoch lives."""
LABEL_SCALE_UNIT = PREFIX + "scale-unit"
"""`true` on exactly one pod per role set, so that an autoscaler counts role sets (see `topology`)."""
LABEL_POD_NAME = "statefulset.kubernetes.io/pod-name"
"""Kubernetes puts it on every pod of a StatefulSet."""

ANNOTATION_MEMBERS = PREFIX + "members"
ANNOTATION_RESTARTS = PREFIX + "restarts"
ANNOTATION_DISRUPTIONS = PREFIX + "disruptions"
ANNOTATION_NODE_FAILURES = PREFIX + "node-failures"
ANNOTATION_LAST_FAILURE = PREFIX + "last-failure"
ANNOTATION_DRAIN_STARTED_AT = PREFIX + "drain-started-at"
ANNOTATION_DRAIN_REASON = PREFIX + "drain-reason"
ANNOTATION_ADMITTED_AT = PREFIX + "admitted-at"
ANNOTATION_VACATED_AT = PREFIX + "vacated-at"
ANNOTATION_MOVED_AT = PREFIX + "moved-at"
ANNOTATION_RESTART_OBSERVED = PREFIX + "restart-observed"
ANNOTATION_GENERATION = PREFIX + "generation"
"""On the ControllerRevision of a pod template: the LLMService's generation that first asked for it."""
ANNOTATION_DRAIN_REQUESTED = PREFIX + "drain-requested"
"""Written by people on a group's StatefulSet: the epoch that is to be drained and followed by the next."""

VOLCANO_GROUP = "scheduling.k8s.io/group-name"
COSCHEDULING_GROUP = "scheduling.x-k8s.io/pod-group"
KUEUE_GROUP = "kueue.x-k8s.io/pod-group-name"
"""An annotation and two labels by which other schedulers know the pods of a gang."""

COMPONENT_OPERATOR = "operator"
COMPONENT_ENGINE = "engine"
COMPONENT_SCHEDULER = "scheduler"
COMPONENT_GATEWAY = "gateway"
COMPONENT_CACHE = "cache"
COMPONENT_PULL = "pre-pull"
COMPONENT_ACCEPTED = "accepted-spec"

ENGINE_CONTAINER = "engine"

PORT_SCHEDULER = 7070
PORT_WORKER = 7071
PORT_JOIN = 7072
PORT_SSH = 2222
PORT_GATEWAY = 8080
PORT_ADMIN = 9090

REVISION_HASH_LENGTH = 10
IDENTITY_HASH_LENGTH = 6

_ROLE_LETTER: dict[RoleName, str] = {"Prefill": "p", "Decode": "d", "Aggregated": "a"}
_ROLE_OF_LETTER: dict[str, RoleName] = {letter: role for role, letter in _ROLE_LETTER.items()}
_GROUP = re.compile(r"(?P<service>.+)-(?P<letter>[pda])-(?P<index>0|[1-9][0-9]*)")
_POD = re.compile(r"(?P<group>.+)-(?P<ordinal>0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupName:
    """What the name of a group's StatefulSet says."""

    service: str
    role: RoleName
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodName:
    """What the name of an engine pod says."""

    group: GroupName
    ordinal: int


def role_letter(role: RoleName) -> str:
    """The letter that stands for a role in names: `p`, `d` or `a`."""
    return _ROLE_LETTER[role]


def role_label(role: RoleName) -> str:
    """The role as label value: `prefill`, `decode` or `aggregated`."""
    return role.lower()


def role_of_label(label: str) -> RoleName | None:
    """The inverse of `role_label`; None for any other text."""
    return next((role for role in _ROLE_LETTER if role_label(role) == label), None)


def group_name(service: str, role: RoleName, index: int) -> str:
    """Of the StatefulSet, the headless Service and the PodDisruptionBudget of a group."""
    return f"{service}-{role_letter(role)}-{index}"


def pod_name(service: str, role: RoleName, index: int, ordinal: int) -> str:
    """Of a member of a group."""
    return f"{group_name(service, role, index)}-{ordinal}"


def identity_name(service: str, role: RoleName, index: int, uid: str) -> str:
    """Of the Secret that the members of a group know each other by; `uid` is the LLMService's."""
    return f"{group_name(service, role, index)}-identity-{digest(uid, length=IDENTITY_HASH_LENGTH)}"


def incarnation(uid: str) -> str:
    """What tells a group from one of its name that was there before; `uid` is its StatefulSet's."""
    return digest(uid, length=REVISION_HASH_LENGTH) if uid else ""


def pod_group_name(group: str, uid: str, epoch: int) -> str:
    """What another scheduler calls one epoch of a group; `uid` is its StatefulSet's. Also a label's value."""
    return f"{group}-{digest([uid, epoch], length=REVISION_HASH_LENGTH)}"


def worker_id(role: RoleName, index: int) -> str:
    """What the scheduler calls the worker of a group, the same as on one machine: `prefill-0`."""
    return f"{role_label(role)}-{index}"


def scheduler_name(service: str) -> str:
    """Of the scheduler's Deployment and headless Service."""
    return f"{service}-scheduler"


def tls_secret(prefix: str, component: str) -> str:
    """Of the Secret with a component's certificate, which others make."""
    return f"{prefix}-{component}-tls"


def gateway_name(service: str) -> str:
    """Of the gateway's Deployment and Service."""
    return f"{service}-gateway"


def policy_name(service: str, component: str) -> str:
    """Of the NetworkPolicy of a component's pods."""
    return f"{service}-{component}"


def cache_name(service: str) -> str:
    """Of the claim that holds the model's files."""
    return f"{service}-cache"


def prefetch_name(service: str) -> str:
    """Of the Job that fills the cache."""
    return f"{service}-prefetch"


def pull_name(service: str, pod_spec: object) -> str:
    """Of the Job by which a node pulls an image before a group moves; its pod says which node and image."""
    return f"{service}-pull-{digest(pod_spec, length=REVISION_HASH_LENGTH)}"


def revision_name(service: str, role: RoleName, revision: str) -> str:
    """Of the ControllerRevision that holds the frozen pod template of a role."""
    return f"{service}-{role_letter(role)}-{revision}"


def accepted_name(service: str, generation: int, uid: str) -> str:
    """Of the ControllerRevision that keeps an accepted spec; `uid` and `generation` are the LLMService's."""
    return f"{service}-accepted-{generation}-{digest(uid, length=IDENTITY_HASH_LENGTH)}"


def account_name(service: str) -> str:
    """Of the service account of all pods; none of them is given a token."""
    return f"{service}-hortator"


def parse_group_name(name: str) -> GroupName | None:
    """The inverse of `group_name`; None for any other name."""
    match = _GROUP.fullmatch(name)
    if match is None:
        return None
    role = _ROLE_OF_LETTER[match["letter"]]
    return GroupName(service=match["service"], role=role, index=int(match["index"]))


def parse_pod_name(name: str) -> PodName | None:
    """The inverse of `pod_name`; None for any other name."""
    match = _POD.fullmatch(name)
    group = parse_group_name(match["group"]) if match else None
    if match is None or group is None:
        return None
    return PodName(group=group, ordinal=int(match["ordinal"]))


def service_labels(service: str) -> dict[str, str]:
    """On every child of a service: what the operator lists its children by."""
    return {
        LABEL_APP: APP,
        LABEL_INSTANCE: service,
        LABEL_MANAGED_BY: OPERATOR_NAME,
        LABEL_SERVICE: service,
    }


def component_labels(service: str, component: str) -> dict[str, str]:
    """On every child of a component, its pods too."""
    return service_labels(service) | {LABEL_COMPONENT: component}


def component_selector(service: str, component: str) -> dict[str, str]:
    """The least that tells a component's pods from all others; Deployments and Services select by it."""
    return {LABEL_SERVICE: service, LABEL_COMPONENT: component}


def group_labels(service: str, role: RoleName, index: int) -> dict[str, str]:
    """On every child of one group."""
    return component_labels(service, COMPONENT_ENGINE) | {
        LABEL_ROLE: role_label(role),
        LABEL_GROUP: str(index),
    }


def group_selector(service: str, role: RoleName, index: int) -> dict[str, str]:
    """The pods of one group and no others."""
    return {LABEL_SERVICE: service, LABEL_ROLE: role_label(role), LABEL_GROUP: str(index)}


def scale_selector(service: str) -> str:
    """What `status.selector` says: exactly one pod per role set carries both labels."""
    return f"{LABEL_SERVICE}={service},{LABEL_SCALE_UNIT}=true"


def role_scale_selector(service: str, role: RoleName, num_groups: int) -> str:
    """What `status.selector` of an LLMServiceScaler says: exactly one pod per group of the first role set.

    Pods are named, so that of a group of several only the first counts, and of several role sets only the
    first: an autoscaler multiplies groups per set. With no group at all it names one that is not there.
    """
    pods = ",".join(pod_name(service, role, index, 0) for index in range(max(1, num_groups)))
    return f"{LABEL_POD_NAME} in ({pods})"
