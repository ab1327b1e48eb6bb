"""The operator itself as cluster objects: what manifests/install.yaml has beside the CRD.

One namespace that lets in restricted pods only, one operator (Recreate: the old one goes before the new one
comes, and its Lease keeps two from writing), and roles made from the table in `permissions`. People who may
edit or view a namespace may do so with its LLMServices.
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.api.v1alpha1 import GROUP, PLURAL, EngineSpec
from hortator.operator import names
from hortator.operator.manifests import environment, pods
from hortator.operator.objects import Obj
from hortator.operator.permissions import READ, Scope, rules

NAMESPACE = "hortator-system"
PREFIX = "HORTATOR_OPERATOR_"
COMMAND = ("python", "-m", "hortator.operator")
GRACE_S = 30
STARTUP_TIMEOUT_S = 120.0
CPU, MEMORY = "100m", "512Mi"
_LABELS = {names.LABEL_APP: names.APP, names.LABEL_COMPONENT: "operator"}
_RBAC = "rbac.authorization.k8s.io"


def image(version: str, *, registry: str = "") -> str:
    """The operator's image of a version."""
    return f"{registry}/hortator-operator:{version}" if registry else f"hortator-operator:{version}"


def installation(version: str, *, registry: str = "") -> Iterator[Obj]:
    """Every object, in the order in which they are applied."""
    yield _object("v1", "Namespace", NAMESPACE, labels={"pod-security.kubernetes.io/enforce": "restricted"})
    yield _object("v1", "ServiceAccount", names.OPERATOR_NAME, namespace=NAMESPACE)
    yield from _roles()
    yield _deployment(image(version, registry=registry), registry)


def _roles() -> Iterator[Obj]:
    nodes = f"{names.OPERATOR_NAME}-nodes"
    yield _role("ClusterRole", names.OPERATOR_NAME, rules(Scope.SERVED))
    yield _binding("ClusterRoleBinding", names.OPERATOR_NAME, role="ClusterRole")
    yield _role("ClusterRole", nodes, rules(Scope.NODES))
    yield _binding("ClusterRoleBinding", nodes, role="ClusterRole")
    yield _role("Role", names.OPERATOR_NAME, rules(Scope.OWN), namespace=NAMESPACE)
    yield _binding("RoleBinding", names.OPERATOR_NAME, role="Role", namespace=NAMESPACE)
    for verb, verbs in (
        ("view", READ),
        ("edit", (*READ, "create", "update", "patch", "delete", "deletecollection")),
    ):
        role = _role(
            "ClusterRole",
            f"hortator-{verb}",
            [
                {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": list(verbs)},
                {"apiGroups": [GROUP], "resources": [f"{PLURAL}/status"], "verbs": ["get"]},
            ],
        )
        above = {"view": ("view", "edit", "admin"), "edit": ("edit", "admin")}[verb]
        role["metadata"]["labels"] |= {f"{_RBAC}/aggregate-to-{name}": "true" for name in above}
        yield role


def _deployment(image_name: str, registry: str) -> Obj:
    engine = EngineSpec(backend="Simulated")  # pull policy and secrets as an LLMService has them by default
    container = pods.container(
        "operator",
        image=image_name,
        engine=engine,
        command=COMMAND,
        env=[
            *pods.admin_environment(PREFIX),
            {"name": f"{PREFIX}ADMIN_HOST", "value": "0.0.0.0"},  # noqa: S104  # the pod's interfaces
            environment.from_field(f"{PREFIX}NAMESPACE", "metadata.namespace"),
            *([{"name": f"{PREFIX}IMAGE_REGISTRY", "value": registry}] if registry else []),
        ],
        resources={"requests": {"cpu": CPU, "memory": MEMORY}, "limits": {"memory": MEMORY}},
        ports={"admin": names.PORT_ADMIN},
    ) | pods.probes(startup_timeout_s=STARTUP_TIMEOUT_S)
    spec = pods.pod_spec(account=names.OPERATOR_NAME, engine=engine, container=container, grace_s=GRACE_S) | {
        "automountServiceAccountToken": True
    }
    obj = _object("apps/v1", "Deployment", names.OPERATOR_NAME, namespace=NAMESPACE)
    obj["spec"] = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": dict(_LABELS)},
        "template": pods.template(_LABELS, spec),
    }
    return obj


def _object(
    api_version: str, kind: str, name: str, *, namespace: str = "", labels: dict[str, str] | None = None
) -> Obj:
    metadata: Obj = {"name": name, "labels": _LABELS | (labels or {})}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _role(kind: str, name: str, role_rules: list[Obj], *, namespace: str = "") -> Obj:
    return _object(f"{_RBAC}/v1", kind, name, namespace=namespace) | {"rules": role_rules}


def _binding(kind: str, name: str, *, role: str, namespace: str = "") -> Obj:
    return _object(f"{_RBAC}/v1", kind, name, namespace=namespace) | {
        "roleRef": {"apiGroup": _RBAC, "kind": role, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": names.OPERATOR_NAME, "namespace": NAMESPACE}],
    }
