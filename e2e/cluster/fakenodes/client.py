"""The tests' side: starts fake nodes and tells them what to do."""

import contextlib
import json
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.components import PROXY_PORT
from cluster.controlplane import E2E, Lab
from cluster.processes import LabError, Process

START_TIMEOUT_S = 60
EIGHT_GPUS = {"nvidia.com/gpu": "8"}


@dataclass(slots=True, kw_only=True)
class FakeNodes:
    """A running fake-node process."""

    process: Process
    folder: Path
    names: Sequence[str]

    def ask(self, op: str, **arguments: Any) -> Any:
        """One request over the control socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.folder / "control.sock"))
            connection.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            with connection.makefile("r") as lines:
                reply = json.loads(lines.readline())
        if "error" in reply:
            raise LabError(reply["error"])
        return reply["result"]

    def script(self, namespace: str, pattern: str, **script: Any) -> None:
        """Pods whose name matches the pattern (`*`, `?`) and that arrive from now on follow this script."""
        self.ask("script", namespace=namespace, pattern=pattern, script=script)

    def do(self, namespace: str, name: str, action: str, **arguments: Any) -> None:
        """A scripted pod does something now: crash (exit_code=), oom, exit, ready, unready, go_on, lose_node."""
        self.ask("do", namespace=namespace, name=name, action=action, **arguments)

    def signal(
        self,
        namespace: str,
        name: str,
        signal: str | int = "SIGKILL",
        *,
        container: str | None = None,
        match: str | None = None,
    ) -> None:
        """A signal for a process of a pod: a container's first one, or all whose command line `match` finds."""
        self.do(namespace, name, "signal", signal=signal, container=container, match=match)

    def lose_node(self, node: str, *, how: str = "partition") -> None:
        """The node stops reporting. `partition`: its pods go on, cut off; `crash`: they are gone."""
        self.ask("lose", node=node, how=how)

    def return_node(self, node: str) -> None:
        """A lost node is back."""
        self.ask("return", node=node)

    def pods(self) -> list[dict[str, Any]]:
        """Every pod that is played: node, mode, ip, containers with restarts, pid and log."""
        return self.ask("pods")

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        """One of them."""
        found = [pod for pod in self.pods() if (pod["namespace"], pod["name"]) == (namespace, name)]
        if not found:
            raise LabError(f"no pod {namespace}/{name} on a fake node")
        return found[0]

    def log(self, namespace: str, name: str, container: str | None = None) -> str:
        """What a container of a process-mode pod has written so far; of the newest pod of that name, gone or not."""
        files = (self.folder / "pods").glob(f"{namespace}_{name}_*/{container or '*'}.log")
        newest = max(files, key=lambda path: path.parent.stat().st_ctime, default=None)
        return newest.read_text(errors="replace") if newest is not None else ""

    def stats(self) -> dict[str, float]:
        """Pods, status writes, CPU seconds and memory of the fake-node process."""
        return self.ask("stats")


@contextlib.contextmanager
def running_fake_nodes(
    lab: Lab,
    count: int,
    *,
    name: str = "fake-nodes",
    prefix: str = "node-",
    first: int = 0,
    labels: Sequence[str] = (),
    capacity: Mapping[str, str] = EIGHT_GPUS,
    mode: str = "scripted",
) -> Iterator[FakeNodes]:
    """Fake nodes until the block ends; their Node objects go with them."""
    folder = lab.folder / name
    options = [f"--label={label}" for label in labels]
    options += [f"--capacity={key}={value}" for key, value in capacity.items()]
    options.append(f"--tls={lab.pki.folder / 'apiserver'}")
    if mode == "process":
        lab.start_pod_network()
    process = lab.processes.start(
        name,
        [
            *(sys.executable, "-m", "cluster.fakenodes", f"--kubeconfig={lab.direct_kubeconfig}"),
            *(f"--count={count}", f"--prefix={prefix}", f"--first={first}", f"--mode={mode}"),
            *(f"--folder={folder}", f"--api-port={PROXY_PORT}", *options),
        ],
        env={"PYTHONPATH": str(E2E)},
    )
    names = [f"{prefix}{index}" for index in range(first, first + count)]
    try:
        lab.processes.wait_until(
            lambda: b'"event": "ready"' in process.log.read_bytes(),
            what=f"{count} fake nodes are registered",
            timeout_s=START_TIMEOUT_S,
        )
        yield FakeNodes(process=process, folder=folder, names=names)
    finally:
        lab.processes.end(name)
        process.log.rename(process.log.with_suffix(".ended"))
        for node in names:
            lab.direct.delete({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
