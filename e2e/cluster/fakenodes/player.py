"""One pod on a node: what all modes share. A mode decides what happens to the pod (`scripted`, `process`)."""

import abc
import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.fakenodes.nodes import Node
from cluster.fakenodes.status import Container, pod_status, timestamp
from cluster.netns import MACHINE_IP
from cluster.processes import LabError

if TYPE_CHECKING:
    from cluster.fakenodes.kubelet import Kubelet

Obj = dict[str, Any]
DEFAULT_GRACE_S = 30
log = logging.getLogger(__name__)


class Player(abc.ABC):
    """One pod on one node."""

    mode = ""

    def __init__(self, pod: Obj, node: Node, kubelet: "Kubelet") -> None:
        self.pod = pod
        self.node = node
        self.kubelet = kubelet
        self.containers = [
            Container(name=c["name"], image=c.get("image", "")) for c in pod["spec"]["containers"]
        ]
        self.pod_ip: str | None = None
        self.start_time = timestamp()
        self.terminating = asyncio.Event()
        self.grace_s = float(DEFAULT_GRACE_S)
        self.task: asyncio.Task[None] | None = None
        self.writing = asyncio.Lock()  # one write at a time: a later status must not be overtaken
        self.written_version = 0  # resource version after our last write
        self._conditions: Sequence[Obj] = pod.get("status", {}).get("conditions", [])

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return self.pod["metadata"]["uid"]

    @property
    def path(self) -> str:
        """The pod's path."""
        namespace, name = self.key
        return f"/api/v1/namespaces/{namespace}/pods/{name}"

    @abc.abstractmethod
    async def play(self) -> None:
        """From the pod's arrival until it has ended after `terminating`."""

    @abc.abstractmethod
    async def release(self) -> None:
        """End at once whatever it holds on this machine."""

    async def power_off(self) -> None:  # noqa: B027  # nothing to do is a good default
        """The node lost its power: nothing of the pod is left running, and nobody reports it."""

    async def cut_off(self) -> None:  # noqa: B027  # nothing to do is a good default
        """The node lost its network: the pod goes on, unreachable."""

    async def reconnect(self) -> None:  # noqa: B027  # nothing to do is a good default
        """The node is back."""

    def do(self, action: str, arguments: Obj) -> None:
        """What a test asks for; modes know different actions."""
        raise LabError(f"{action}: not for a pod in {self.mode} mode ({arguments})")

    def describe(self) -> Obj:
        """For the control socket."""
        namespace, name = self.key
        return {
            "namespace": namespace,
            "name": name,
            "uid": self.uid,
            "node": self.node.name,
            "mode": self.mode,
            "ip": self.pod_ip,
            "containers": {c.name: {"restarts": c.restart_count, "ready": c.ready} for c in self.containers},
        }

    def publish(self) -> None:
        """The status has changed."""
        self.kubelet.publish(self)

    def status(self) -> Obj:
        """What to write now."""
        status = pod_status(
            self.pod,
            self.containers,
            host_ip=MACHINE_IP,
            pod_ip=self.pod_ip,
            start_time=self.start_time,
            previous=self._conditions,
        )
        self._conditions = status["conditions"]
        return status

    def see(self, pod: Obj) -> None:
        """The pod as the API server has it now."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self.grace_s = float(pod["metadata"].get("deletionGracePeriodSeconds", DEFAULT_GRACE_S))
            if not self.node.is_lost:
                self.terminating.set()
        if self._was_changed_by_others(pod):
            self.publish()

    def _was_changed_by_others(self, pod: Obj) -> bool:
        """Whether somebody else wrote another readiness: the node controller does, when heartbeats were late."""
        if not self.written_version or int(pod["metadata"]["resourceVersion"]) <= self.written_version:
            return False
        return _readiness(pod.get("status", {}).get("conditions", [])) != _readiness(self._conditions)

    async def run(self) -> None:
        """Play; afterwards the pod object goes, as a kubelet lets it go."""
        try:
            await self.play()
            await self.terminating.wait()
            await self.kubelet.write(self)
            await self.kubelet.remove(self)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("pod %s/%s", *self.key)
        finally:
            await self.release()


def _readiness(conditions: Sequence[Obj]) -> str | None:
    return next((condition["status"] for condition in conditions if condition["type"] == "Ready"), None)
