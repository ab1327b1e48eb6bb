"""What is observed, as typed facts. Nothing here decides anything.

A fact says only what an object says: `PodFacts.is_started` is "a container of this pod has run", not "the
group has started". Decisions are made in `plan`, and told in `status`, from these facts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hortator.api.v1alpha1 import RoleName
from hortator.operator.certificates import CertificatesFacts
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.memory import Memory
from hortator.operator.observed.scalers import ScalerFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Who the LLMService is; `status` is what its status says now."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str = ""
    """Of the state of it that was seen."""
    status: Obj = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """One worker in the scheduler's snapshot."""

    worker_id: str
    phase: str = ""
    """prefill, decode or aggregated."""
    boot_id: str
    """`<epoch>-<incarnation>-<random>` where the worker is an EP group on Kubernetes."""
    state: str
    num_in_flight: int
    num_ranks: int
    is_draining: bool
    """The scheduler places nothing more on it, and the worker has been told."""

    @property
    def epoch(self) -> int | None:
        """Of the boot that reports; None when the boot id names none."""
        head, dash, _ = self.boot_id.partition("-")
        return int(head) if dash and head.isascii() and head.isdigit() and len(head) < 19 else None

    @property
    def incarnation(self) -> str:
        """Of the boot that reports; "" when the boot id names none."""
        parts = self.boot_id.split("-")
        return parts[1] if len(parts) == 3 else ""  # epoch, incarnation, random


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerView:
    """What the leading scheduler of a service says."""

    epoch: int
    """Of its lead."""
    workers: Mapping[str, WorkerLoad]
    """All of them, by their ids."""
    saturation: Mapping[str, float] = field(default_factory=dict)
    """By phase: what is asked over what its groups can do, where that is known."""
    predicted_ttft_s: float | None = None
    """Of a request that arrives now; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningEvent:
    """A Warning event of Kubernetes about a pod."""

    reason: str
    message: str
    count: int
    last_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a container ended."""

    container: str
    exit_code: int
    signal: int | None
    reason: str
    message: str
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """One pod of the service."""

    ref: Ref
    uid: str
    ordinal: int
    """-1 for a pod of a Deployment or Job."""
    epoch: int
    """-1 when its label names none."""
    revision: str
    node: str
    """"" until it is placed."""
    phase: str
    is_ready: bool
    is_started: bool
    """The main container has run at least once."""
    is_deleting: bool
    deletion_grace_s: int | None
    num_restarts: int
    waiting_reason: str
    waiting_message: str
    waiting_container: str
    running_since: datetime | None
    """Of the main container's present run."""
    ending: Ending | None
    """The last ending of a container that ended badly."""
    unplaced_reason: str
    unplaced_message: str
    """What kube-scheduler says of a pod that it cannot place."""
    status_reason: str
    """Of the pod itself, for example Evicted or NodeLost."""
    status_message: str
    disruption: str
    """Who takes it away, by its condition DisruptionTarget, for example PreemptionByScheduler."""
    disruption_message: str
    created_at: datetime | None
    placed_at: datetime | None
    ready_at: datetime | None
    is_scale_unit: bool
    events: tuple[WarningEvent, ...]

    @property
    def is_disrupted(self) -> bool:
        """The cluster takes it away; a kubelet before 1.26 says so in the status alone."""
        return self.disruption != "" or self.status_reason == "Evicted"

    @property
    def is_placed(self) -> bool:
        """A node has been chosen."""
        return self.node != ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """One EP group: its StatefulSet, if there is one, and every pod that carries its name."""

    name: str
    role: RoleName
    index: int
    worker_id: str
    uid: str
    """Of the StatefulSet; "" when there is none, or only one that is on its way out."""
    epoch: int
    """From the pod template's label; 0 when it names none."""
    revision: str
    replicas: int
    node_selector: Mapping[str, str]
    """Of the pod template: what nodes must carry, the topology domain it was admitted to among them."""
    memory: Memory
    pods: tuple[PodFacts, ...]
    """By ordinal; of any epoch."""
    statefulset: Obj
    """The raw object; empty when there is none."""
    load: WorkerLoad | None
    """What the scheduler says of this epoch's worker, if it is one of this StatefulSet."""
    events: tuple[WarningEvent, ...]
    """About the StatefulSet itself: pods that it could not create."""
    departed: tuple[PodFacts, ...] = ()
    """Members that the cluster took away lately, as they were last; of any epoch, oldest first."""

    @property
    def exists(self) -> bool:
        """It has a StatefulSet."""
        return self.uid != ""

    @property
    def current_pods(self) -> tuple[PodFacts, ...]:
        """The pods of the epoch that the template names."""
        return tuple(pod for pod in self.pods if pod.epoch == self.epoch)

    @property
    def former_pods(self) -> tuple[PodFacts, ...]:
        """The pods of any other epoch."""
        return tuple(pod for pod in self.pods if pod.epoch != self.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A node, with what is free on it."""

    name: str
    is_ready: bool
    unready_since: datetime | None
    is_cordoned: bool
    is_out_of_service: bool
    """Tainted so by an administrator: nothing of it runs any more."""
    labels: Mapping[str, str]
    taints: tuple[Obj, ...]
    allocatable: Mapping[str, float]
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Pods that are wanted by another group and stand on no node yet."""

    name: str
    num_pods: int
    requests: Mapping[str, float]
    node_selector: Mapping[str, str]
    tolerations: tuple[Obj, ...]
    keeps_apart: bool
    """No two of them on one node."""
    avoided: frozenset[str]
    """Nodes that its template rules out by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFacts:
    """A Deployment of the service and its pods."""

    name: str
    desired: int
    ready: int
    updated: int
    is_current: bool
    """The Deployment controller has seen the present spec."""
    pods: tuple[PodFacts, ...]

    @property
    def is_ready(self) -> bool:
        """All wanted pods are of the present spec and ready."""
        return self.is_current and self.ready >= self.desired and self.updated >= self.desired


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """The Job that fills the cache, or one by which a node pulls an image."""

    name: str
    is_complete: bool
    is_failed: bool
    message: str
    pods: tuple[PodFacts, ...]
    """Its own: a Job that was deleted for another revision may have left some of the same name."""
    events: tuple[WarningEvent, ...]
    """About the Job itself: pods that it could not create."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What the API server refuses again and again."""

    since: datetime
    at: datetime
    """The last time."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that matters to one LLMService."""

    groups: Mapping[str, GroupFacts]
    """By name of the StatefulSet; also without one, when pods, a Service or a PDB of the group are left."""
    deployments: Mapping[str, DeploymentFacts]
    jobs: Mapping[str, JobFacts]
    objects: Mapping[Ref, Obj]
    """Every child as it is, except pods and events."""
    leftovers: frozenset[Ref]
    """Objects of these names that belong to a former LLMService of the same name, or to somebody else."""
    nodes: Mapping[str, NodeFacts]
    """Empty: the operator is not allowed to see nodes, or there are none."""
    claims: tuple[Claim, ...]
    loads: Mapping[str, WorkerLoad]
    """The scheduler's whole snapshot, by worker id; empty: it does not answer or knows no worker."""
    gang_providers: frozenset[str] = frozenset()
    """Whose API the API server has, of those that the operator may use."""
    pull_refusal: Refusal | None = None
    """Of Jobs by which nodes pull an image; None: the last one was made, or none was tried yet."""
    certificates: CertificatesFacts | None = None
    """What is known of the Secrets that the operator makes; None: it makes none."""
    scalers: tuple[ScalerFacts, ...] = ()
    """The LLMServiceScalers that name it, the oldest first."""

    def group(self, name: str) -> GroupFacts | None:
        """The group of that name, None when nothing of it exists."""
        return self.groups.get(name)
