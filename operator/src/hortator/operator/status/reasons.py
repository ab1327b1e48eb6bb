"""The closed list of reasons: one word each for scripts, what it means, and what a person does about it.

docs/reference/reasons.md is generated from this list (`page`). A reason is never renamed; the order is the
order of blame: where several are true at once, the first of the list is the one that is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a condition has its status."""

    INVALID_SPEC = "InvalidSpec"
    OPERATOR_FORBIDDEN = "OperatorForbidden"
    OBJECT_REFUSED = "ObjectRefused"
    STALLED = "RestartBudgetExhausted"
    INVALID_IMAGE_NAME = "InvalidImageName"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105  # a word of the API, no secret
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    IMAGE_PULL_BACK_OFF = "ImagePullBackOff"
    ERR_IMAGE_PULL = "ErrImagePull"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REFUSED = "PodRefused"
    PVC_NOT_BOUND = "PVCNotBound"
    MODEL_DOWNLOAD_FAILED = "ModelDownloadFailed"
    MODEL_DOWNLOADING = "ModelDownloading"
    NODE_LOST = "NodeLost"
    OOM_KILLED = "OOMKilled"
    RANK_BOOTSTRAP_TIMEOUT = "RankBootstrapTimeout"
    CRASH_LOOP_BACK_OFF = "CrashLoopBackOff"
    POD_PREEMPTED = "PodPreempted"
    POD_EVICTED = "PodEvicted"
    POD_DELETED = "PodDeleted"
    CONTAINER_FAILED = "ContainerFailed"
    REPLICAS_CHANGED = "ReplicasChanged"
    RESTART_BACKOFF = "RestartBackoff"
    GROUP_RESTARTING = "GroupRestarting"
    GANG_PROVIDER_MISSING = "GangProviderMissing"
    INSUFFICIENT_GPU = "InsufficientGPU"
    INSUFFICIENT_RDMA = "InsufficientRDMA"
    INSUFFICIENT_RESOURCES = "InsufficientResources"
    TOPOLOGY_UNSATISFIED = "TopologyUnsatisfied"
    UNSCHEDULABLE = "Unschedulable"
    GANG_TIMEOUT = "GangTimeout"
    GANG_PENDING = "GangPending"
    SCHEDULER_NOT_READY = "SchedulerNotReady"
    GATEWAY_NOT_READY = "GatewayNotReady"
    NAME_TAKEN = "NameTaken"
    CERTIFICATES_EXPIRING = "CertificatesExpiring"
    CERTIFICATES_MISSING = "CertificatesMissing"
    PODS_CREATING = "PodsCreating"
    WAITING_FOR_PEERS = "WaitingForPeers"
    LOADING_WEIGHTS = "LoadingWeights"
    NOT_READY = "NotReady"
    DRAINING = "Draining"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    PRE_PULL_FAILED = "PrePullFailed"
    LAST_AVAILABLE_GROUP = "LastAvailableGroup"
    ROLLOUT_PAUSED = "RolloutPaused"
    PRE_PULLING = "PrePulling"
    ROLLING_UPDATE = "RollingUpdate"
    ROLLOUT_SKEW = "RolloutSkew"
    ROLLOUT_PARTITION = "RolloutPartition"
    RESTART_REQUESTED = "RestartRequested"
    NODE_CORDONED = "NodeCordoned"
    SCALE_DOWN = "ScaleDown"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    SCALED_TO_ZERO = "ScaledToZero"
    NO_CAPACITY_CHECK = "NoCapacityCheck"
    SERVICE_NOT_FOUND = "ServiceNotFound"
    ROLE_NOT_FOUND = "RoleNotFound"
    CONFLICT = "Conflict"
    SCALED_BY_OTHERS = "ScaledByOthers"
    SCALING_HELD = "ScalingHeld"
    LOAD_UNKNOWN = "LoadUnknown"
    SCALING = "Scaling"
    SCALED = "Scaled"
    ROLE_SCALED = "RoleScaled"
    ALL_GROUPS_READY = "AllGroupsReady"
    SOME_GROUPS_READY = "SomeGroupsReady"
    ALL_PODS_SCHEDULED = "AllPodsScheduled"
    SCHEDULER_READY = "SchedulerReady"
    SPEC_ACCEPTED = "SpecAccepted"
    MODEL_READY = "ModelReady"
    CERTIFICATES_READY = "CertificatesReady"
    NOTHING_FAILED = "NothingFailed"
    NOT_SUSPENDED = "NotSuspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the list says of one reason."""

    meaning: str
    remedy: str
    """One line; the operator does the rest."""


_NONE = "Nothing to do."
_WAIT = "Wait."

ENTRIES: dict[Reason, Entry] = {
    Reason.INVALID_SPEC: Entry(
        meaning="The LLMService breaks a rule. The last spec that was accepted goes on being carried out; if "
        "none ever was, nothing is done. Of an LLMServiceScaler that breaks one the number alone is.",
        remedy="Correct the field that the message names; `hortator validate -f FILE` checks beforehand.",
    ),
    Reason.OPERATOR_FORBIDDEN: Entry(
        meaning="The operator may not do what the message names.",
        remedy="Apply the roles of manifests/install.yaml again, or grant what is missing.",
    ),
    Reason.OBJECT_REFUSED: Entry(
        meaning="The API server refuses an object of the service for good.",
        remedy="Correct what the message names in the LLMService, or the admission policy that refuses it.",
    ),
    Reason.STALLED: Entry(
        meaning="A group has failed more often than spec.restart.maxRestarts within spec.restart.window. "
        "Its pods stay for a look; other groups serve.",
        remedy="Read the pod's log, correct the cause, then set spec.restart.requestedAt to the time now.",
    ),
    Reason.INVALID_IMAGE_NAME: Entry(
        meaning="The image is no valid reference.",
        remedy="Correct spec.engine.image (or the image of scheduler or gateway).",
    ),
    Reason.SECRET_NOT_FOUND: Entry(
        meaning="A pod needs a Secret, or a key of one, that does not exist.",
        remedy="Create the Secret that the message names in the namespace of the LLMService.",
    ),
    Reason.CONTAINER_CONFIG_ERROR: Entry(
        meaning="The kubelet cannot make the container from its configuration.",
        remedy="Correct what the message names; the pod goes on by itself.",
    ),
    Reason.IMAGE_PULL_BACK_OFF: Entry(
        meaning="The node could not pull the image and waits before it tries again.",
        remedy="Check that the image exists and that imagePullSecrets may read it, or correct the image.",
    ),
    Reason.ERR_IMAGE_PULL: Entry(
        meaning="The node has just failed to pull the image.",
        remedy="Check that the image exists and that imagePullSecrets may read it, or correct the image.",
    ),
    Reason.QUOTA_EXCEEDED: Entry(
        meaning="A ResourceQuota of the namespace refuses a pod.",
        remedy="Raise the quota that the message names, or lower the replicas or the resources of the role.",
    ),
    Reason.POD_REFUSED: Entry(
        meaning="The API server refuses a pod of the group: an admission policy, a missing priority class.",
        remedy="Change what the message names, or ask who runs the policy.",
    ),
    Reason.PVC_NOT_BOUND: Entry(
        meaning="The claim for the model's files has no volume.",
        remedy="Check the claim's storage class and access mode; `kubectl describe pvc` says more.",
    ),
    Reason.MODEL_DOWNLOAD_FAILED: Entry(
        meaning="The Job that fills the model cache has failed for good.",
        remedy="Read the Job's log, correct spec.model, then delete the Job: it is made again.",
    ),
    Reason.MODEL_DOWNLOADING: Entry(
        meaning="The Job that fills the model cache is at work; groups start when it is done. What keeps its "
        "pod from running is told by the reason of that.",
        remedy=_WAIT,
    ),
    Reason.NODE_LOST: Entry(
        meaning="A node of the group is gone or does not answer.",
        remedy="Repair the node; if it never comes back delete the Node, or taint it "
        "node.kubernetes.io/out-of-service, so that the group may start elsewhere.",
    ),
    Reason.OOM_KILLED: Entry(
        meaning="A container used more memory than its limit.",
        remedy="Raise resources.memory of the role, or lower maxBatchSize or kvBlocks. A download has 4Gi: "
        "where that is too little fill the volume yourself, with spec.model.cache.prefetch: false.",
    ),
    Reason.RANK_BOOTSTRAP_TIMEOUT: Entry(
        meaning="A rank gave up waiting for the others, or an engine did not start within startupTimeout.",
        remedy="Look at the member that is not ready; raise startupTimeout of the role if it only is slow.",
    ),
    Reason.CRASH_LOOP_BACK_OFF: Entry(
        meaning="A container ends again and again.",
        remedy="Read the log of the container before: `kubectl logs --previous POD`.",
    ),
    Reason.POD_PREEMPTED: Entry(
        meaning="A pod of the group had to go for one of higher priority; the whole group starts again "
        "when there is room.",
        remedy="Add or free nodes, or raise priorityClassName of the role.",
    ),
    Reason.POD_EVICTED: Entry(
        meaning="The node threw a pod out, because it ran short of memory or disk, or was tainted.",
        remedy="Free the node, raise the requests of the role, or add a toleration to it.",
    ),
    Reason.POD_DELETED: Entry(
        meaning="Somebody deleted a pod of the group; the whole group starts again.",
        remedy="Nothing to do. To restart on purpose set spec.restart.requestedAt: it drains first.",
    ),
    Reason.CONTAINER_FAILED: Entry(
        meaning="A container has ended: the whole group starts again, a download into the cache by itself.",
        remedy="Read the log of the container before: `kubectl logs --previous POD`.",
    ),
    Reason.REPLICAS_CHANGED: Entry(
        meaning="Somebody scaled the StatefulSet of a group; a group that lost pods by it starts again.",
        remedy="Scale the LLMService instead: spec.replicas, or replicas of the role.",
    ),
    Reason.RESTART_BACKOFF: Entry(
        meaning="The group waits before it starts again, longer after each failure.",
        remedy="Wait, or look at status.groups[].lastFailure.",
    ),
    Reason.GROUP_RESTARTING: Entry(
        meaning="A member failed; the pods of the old epoch are going, then the group starts again.",
        remedy=_WAIT,
    ),
    Reason.GANG_PROVIDER_MISSING: Entry(
        meaning="Groups are to start in gangs of another scheduler (spec.placement.gang.provider), whose API "
        "is not there or which the operator was not told of. Groups that run go on.",
        remedy="Install it, name it in the chart's value gang.providers, or set another provider.",
    ),
    Reason.INSUFFICIENT_GPU: Entry(
        meaning="Too few nodes have enough free GPUs for all pods of a group.",
        remedy="Add or free nodes, or lower the replicas or nodes of the role.",
    ),
    Reason.INSUFFICIENT_RDMA: Entry(
        meaning="Too few nodes have enough free RDMA devices for all pods of a group.",
        remedy="Add or free nodes, or check the RDMA device plugin.",
    ),
    Reason.INSUFFICIENT_RESOURCES: Entry(
        meaning="No node has enough free processor time or memory for a pod.",
        remedy="Add or free nodes, or lower the resources of the role.",
    ),
    Reason.TOPOLOGY_UNSATISFIED: Entry(
        meaning="There is room, but not within one domain of spec.placement.topologyKey, or not on nodes "
        "with the labels that the role asks for.",
        remedy="Free nodes in one domain, correct nodeSelector, or set spec.placement.mode: Preferred.",
    ),
    Reason.UNSCHEDULABLE: Entry(
        meaning="kube-scheduler finds no node for a pod, for a reason that the message quotes.",
        remedy="Act on the message; for a taint add a toleration to the role.",
    ),
    Reason.GANG_TIMEOUT: Entry(
        meaning="Not all pods of a group had a node within spec.placement.gang.timeout; it gave them back.",
        remedy="Add or free nodes; the group tries again by itself.",
    ),
    Reason.GANG_PENDING: Entry(
        meaning="The group waits for its turn: groups that need devices are started one after the other. "
        "Or its pods wait in the queue of another scheduler (spec.placement.gang.provider).",
        remedy=_WAIT,
    ),
    Reason.SCHEDULER_NOT_READY: Entry(
        meaning="The scheduler's pod is not ready.",
        remedy="`hortator k8s explain` names the pod and what it waits for.",
    ),
    Reason.GATEWAY_NOT_READY: Entry(
        meaning="Not all pods of the gateway are ready.",
        remedy="`hortator k8s explain` names the pod and what it waits for.",
    ),
    Reason.NAME_TAKEN: Entry(
        meaning="An object of the needed name belongs to somebody else, or to a former LLMService.",
        remedy="Wait if it is being deleted, else delete or rename it.",
    ),
    Reason.CERTIFICATES_EXPIRING: Entry(
        meaning="A certificate that the operator makes should have been renewed long ago.",
        remedy="Read the operator's log for what it says of certificates; what has ended lets nobody in.",
    ),
    Reason.CERTIFICATES_MISSING: Entry(
        meaning="Secrets with certificates that the operator makes are not there yet, or cannot be read.",
        remedy=_WAIT,
    ),
    Reason.PODS_CREATING: Entry(
        meaning="Pods are being made: they exist in part, or their images are being pulled.",
        remedy=_WAIT,
    ),
    Reason.WAITING_FOR_PEERS: Entry(
        meaning="Some members run and wait for others of their epoch that do not run yet.",
        remedy="Look at the member that does not run; the message names it.",
    ),
    Reason.LOADING_WEIGHTS: Entry(
        meaning="All members run; the engine loads its weights or builds its graphs.",
        remedy="Wait, at most startupTimeout of the role.",
    ),
    Reason.NOT_READY: Entry(
        meaning="A member that was ready is not, but has not failed: it may have lost the scheduler.",
        remedy="Wait; look at the pod's log if it lasts.",
    ),
    Reason.DRAINING: Entry(
        meaning="A group goes away on purpose: it gets no new requests and finishes those in flight.",
        remedy="Wait, at most spec.drain.timeout.",
    ),
    Reason.PROGRESS_DEADLINE_EXCEEDED: Entry(
        meaning="A rollout has made no step for spec.rollout.progressDeadline; nothing was stopped by it.",
        remedy="Correct what the message names, or go back with `hortator k8s rollout undo`.",
    ),
    Reason.PRE_PULL_FAILED: Entry(
        meaning="A node cannot pull the image that a group on it is to move to: the group goes on as it is. "
        "As an event: it had not pulled it within half an hour for another reason, or the cluster has "
        "refused the Job of the pull for two minutes, and the group moves.",
        remedy="Correct the image or its imagePullSecrets, or go back with `hortator k8s rollout undo`; with "
        "spec.rollout.prePull: Off nothing is waited for.",
    ),
    Reason.LAST_AVAILABLE_GROUP: Entry(
        meaning="A group must be replaced but is the last of its role that serves, so it goes on as it is.",
        remedy="Set spec.rollout.maxSurge: 1 where nodes are free, add a group to the role, or accept that "
        "nothing is served for a while with spec.rollout.allowOutage: true.",
    ),
    Reason.ROLLOUT_PAUSED: Entry(
        meaning="Groups run an earlier revision and stay at it, because spec.rollout.paused is true.",
        remedy="`hortator k8s rollout resume` when they may move.",
    ),
    Reason.PRE_PULLING: Entry(
        meaning="The nodes of a group pull the image that it is to move to; it serves until they have it.",
        remedy=_WAIT,
    ),
    Reason.ROLLING_UPDATE: Entry(
        meaning="Groups move to what spec says now, one after the other.",
        remedy=_WAIT,
    ),
    Reason.ROLLOUT_SKEW: Entry(
        meaning="A role is spec.rollout.maxSkew groups ahead of its share and waits for the other role.",
        remedy="Look at what the other role waits for, or raise spec.rollout.maxSkew.",
    ),
    Reason.ROLLOUT_PARTITION: Entry(
        meaning="Groups with an index below spec.rollout.partition stay at an earlier revision.",
        remedy="Lower spec.rollout.partition when the groups that have moved are as they should be.",
    ),
    Reason.RESTART_REQUESTED: Entry(
        meaning="Somebody asked for a restart: of all groups, one after the other "
        "(spec.restart.requestedAt), or of one (`hortator k8s drain`).",
        remedy=_WAIT,
    ),
    Reason.NODE_CORDONED: Entry(
        meaning="A node of the group is cordoned: the group is drained, and starts elsewhere "
        "some seconds later.",
        remedy="Nothing to do; `kubectl uncordon` if the node should stay.",
    ),
    Reason.SCALE_DOWN: Entry(
        meaning="The group is one too many for spec.replicas, its role's replicas or its LLMServiceScaler.",
        remedy=_WAIT,
    ),
    Reason.SUSPENDING: Entry(
        meaning="spec.suspend is true and groups are still draining.",
        remedy="Wait; change immutable fields only when condition Suspended is True.",
    ),
    Reason.SUSPENDED: Entry(
        meaning="spec.suspend is true and no group has a pod.",
        remedy="Set spec.suspend: false to start again.",
    ),
    Reason.SCALED_TO_ZERO: Entry(
        meaning="No group is wanted: spec.replicas, or replicas of the roles, is 0.",
        remedy="Scale up: `kubectl scale llms NAME --replicas=1`.",
    ),
    Reason.NO_CAPACITY_CHECK: Entry(
        meaning="Groups with devices start without a look for room first, because the operator may not see "
        "nodes; kube-scheduler decides.",
        remedy="Nothing to do; install the optional ClusterRole to have it looked for.",
    ),
    Reason.SERVICE_NOT_FOUND: Entry(
        meaning="There is no LLMService of the name that the LLMServiceScaler has in spec.serviceName.",
        remedy="Create it, or delete the scaler: one for another service is another scaler.",
    ),
    Reason.ROLE_NOT_FOUND: Entry(
        meaning="The LLMService has no role of the name that the LLMServiceScaler has in spec.role.",
        remedy="Delete the scaler and make one for a role that there is.",
    ),
    Reason.CONFLICT: Entry(
        meaning="Another LLMServiceScaler that is older has the same role; this one changes nothing.",
        remedy="Delete one of the two: `kubectl get llmss`.",
    ),
    Reason.SCALED_BY_OTHERS: Entry(
        meaning="Somebody else has written spec.replicas, so the operator's own scaler leaves it alone.",
        remedy="Nothing, or take spec.autoscaling away; to hand it back, set spec.replicas to "
        "status.autoscaling.replicas, or change spec.autoscaling.",
    ),
    Reason.SCALING_HELD: Entry(
        meaning="The operator's own scaler waits: the service is suspended, its rollout is stuck, or each "
        "role has an LLMServiceScaler.",
        remedy="End what the message names.",
    ),
    Reason.LOAD_UNKNOWN: Entry(
        meaning="The operator's own scaler waits until the scheduler says how much is asked of every role.",
        remedy="Wait; if it lasts, look at SchedulerReady, and whether requests arrive at all.",
    ),
    Reason.SCALING: Entry(
        meaning="The operator's own scaler writes spec.replicas as is asked.", remedy=_NONE
    ),
    Reason.SCALED: Entry(meaning="The operator has written spec.replicas; the event says why.", remedy=_NONE),
    Reason.ROLE_SCALED: Entry(
        meaning="The role has as many groups as its LLMServiceScaler says.", remedy=_NONE
    ),
    Reason.ALL_GROUPS_READY: Entry(
        meaning="Every wanted group runs what spec says with all members ready, and the scheduler is ready.",
        remedy=_NONE,
    ),
    Reason.SOME_GROUPS_READY: Entry(
        meaning="Enough groups are ready for requests to be served.", remedy=_NONE
    ),
    Reason.ALL_PODS_SCHEDULED: Entry(meaning="Every pod of the wanted groups has a node.", remedy=_NONE),
    Reason.SCHEDULER_READY: Entry(meaning="Scheduler and gateway are ready.", remedy=_NONE),
    Reason.SPEC_ACCEPTED: Entry(meaning="The LLMService breaks no rule.", remedy=_NONE),
    Reason.MODEL_READY: Entry(
        meaning="The model cache is full, or the engines fetch the weights themselves.", remedy=_NONE
    ),
    Reason.CERTIFICATES_READY: Entry(
        meaning="The certificates that the operator makes are there and are renewed in time.", remedy=_NONE
    ),
    Reason.NOTHING_FAILED: Entry(meaning="No group has failed or used up its restarts.", remedy=_NONE),
    Reason.NOT_SUSPENDED: Entry(meaning="spec.suspend is false.", remedy=_NONE),
}

_BLAME = {reason: position for position, reason in enumerate(Reason)}


def remedy(reason: Reason) -> str:
    """The one line of advice."""
    return ENTRIES[reason].remedy


def blame(reason: Reason) -> int:
    """Lower is told first."""
    return _BLAME[reason]


def known(word: str, otherwise: Reason) -> Reason:
    """A reason from a text that was written earlier, perhaps by another version."""
    try:
        return Reason(word)
    except ValueError:
        return otherwise


def page(note: str) -> str:
    """The reference page, in Markdown; `note` says who wrote it."""
    rows = [f"| `{reason}` | {entry.meaning} | {entry.remedy} |" for reason, entry in ENTRIES.items()]
    return f"""# Reasons

{note}
Every condition of an LLMService and every group in its status has one of these reasons. The list is closed:
scripts may rely on the words. Where several are true at once, the first of the list is told.

| reason | what it means | what to do |
|---|---|---|
""" + "".join(f"{row}\n" for row in rows)
