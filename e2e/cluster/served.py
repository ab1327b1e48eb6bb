"""An LLMService whose processes really run: what a test asks of it, and does to it."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import yaml
from live_stack import HORTATOR

from cluster.controlplane import Lab
from cluster.fakenodes.client import FakeNodes
from cluster.kube import Obj, is_ready
from cluster.operators import SERVICES, Operator
from cluster.processes import LabError, wait_until
from cluster.witnesses import Witness, running_witness

GATEWAY_PORT = 8080


@dataclass(slots=True, kw_only=True)
class Served:
    """A service that runs."""

    lab: Lab
    nodes: FakeNodes
    operator: Operator
    namespace: str
    name: str

    def get(self) -> Obj:
        """The LLMService."""
        found = self.lab.client.get(*SERVICES, self.name, self.namespace)
        assert found is not None
        return found

    def change(self, spec: Obj) -> None:
        """Merge into the spec."""
        self.lab.client.patch(self.get(), {"spec": spec})

    def wait(self, holds: Callable[[Obj], object], *, what: str, timeout_s: float = 60.0) -> Obj:
        """The LLMService once that holds."""
        found: Obj = {}

        def look() -> object:
            nonlocal found
            found = self.get()
            return holds(found)

        try:
            wait_until(look, timeout_s=timeout_s, what=what, poll_s=0.1)
        except LabError:
            print(yaml.safe_dump(found.get("status")))
            raise
        return found

    def pods(self, component: str) -> list[Obj]:
        """Those that are not going."""
        selector = f"app.kubernetes.io/component={component}"
        found = self.lab.client.list("v1", "Pod", self.namespace, labels=selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def gateways(self) -> list[str]:
        """Addresses of the gateways' pods."""
        return [f"{pod['status']['podIP']}:{GATEWAY_PORT}" for pod in self.pods("gateway") if is_ready(pod)]

    def gateway(self, *, but: Obj | None = None) -> str:
        """The name of the first gateway's pod, or of the other one."""
        names = sorted(pod["metadata"]["name"] for pod in self.pods("gateway") if is_ready(pod))
        return next(name for name in names if but is None or name != but["metadata"]["name"])

    def front(self) -> str:
        """Address of the gateways' Service."""
        service = self.lab.client.get("v1", "Service", f"{self.name}-gateway", self.namespace)
        assert service is not None
        return f"{service['spec']['clusterIP']}:{GATEWAY_PORT}"

    def members(self, group: int) -> list[str]:
        """Uids of the pods of a group."""
        prefix = f"{self.name}-a-{group}-"
        return [
            pod["metadata"]["uid"]
            for pod in self.pods("engine")
            if pod["metadata"]["name"].startswith(prefix)
        ]

    def nodes_of(self, group: int) -> set[str]:
        """Where they are."""
        prefix = f"{self.name}-a-{group}-"
        return {
            pod["spec"].get("nodeName", "")
            for pod in self.pods("engine")
            if pod["metadata"]["name"].startswith(prefix)
        }

    def epoch(self, group: int) -> int:
        """That a group is in."""
        found = self.lab.client.get("apps/v1", "StatefulSet", f"{self.name}-a-{group}", self.namespace)
        assert found is not None
        return int(found["spec"]["template"]["metadata"]["labels"]["serving.hortator.dev/epoch"])

    def hortator(self, *words: str, timeout_s: float = 60) -> str:
        """A command of the command line, on this cluster."""
        result = subprocess.run(
            [*HORTATOR, *words],
            env=os.environ | {"KUBECONFIG": str(self.lab.kubeconfig), "COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def logs(self, name: str, uid: str) -> list[Obj]:
        """What a pod has logged, gone or not."""
        lines = []
        for file in (self.nodes.folder / "pods").glob(f"{self.namespace}_{name}_{uid}/*.log"):
            lines += file.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @contextlib.contextmanager
    def loaded(self, *gateways: str, rate: float, max_tokens: int) -> Iterator[Witness]:
        """A steady load until the block ends, once the first answers have come."""
        options = {"rate": rate, "max_tokens": max_tokens}
        with running_witness(self.lab, self.namespace, gateways, **options) as witness:
            witness.wait_for_more(5)
            yield witness


def condition(service: Obj, kind: str = "Ready") -> Obj:
    """A condition of an LLMService; empty: it has none of that kind."""
    conditions = (service.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def is_complete(service: Obj) -> bool:
    """All the groups that the newest spec wants are ready, and no other is there."""
    status, wanted = service.get("status") or {}, service["spec"]["replicas"]
    return (
        status.get("observedGeneration") == service["metadata"]["generation"]
        and condition(service).get("status") == "True"
        and status["display"]["groups"] == f"{wanted}/{wanted}"
        and len(status["groups"]) == wanted
    )
