"""What all pods have in common: they run as nobody in particular and can do nothing but their work.

The security context passes the Pod Security Standard `restricted`: a user id that no host has, no capability,
no privilege escalation, the runtime's seccomp profile, and a read-only root with an empty /tmp. Pods that
request RDMA ports get IPC_LOCK, which `baseline` and `restricted` do not allow. No pod is
given a token of the API, nor the addresses of other Services as environment variables (that of a Service
named `hortator-worker` would read as a setting of the worker).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hortator.api.v1alpha1 import EngineSpec, ResourcesSpec
from hortator.operator import names
from hortator.operator.objects import Obj

USER_ID = 10001
"""Of every process, and the group that may read its volumes; images have no need to know it."""
TMP = "/tmp"  # noqa: S108  # an emptyDir of the pod
TERMINATION_MARGIN_S = 15
"""What a pod has beyond the drain timeout before it is killed."""

STARTUP_PERIOD_S = 2
READINESS_PERIOD_S = 2
LIVENESS_PERIOD_S = 10
LIVENESS_FAILURES = 6
"""A process that does not answer for a minute is stuck; a busy one answers within it."""
STARTUP_MARGIN_S = 10
"""A process that gives up by itself says why; the probe comes after it."""


def grace_s(drain_timeout_s: float) -> int:
    """Seconds between SIGTERM and SIGKILL."""
    return math.ceil(drain_timeout_s) + TERMINATION_MARGIN_S


def pod_spec(
    *,
    account: str,
    engine: EngineSpec,
    container: Obj,
    grace_s: int,
    volumes: Sequence[Obj] = (),
) -> Obj:
    """A pod of one container; pull secrets are those of the whole service."""
    spec: Obj = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *volumes],
    }
    if engine.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in engine.image_pull_secrets]
    return spec


def container(
    name: str,
    *,
    image: str,
    engine: EngineSpec,
    command: Sequence[str],
    env: Sequence[Obj],
    resources: Obj,
    ports: Mapping[str, int],
    mounts: Sequence[Obj] = (),
    capabilities: Sequence[str] = (),
) -> Obj:
    """A container without probes; the pull policy is that of the whole service."""
    spec: Obj = {
        "name": name,
        "image": image,
        "imagePullPolicy": engine.image_pull_policy,
        "command": list(command),
        "env": [*env],
        "resources": resources,
        "volumeMounts": [{"name": "tmp", "mountPath": TMP}, *mounts],
        "terminationMessagePolicy": "FallbackToLogsOnError",  # a process that dies without last words
        "securityContext": confined(capabilities),
    }
    if ports:
        spec["ports"] = [
            {"name": port, "containerPort": number, "protocol": "TCP"} for port, number in ports.items()
        ]
    return spec


def confined(capabilities: Sequence[str] = ()) -> Obj:
    """The security context of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **({"add": [*capabilities]} if capabilities else {})},
    }


def probes(*, startup_timeout_s: float) -> Obj:
    """Three probes of the admin port; liveness counts only once the process was ready for the first time.

    Start-up ends with readiness, not with the process: a container that is not ready in time is killed, and
    with it the start of its group is tried again.
    """
    return {
        "startupProbe": {
            **_get("/readyz"),
            "periodSeconds": STARTUP_PERIOD_S,
            "timeoutSeconds": 2,
            "failureThreshold": math.ceil((startup_timeout_s + STARTUP_MARGIN_S) / STARTUP_PERIOD_S),
        },
        "readinessProbe": {
            **_get("/readyz"),
            "periodSeconds": READINESS_PERIOD_S,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            **_get("/healthz"),
            "periodSeconds": LIVENESS_PERIOD_S,
            "timeoutSeconds": 5,
            "failureThreshold": LIVENESS_FAILURES,
        },
    }


def resources(given: ResourcesSpec, *, cpu: str, memory: str, extra: Mapping[str, str] | None = None) -> Obj:
    """Requests, and a memory limit equal to them; `extra` (GPUs) is a limit and so a request as well."""
    requests = {"cpu": given.cpu or cpu, "memory": given.memory or memory}
    return {"requests": requests, "limits": {"memory": requests["memory"], **(extra or {})}}


def template(labels: Mapping[str, str], spec: Obj) -> Obj:
    """A pod template."""
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def service_port(name: str, port: int, *, app_protocol: str | None = None) -> Obj:
    """A port of a Service, aimed at the container's port of the same name."""
    entry: Obj = {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
    if app_protocol:
        entry["appProtocol"] = app_protocol
    return entry


def admin_environment(prefix: str) -> list[Obj]:
    """What every process is told of the pod it runs in beyond its settings."""
    return [
        {"name": "HOME", "value": TMP},
        {"name": f"{prefix}ADMIN_PORT", "value": str(names.PORT_ADMIN)},
    ]


def _get(path: str) -> Obj:
    return {"httpGet": {"path": path, "port": "admin", "scheme": "HTTP"}}
