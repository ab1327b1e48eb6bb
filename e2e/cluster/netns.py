"""Network namespaces: the lab's addresses and ports are its own, and nothing leaves the machine.

The layout inside:

    127.0.0.1      etcd, API servers, the proxy in front of them
    10.200.0.1     the machine, as pods and the true node see it
    10.244.0.0/17  pods of fake nodes in process mode, on bridge lab0 (10.244.0.1: gateway and DNS)
    10.245.0.0/24  pods of the true node, on the bridge its CNI plug-in makes
    10.96.0.0/16   Services, once `Lab.start_pod_network` has started kube-proxy
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.processes import LabError

RUN = Path("/run/netns")
MACHINE_IP = "10.200.0.1"
BRIDGE = "lab0"
BRIDGE_IP = "10.244.0.1"
BRIDGE_PREFIX = 17
POD_PREFIX = "10.244"
TRUE_NODE_CIDR = "10.245.0.0/24"
POD_CIDRS = "10.244.0.0/15"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class NetworkNamespace:
    """A named network namespace (`ip netns`)."""

    name: str

    @classmethod
    def create(cls, name: str) -> "NetworkNamespace":
        """Make one with the layout above."""
        space = cls(name)
        _run("ip", "netns", "add", name)
        for words in (
            "link set lo up",
            f"address add {MACHINE_IP}/32 dev lo",
            f"link add {BRIDGE} type bridge",
            f"address add {BRIDGE_IP}/{BRIDGE_PREFIX} dev {BRIDGE}",
            f"link set {BRIDGE} up",
            f"route add default dev {BRIDGE}",
        ):
            _run("ip", "-n", name, *words.split())
        settings = (
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.send_redirects=0",
            f"net.ipv4.conf.{BRIDGE}.send_redirects=0",
        )
        _run(*space.command("sysctl", "-qw", *settings))
        return space

    @property
    def path(self) -> Path:
        """The file that names it."""
        return RUN / self.name

    def command(self, *words: str | Path) -> list[str]:
        """The command, inside. Not `ip netns exec`: that remounts /sys and hides the cgroups."""
        return ["nsenter", f"--net={self.path}", *map(str, words)]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and the threads and processes it starts, are inside."""
        with Path("/proc/thread-self/ns/net").open("rb") as before, self.path.open("rb") as inside:
            _setns(inside.fileno())
            try:
                yield
            finally:
                _setns(before.fileno())

    def delete(self) -> None:
        """Take the name away; the namespace ends with the last process in it."""
        if self.path.exists():
            _run("ip", "netns", "delete", self.name)


def _setns(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(number)}")


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise LabError(f"{' '.join(command)}: {result.stderr.strip() or result.returncode}")
