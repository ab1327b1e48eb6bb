"""The kinds that the in-memory API serves, and the defaults that matter to the operator."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind; `has_status`: status is a subresource, and the rest of the object cannot be written there.

    `is_optional`: others bring its CRD, so it is there only where a test says so (`ApiServer.installed`).
    """

    api_version: str
    kind: str
    plural: str
    is_namespaced: bool = True
    has_status: bool = True
    is_optional: bool = False

    @property
    def is_custom(self) -> bool:
        """Whether a CRD defines it: its objects are validated as they are stored."""
        return self.is_optional or self.api_version.startswith("serving.hortator.dev/")


_TABLE: tuple[tuple[str, str, str], ...] = (
    ("v1", "Pod", "pods"),
    ("v1", "Service", "services"),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "ReplicaSet", "replicasets"),
    ("batch/v1", "Job", "jobs"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("serving.hortator.dev/v1alpha1", "LLMService", "llmservices"),
    ("serving.hortator.dev/v1alpha1", "LLMServiceScaler", "llmservicescalers"),
)
_WITHOUT_STATUS: tuple[tuple[str, str, str], ...] = (
    ("v1", "Secret", "secrets"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("v1", "Event", "events"),
    ("apps/v1", "ControllerRevision", "controllerrevisions"),
    ("coordination.k8s.io/v1", "Lease", "leases"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
)
_OPTIONAL: tuple[tuple[str, str, str], ...] = (
    ("scheduling.volcano.sh/v1beta1", "PodGroup", "podgroups"),
    ("scheduling.x-k8s.io/v1alpha1", "PodGroup", "podgroups"),
    ("kueue.x-k8s.io/v1beta1", "LocalQueue", "localqueues"),
)
_CLUSTER_SCOPED: tuple[tuple[str, str, str], ...] = (
    ("v1", "Node", "nodes"),
    ("v1", "Namespace", "namespaces"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
)
_CLUSTER_SCOPED_WITHOUT_STATUS: tuple[tuple[str, str, str], ...] = (
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
)
KINDS: dict[tuple[str, str], Kind] = {
    kind_key[:2]: kind
    for table, is_namespaced, has_status in (
        (_TABLE, True, True),
        (_WITHOUT_STATUS, True, False),
        (_OPTIONAL, True, False),
        (_CLUSTER_SCOPED, False, True),
        (_CLUSTER_SCOPED_WITHOUT_STATUS, False, False),
    )
    for kind_key in table
    for kind in [
        Kind(
            api_version=kind_key[0],
            kind=kind_key[1],
            plural=kind_key[2],
            is_namespaced=is_namespaced,
            has_status=has_status,
            is_optional=table is _OPTIONAL,
        )
    ]
}


def set_defaults(obj: dict[str, Any]) -> None:
    """Fill in what a real API server would, where somebody reads it."""
    spec: dict[str, Any] = obj.setdefault("spec", {}) if obj["kind"] in _DEFAULTED else obj.get("spec", {})
    match obj["kind"]:
        case "Pod":
            _pod(spec)
            obj.setdefault("status", {}).setdefault("phase", "Pending")
        case "StatefulSet":
            spec.setdefault("replicas", 1)
            spec.setdefault("podManagementPolicy", "OrderedReady")
            spec.setdefault("updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
            spec.setdefault("revisionHistoryLimit", 10)
            _pod(spec["template"]["spec"])
        case "Deployment":
            spec.setdefault("replicas", 1)
            spec.setdefault("progressDeadlineSeconds", 600)
            spec.setdefault("revisionHistoryLimit", 10)
            rolling = {"maxSurge": "25%", "maxUnavailable": "25%"}
            spec.setdefault("strategy", {"type": "RollingUpdate", "rollingUpdate": rolling})
            _pod(spec["template"]["spec"])
        case "Job":
            spec.setdefault("completions", 1)
            spec.setdefault("parallelism", 1)
            spec.setdefault("backoffLimit", 6)
            _pod(spec["template"]["spec"])
        case "Service":
            spec.setdefault("type", "ClusterIP")
            spec.setdefault("clusterIP", "10.96.0.10")
            spec.setdefault("sessionAffinity", "None")
            for port in spec.get("ports", []):
                port.setdefault("protocol", "TCP")
                port.setdefault("targetPort", port["port"])


_DEFAULTED = frozenset({"Pod", "StatefulSet", "Deployment", "Job", "Service"})


def _pod(spec: dict[str, Any]) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    for container in spec.get("containers", []):
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("resources", {})
        for port in container.get("ports", []):
            port.setdefault("protocol", "TCP")
