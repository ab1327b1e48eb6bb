"""The nodes: registered once, kept alive by their leases, lost and returned on demand."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cluster.fakenodes.api import MERGE, STRATEGIC, Api
from cluster.fakenodes.status import timestamp
from cluster.netns import MACHINE_IP

Obj = dict[str, Any]
LEASE_NAMESPACE = "kube-node-lease"
RENEW_S = 5.0
LEASE_DURATION_S = 40
STATUS_EVERY_S = 120.0
HEALTHY = (
    ("Ready", "True"),
    ("MemoryPressure", "False"),
    ("DiskPressure", "False"),
    ("PIDPressure", "False"),
)


@dataclass(slots=True, kw_only=True)
class Node:
    """One node; `is_lost` ones neither report nor act."""

    name: str
    labels: Mapping[str, str]
    capacity: Mapping[str, str]
    kubelet_port: int = 0
    is_lost: bool = False
    returned: asyncio.Event = field(default_factory=asyncio.Event)

    def obj(self) -> Obj:
        """The Node object."""
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            **self.labels,
        }
        metadata = {"name": self.name, "labels": labels}
        return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}}

    def status(self) -> Obj:
        """Its status while all is well."""
        now = timestamp()
        capacity = {"cpu": "128", "memory": "2Ti", "pods": "250", "ephemeral-storage": "4Ti", **self.capacity}
        conditions = [
            {
                "type": name,
                "status": status,
                "reason": "KubeletReady" if name == "Ready" else f"KubeletHasNo{name}",
                "message": "kubelet is posting ready status" if name == "Ready" else "",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }
            for name, status in HEALTHY
        ]
        return {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": MACHINE_IP},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.kubelet_port}},
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "lab://1",
                "kernelVersion": os.uname().release,
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.20.2-lab",
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "lab",
                "systemUUID": "",
            },
        }


def fleet(
    *, count: int, prefix: str, labels: Iterable[str], capacity: Mapping[str, str], first: int = 0
) -> list[Node]:
    """`count` nodes; in a label `key=value` a `{i}` or `{i//4}` stands for the number of the node."""
    nodes = []
    for index in range(first, first + count):
        pairs = (label.partition("=")[::2] for label in labels)
        nodes.append(
            Node(
                name=f"{prefix}{index}",
                labels={key: _numbered(value, index) for key, value in pairs},
                capacity=capacity,
            )
        )
    return nodes


def _numbered(template: str, index: int) -> str:
    start, end = template.find("{"), template.find("}")
    if start < 0 or end < start:
        return template
    divisor = int(template[start + 1 : end].partition("//")[2] or 1)
    return f"{template[:start]}{index // divisor}{template[end + 1 :]}"


class Heartbeats:
    """Registers the nodes and renews their leases, spread over the interval."""

    def __init__(self, api: Api, nodes: Mapping[str, Node]) -> None:
        self._api = api
        self._nodes = nodes

    async def register(self, node: Node) -> None:
        """Create or take over the Node, its status and its lease."""
        await self._api.request_until_done("POST", "/api/v1/nodes", node.obj())
        await self._api.request_until_done(
            "PATCH",
            f"/api/v1/nodes/{node.name}",
            {"metadata": {"labels": node.obj()["metadata"]["labels"]}},
            content_type=MERGE,
        )
        await self.report(node)
        await self._renew(node)

    async def register_all(self) -> None:
        """All of them, some at a time."""
        await asyncio.gather(*(self.register(node) for node in self._nodes.values()))

    async def report(self, node: Node) -> None:
        """Write the status."""
        path = f"/api/v1/nodes/{node.name}/status"
        await self._api.request_until_done("PATCH", path, {"status": node.status()}, content_type=STRATEGIC)

    async def run(self) -> None:
        """Renew until cancelled."""
        names = list(self._nodes)
        tasks = [self._beat(self._nodes[name], number / len(names)) for number, name in enumerate(names)]
        await asyncio.gather(*tasks)

    async def _beat(self, node: Node, offset: float) -> None:
        await asyncio.sleep(offset * RENEW_S)
        num_beats = 0
        while True:
            if not node.is_lost:
                await self._renew(node)
                num_beats += 1
                if num_beats % int(STATUS_EVERY_S / RENEW_S) == 0:
                    await self.report(node)
            await asyncio.sleep(RENEW_S)

    async def _renew(self, node: Node) -> None:
        base = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases"
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = {"holderIdentity": node.name, "leaseDurationSeconds": LEASE_DURATION_S, "renewTime": now}
        lease = {"metadata": {"name": node.name, "namespace": LEASE_NAMESPACE}, "spec": spec}
        path = f"{base}/{node.name}"
        if await self._api.request_until_done("PATCH", path, {"spec": spec}, content_type=MERGE) is None:
            await self._api.request_until_done("POST", base, lease)
