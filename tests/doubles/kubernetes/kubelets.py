"""Scripted kubelets: what happens to each pod on its node is said by a test, one step at a time.

A script is a function from a pod to what its engine does next (`Act`). `Kubelets.step` applies it once to every
pod that stands on a living node. Statuses have the shape that real kubelets write.
"""

from collections.abc import Callable
from dataclasses import dataclass

from doubles.kubernetes.api import ApiServer, Obj, key_of
from doubles.kubernetes.controllers import is_ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """It runs; ready or not."""

    is_ready: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """It ends and, as restartPolicy Always has it, starts again: one more restart."""

    exit_code: int = 1
    reason: str = "Error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """It cannot start: ImagePullBackOff, CreateContainerConfigError, CrashLoopBackOff and so on."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """It ends for good, as a Job's pod does."""

    exit_code: int = 0


Act = Run | End | Wait | Finish
Script = Callable[[Obj], Act]


def always_ready(_pod: Obj) -> Act:
    """The usual script."""
    return Run()


class Kubelets:
    """All nodes' kubelets."""

    def __init__(self, api: ApiServer, script: Script = always_ready) -> None:
        self.api = api
        self.script = script
        self._ips = iter(range(1, 1 << 16))

    def add_node(self, name: str, *, gpus: int = 8, labels: dict[str, str] | None = None) -> None:
        """A node that is ready."""
        capacity = {"cpu": "64", "memory": "512Gi", "pods": "250", "nvidia.com/gpu": str(gpus)}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name} | (labels or {})},
            "spec": {},
            "status": {"capacity": capacity, "allocatable": capacity, "conditions": [self._ready("True")]},
        }
        self.api.create(node, manager="kubelet")

    def lose_node(self, name: str) -> None:
        """Its kubelet says nothing more; the cluster notices."""
        key = ("v1", "Node", "", name)
        node = self.api.get(key)
        status = node["status"] | {"conditions": [self._ready("Unknown")]}
        self.api.replace(node | {"status": status}, subresource="status")

    def step(self) -> None:
        """Every pod on a living node does what its script says, once."""
        living = {node["metadata"]["name"] for node in self.api.find("Node") if is_ready(node)}
        for pod in list(self.api.find("Pod")):
            if pod["spec"].get("nodeName") not in living:
                continue
            if "deletionTimestamp" in pod["metadata"]:
                self.api.delete(key_of(pod), uid=pod["metadata"]["uid"], grace_s=0)
            elif pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
                self._act(pod, self.script(pod))

    def end(self, namespace: str, name: str, *, exit_code: int = 137, reason: str = "Error") -> None:
        """A container of a pod ends now, and has been restarted."""
        self._act(self.api.get(("v1", "Pod", namespace, name)), End(exit_code=exit_code, reason=reason))

    def _act(self, pod: Obj, act: Act) -> None:
        status = pod.get("status", {})
        before = (status.get("containerStatuses") or [{}])[0]
        phase, restarts, ready = "Running", before.get("restartCount", 0), False
        last = before.get("lastState", {})
        state: Obj
        match act:
            case Run(is_ready=ready):
                state = before.get("state", {})
                state = state if "running" in state else {"running": {"startedAt": self.api.timestamp()}}
            case End(exit_code=code, reason=reason):
                restarts += 1
                ended = {"exitCode": code, "reason": reason, "finishedAt": self.api.timestamp()}
                last = {"terminated": ended}
                state = {"running": {"startedAt": self.api.timestamp()}}
            case Wait(reason=reason, message=message):
                phase = "Pending" if not restarts else "Running"
                state = {"waiting": {"reason": reason, "message": message}}
            case Finish(exit_code=code):
                phase = "Failed" if code else "Succeeded"
                state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
        container = {
            "name": pod["spec"]["containers"][0]["name"],
            "image": pod["spec"]["containers"][0]["image"],
            "ready": ready,
            "started": "running" in state,
            "restartCount": restarts,
            "state": state,
            "lastState": last,
        }
        ip = status.get("podIP") or f"127.244.0.{next(self._ips) % 250}"
        kept = [one for one in status.get("conditions", []) if one["type"] == "PodScheduled"]
        was_ready = next((one for one in status.get("conditions", []) if one["type"] == "Ready"), {})
        condition = self._ready("True" if ready else "False")
        if was_ready.get("status") == condition["status"]:
            condition = was_ready
        new = {
            **{name: value for name, value in status.items() if name not in {"conditions", "phase"}},
            "phase": phase,
            "podIP": ip,
            "conditions": [*kept, condition],
            "containerStatuses": [container],
        }
        if new != status:
            self.api.replace(pod | {"status": new}, manager="kubelet", subresource="status")

    def _ready(self, status: str) -> Obj:
        return {"type": "Ready", "status": status, "lastTransitionTime": self.api.timestamp()}
