"""Pod statuses as a kubelet writes them: pure functions from what happens to the JSON that it patches.

The shapes are those of a 1.20 kubelet with containerd; cluster/recorded holds what a real one wrote, and a test
compares. Newer kubelets add conditions (PodReadyToStartContainers) and fields and change no reason used here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Obj = dict[str, Any]
OOM_EXIT_CODE = 137


def timestamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True, kw_only=True)
class Container:
    """What is known of one container."""

    name: str
    image: str
    state: Obj = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Obj = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restart_count: int = 0
    container_id: str = ""

    def status(self) -> Obj:
        """The entry of containerStatuses."""
        entry: Obj = {
            "name": self.name,
            "image": self.image,
            "imageID": f"{self.image.partition(':')[0]}@lab" if self.container_id else "",
            "lastState": self.last_state,
            "ready": self.ready,
            "restartCount": self.restart_count,
            "started": self.started,
            "state": self.state,
        }
        if self.container_id:
            entry["containerID"] = self.container_id
        return entry

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return "running" in self.state

    def run(self, uid: str) -> None:
        """It has started, for the first time or again."""
        if "terminated" in self.state:
            self.last_state = self.state
        self.container_id = f"containerd://{uid.replace('-', '')}{self.restart_count:032d}"
        self.state = {"running": {"startedAt": timestamp()}}
        self.ready = False

    def end(self, exit_code: int, *, reason: str = "", message: str = "") -> None:
        """It has ended."""
        if not reason:
            reason = "Completed" if exit_code == 0 else "Error"
        started_at = self.state.get("running", {}).get("startedAt")
        terminated: Obj = {"exitCode": exit_code, "reason": reason, "finishedAt": timestamp()}
        terminated["startedAt"] = started_at or terminated["finishedAt"]
        if message:
            terminated["message"] = message
        if self.container_id:
            terminated["containerID"] = self.container_id
        self.state = {"terminated": terminated}
        self.ready = self.started = False

    def wait(self, reason: str, message: str = "") -> None:
        """It cannot start now."""
        if "terminated" in self.state:
            self.last_state = self.state
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        self.ready = self.started = False


def back_off_message(container: str, pod: Obj, seconds: float) -> str:
    """What a kubelet says of a container in CrashLoopBackOff."""
    metadata = pod["metadata"]
    return (
        f"back-off {duration(seconds)} restarting failed container={container} "
        f"pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})"
    )


def duration(seconds: float) -> str:
    """As Go prints it: 10s, 1m20s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def waiting_message(reason: str, *, image: str = "", secret: str = "") -> str:
    """How a kubelet words a reason that a script names."""
    match reason:
        case "ErrImagePull":
            return f'rpc error: code = NotFound desc = failed to pull and unpack image "{image}": not found'
        case "ImagePullBackOff":
            return f'Back-off pulling image "{image}"'
        case "InvalidImageName":
            return f'Failed to apply default image tag "{image}": couldn\'t parse image reference "{image}"'
        case "CreateContainerConfigError":
            return f'secret "{secret or "missing"}" not found'
        case _:
            return f"{reason} by the lab"


def phase_of(pod: Obj, containers: Sequence[Container]) -> str:
    """The phase that follows from the containers' states and the restart policy."""
    policy = pod["spec"].get("restartPolicy", "Always")
    codes = [container.state.get("terminated", {}).get("exitCode") for container in containers]
    if all(code is not None for code in codes) and policy != "Always":
        if all(code == 0 for code in codes):
            return "Succeeded"
        if policy == "Never":
            return "Failed"
    has_started = any(c.is_running or "terminated" in c.state or c.last_state for c in containers)
    never_started = any("waiting" in c.state and not c.last_state for c in containers)
    return "Running" if has_started and not never_started else "Pending"


def pod_status(
    pod: Obj,
    containers: Sequence[Container],
    *,
    host_ip: str,
    pod_ip: str | None,
    start_time: str,
    previous: Sequence[Mapping[str, Any]],
) -> Obj:
    """The whole status; a condition keeps its transition time while its status stays."""
    phase = phase_of(pod, containers)
    status: Obj = {
        "phase": phase,
        "conditions": _conditions(pod, containers, phase, previous),
        "containerStatuses": [container.status() for container in containers],
        "hostIP": host_ip,
        "startTime": start_time,
    }
    if pod_ip:
        status |= {"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}
    if pod["spec"].get("initContainers"):
        status["initContainerStatuses"] = [_initialized(c, start_time) for c in pod["spec"]["initContainers"]]
    return status


def _conditions(
    pod: Obj, containers: Sequence[Container], phase: str, previous: Sequence[Mapping[str, Any]]
) -> list[Obj]:
    unready = [container.name for container in containers if not container.ready]
    why: Obj = {}
    if phase == "Succeeded":
        why = {"reason": "PodCompleted"}
    elif unready:
        names = " ".join(unready)
        why = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{names}]"}
    initialized: Obj = {"type": "Initialized", "status": "True"}
    if phase == "Succeeded":
        initialized["reason"] = "PodCompleted"
    gates = {gate["conditionType"] for gate in pod["spec"].get("readinessGates", [])}
    known = {c["type"]: c for c in previous}
    passed = all(known.get(gate, {}).get("status") == "True" for gate in gates)
    ready = {"type": "Ready", "status": "False" if unready or not passed else "True", **why}
    wanted = [
        initialized,
        ready,
        {"type": "ContainersReady", "status": "False" if unready else "True", **why},
        {"type": "PodScheduled", "status": "True"},
        *(dict(known[gate]) for gate in gates if gate in known),
    ]
    now = timestamp()
    for condition in wanted:
        old = known.get(condition["type"])
        is_same = old is not None and old["status"] == condition["status"]
        condition["lastProbeTime"] = None
        condition["lastTransitionTime"] = old["lastTransitionTime"] if old is not None and is_same else now
    return wanted


def _initialized(container: Obj, at: str) -> Obj:
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": at, "finishedAt": at}
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "lastState": {},
        "ready": True,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
