"""What Kubernetes 1.20 lacks and the product uses, in one place: the product targets 1.29 and never looks down.

`adapted_object` drops fields that 1.20 refuses ("field not declared in schema"); none of them changes what a
test on 1.20 could observe, because 1.20 would not act on them. `to_server` and `to_client` make policy/v1 out of
policy/v1beta1, which is the same for budgets; `own_answer` lets kubectl leave the validation of CRDs to the CRD server. What is lost thereby is proven elsewhere: docs/how-to/lab.md.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Obj = dict[str, Any]

CONTAINER_FIELDS = (
    "resizePolicy",  # 1.27
    "restartPolicy",  # 1.28: native sidecars
    *(f"{probe}.grpc" for probe in ("readinessProbe", "livenessProbe", "startupProbe")),  # 1.24
    # 1.21
    *(
        f"{probe}.terminationGracePeriodSeconds"
        for probe in ("readinessProbe", "livenessProbe", "startupProbe")
    ),
    "resources.claims",  # 1.26
    "securityContext.appArmorProfile",  # 1.30
)
POD_SPEC_FIELDS = (
    *(f"{group}[].{f}" for group in ("containers", "initContainers") for f in CONTAINER_FIELDS),
    "hostUsers",  # 1.25
    "os",  # 1.23
    "resourceClaims",  # 1.26
    "schedulingGates",  # 1.26
    "resources",  # 1.32
    "securityContext.appArmorProfile",  # 1.30
    "topologySpreadConstraints[].matchLabelKeys",  # 1.25
    "topologySpreadConstraints[].minDomains",  # 1.24
    "topologySpreadConstraints[].nodeAffinityPolicy",  # 1.25
    "topologySpreadConstraints[].nodeTaintsPolicy",  # 1.25
    *(
        f"affinity.{kind}.requiredDuringSchedulingIgnoredDuringExecution[].{name}"
        for kind in ("podAffinity", "podAntiAffinity")
        for name in ("matchLabelKeys", "mismatchLabelKeys", "namespaceSelector")  # 1.29, 1.29, 1.21
    ),
)
IN_TEMPLATE = tuple(f"spec.template.spec.{name}" for name in POD_SPEC_FIELDS)
FIELDS: Mapping[str, Sequence[str]] = {
    "Pod": tuple(f"spec.{name}" for name in POD_SPEC_FIELDS),
    "StatefulSet": (
        *IN_TEMPLATE,
        "spec.minReadySeconds",  # 1.22
        "spec.ordinals",  # 1.26
        "spec.persistentVolumeClaimRetentionPolicy",  # 1.23
        "spec.updateStrategy.rollingUpdate.maxUnavailable",  # 1.24
    ),
    "Deployment": IN_TEMPLATE,
    "DaemonSet": IN_TEMPLATE,
    "Job": (
        *IN_TEMPLATE,
        "spec.backoffLimitPerIndex",  # 1.28
        "spec.completionMode",  # 1.21
        "spec.podFailurePolicy",  # 1.25
        "spec.podReplacementPolicy",  # 1.28
        "spec.suspend",  # 1.21
    ),
    "Service": (
        "spec.internalTrafficPolicy",  # 1.21
        "spec.trafficDistribution",  # 1.30
    ),
    "PodDisruptionBudget": ("spec.unhealthyPodEvictionPolicy",),  # 1.26
    "PersistentVolumeClaim": ("spec.dataSourceRef", "spec.volumeAttributesClassName"),  # 1.22, 1.29
}
# 1.20 does not have these kinds at all; a manifest is applied without them.
MISSING_KINDS = frozenset(
    {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ServiceCIDR", "ResourceClaimTemplate"}
)

NEW_POLICY, OLD_POLICY = "policy/v1", "policy/v1beta1"
NEW_POLICY_PATH = f"/apis/{NEW_POLICY}"


def adapted_object(obj: Obj) -> Obj:
    """A copy of the object without what 1.20 refuses."""
    copy = json.loads(json.dumps(obj))
    for path in FIELDS.get(copy.get("kind", ""), ()):
        _drop(copy, path.split("."))
    if copy.get("kind") == "Service":
        for port in copy.get("spec", {}).get("ports", []):
            port.setdefault("protocol", "TCP")  # 1.20 needs it in a server-side apply
    return copy


def own_answer(path: str) -> bytes | None:
    """What the proxy answers itself: that the CRD server validates fields.

    Without it kubectl validates a CRD by the schema of 1.20, which does not know CEL, and refuses it.
    """
    where = "apis/apiextensions.k8s.io/v1"
    if path == "/openapi/v3":
        return json.dumps({"paths": {where: {"serverRelativeURL": f"/openapi/v3/{where}"}}}).encode()
    if path != f"/openapi/v3/{where}":
        return None
    kind = {"group": "apiextensions.k8s.io", "version": "v1", "kind": "CustomResourceDefinition"}
    patch = {
        "parameters": [{"name": "fieldValidation", "in": "query"}],
        "x-kubernetes-group-version-kind": kind,
    }
    operation = {"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}": {"patch": patch}}
    info = {"title": "lab", "version": "1"}
    return json.dumps({"openapi": "3.0.0", "info": info, "paths": operation}).encode()


def to_server(path: str) -> str:
    """The path to ask 1.20 for."""
    if _is_new_policy(path):
        return f"/apis/{OLD_POLICY}{path.removeprefix(NEW_POLICY_PATH)}"
    return path


def body_to_server(body: bytes) -> bytes:
    """The body of a write, adapted; what is not a JSON or YAML object passes as it is."""
    try:
        obj = json.loads(body)
    except ValueError:
        return body
    if not isinstance(obj, dict):
        return body
    adapted = adapted_object(obj)
    if adapted.get("apiVersion") == NEW_POLICY:
        adapted["apiVersion"] = OLD_POLICY
    return body if adapted == obj else json.dumps(adapted).encode()


def body_to_client(path: str, body: bytes) -> bytes:
    """An answer (or one line of a watch) as 1.29 would give it; `path` is what the client asked for."""
    if _is_new_policy(path):
        return body.replace(f'"{OLD_POLICY}"'.encode(), f'"{NEW_POLICY}"'.encode())
    bare = path.partition("?")[0].rstrip("/")
    if bare in {"/apis", "/apis/policy"}:
        return _with_policy_v1(body)
    return body


def concerns_answer(path: str) -> bool:
    """Whether `body_to_client` may change the answer."""
    return _is_new_policy(path) or path.partition("?")[0].rstrip("/") in {"/apis", "/apis/policy"}


def _is_new_policy(path: str) -> bool:
    return path == NEW_POLICY_PATH or path.startswith((f"{NEW_POLICY_PATH}/", f"{NEW_POLICY_PATH}?"))


def _with_policy_v1(body: bytes) -> bytes:
    """Discovery that lists policy/v1 first."""
    try:
        document = json.loads(body)
    except ValueError:
        return body
    for group in document.get("groups", [document]):
        if group.get("name") == "policy":
            entry = {"groupVersion": NEW_POLICY, "version": "v1"}
            group["versions"] = [entry, *(v for v in group["versions"] if v != entry)]
            group["preferredVersion"] = entry
    return json.dumps(document).encode()


def _drop(value: Any, path: list[str]) -> None:
    name, *rest = path
    is_list = name.endswith("[]")
    name = name.removesuffix("[]")
    if not isinstance(value, dict) or name not in value:
        return
    if not rest:
        del value[name]
        return
    for child in value[name] or [] if is_list else [value[name]]:
        _drop(child, rest)
