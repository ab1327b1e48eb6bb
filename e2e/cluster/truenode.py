"""True nodes in the lab's cluster: containerd, runc, CNI and a kubelet of the same version as the control plane.

Most tests need one; a second one, begun inside the first, is for pods that may not share a node. A true node is a machine within the machine: a process namespace and a mount namespace, held by one process. /run, /var/log and
everything it mounts are its own; when the holder is killed, every daemon, shim and container ends with it, and only
its cgroups are left to remove. It shares the lab's network namespace with the control plane, so Services, DNS and pods
of fake nodes are in reach.
"""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from cluster.controlplane import Lab
from cluster.fakenodes.sandbox import children
from cluster.images import PAUSE, write_small_images
from cluster.installation import binary
from cluster.kube import is_ready
from cluster.netns import MACHINE_IP, TRUE_NODE_CIDR
from cluster.processes import LabError, wait_until
from cluster.sweep import CGROUPS, remove_cgroups

NAME = "true-node"
SECOND = "true-node-2"
LABEL = "lab.hortator.dev/true-node"
SOCKET = "/run/containerd/containerd.sock"
KUBELET_PORTS = {NAME: 10250, SECOND: 10260}
HOLDER = """set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock
mount --bind "$1/log" /var/log
mount --bind "$1/resolv.conf" /etc/resolv.conf
touch "$1/up"
trap '' CHLD
exec sleep infinity"""


@dataclass(slots=True, kw_only=True)
class TrueNode:
    """A running node."""

    lab: Lab
    folder: Path
    pid: int
    name: str = NAME

    def command(self, *words: str | Path) -> list[str]:
        """A command line on the node."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--pid", *map(str, words)]

    def run(self, *words: str | Path, timeout_s: float = 120) -> str:
        """Run a command on the node."""
        result = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if result.returncode != 0:
            raise LabError(f"{words[0]}: {result.stderr.strip()}")
        return result.stdout

    def ctr(self, *words: str | Path) -> str:
        """containerd's client, in Kubernetes' own namespace."""
        return self.run("ctr", "--address", SOCKET, "--namespace", "k8s.io", *words)

    def import_image(self, tar: Path) -> None:
        """Make an image file (docker-archive) known; nothing is pulled from anywhere."""
        self.ctr("images", "import", tar)


@contextlib.contextmanager
def running_true_node(
    lab: Lab, *, name: str = NAME, images: Sequence[Path] = (), labels: Mapping[str, str] | None = None
) -> Iterator[TrueNode]:
    """A true node until the block ends; afterwards no process, mount, cgroup or Node of it is there."""
    folder = lab.folder / name
    for part in ("log", "containerd", "kubelet", "cni", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lab.start_pod_network()
    is_first = name == NAME
    cgroup = lab.folder.name if is_first else f"{lab.folder.name}/{name}"
    names = [f"kubelet-{name}", f"containerd-{name}", name]
    try:
        _make_cgroups(cgroup)
        node = TrueNode(lab=lab, folder=folder, pid=_start_machine(lab, folder), name=name)
        _start_containerd(node)
        for tar in [*write_small_images(folder / "images"), *images]:
            node.import_image(tar)
        _start_kubelet(node, cgroup, {LABEL: "true", **(labels or {})})
        lab.direct.wait("v1", "Node", name, None, is_ready, timeout_s=90)
        yield node
    finally:
        lab.direct.delete({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        lab.processes.end(*names, grace_s=5)
        wait_until(partial(_is_cgroup_removed, cgroup), what=f"{name}'s processes are gone")
        if is_first:
            _delete_bridge()
        shutil.rmtree(folder, ignore_errors=True)


def _start_machine(lab: Lab, folder: Path) -> int:
    # the lab's DNS knows no registry: a pull fails at once instead of waiting for a network that is not there
    (folder / "resolv.conf").write_text(f"nameserver {MACHINE_IP}\n")
    up = folder / "up"
    holder = lab.processes.start(
        folder.name,
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
            *("sh", "-c", HOLDER, "true-node", folder),
        ],
    )
    lab.processes.wait_until(up.exists, what="the machine of the true node", timeout_s=20)
    return next(children(holder.pid))


def _start_containerd(node: TrueNode) -> None:
    folder = node.folder
    network = {
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(node.lab.folder / NAME / "cni" / "addresses"),  # one network
                    "ranges": [[{"subnet": TRUE_NODE_CIDR}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
    (folder / "cni" / "10-lab.conflist").write_text(json.dumps(network))
    (folder / "containerd.toml").write_text(
        f"""version = 2
root = "{folder}/containerd"
state = "/run/containerd/state"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""
    )
    node.lab.processes.start(
        f"containerd-{node.name}", node.command("containerd", "-c", folder / "containerd.toml")
    )

    def answers() -> bool:
        try:
            node.ctr("version")
        except LabError:
            return False
        return True

    node.lab.processes.wait_until(answers, what="containerd answers", timeout_s=30)


def _start_kubelet(node: TrueNode, cgroup: str, labels: Mapping[str, str]) -> None:
    pki, folder = node.lab.pki, node.folder
    name = node.name
    pki.certify(name, f"/O=system:nodes/CN=system:node:{name}", server_names=(f"IP:{MACHINE_IP}",))
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": MACHINE_IP,
        "port": KUBELET_PORTS[name],
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(pki.ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": str(pki.certificate(name)),
        "tlsPrivateKeyFile": str(pki.key(name)),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "50Mi"},
        "registryPullQPS": 0,
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "5s",
        "volumePluginDir": str(folder / "volume-plugins"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [MACHINE_IP],
        "resolvConf": "",
        "featureGates": {"LocalStorageCapacityIsolation": False},
    }
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(config))
    node.lab.processes.start(
        f"kubelet-{name}",
        node.command(
            *(binary("kubelet"), f"--config={folder / 'kubelet.yaml'}"),
            *(f"--kubeconfig={pki.folder / f'{name}.kubeconfig'}", f"--hostname-override={name}"),
            *(f"--node-ip={MACHINE_IP}", "--container-runtime=remote", f"--root-dir={folder / 'kubelet'}"),
            *(f"--container-runtime-endpoint=unix://{SOCKET}", f"--cert-dir={folder / 'kubelet' / 'pki'}"),
            *("--register-node=true", "--oom-score-adj=0"),
            f"--node-labels={','.join(f'{key}={value}' for key, value in labels.items())}",
        ),
    )


def _make_cgroups(name: str) -> None:
    """A tree of the node's own in every hierarchy, so that what is left of it can be told apart."""
    tops = [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]
    is_unified = (CGROUPS / "cgroup.controllers").exists()
    for top in [CGROUPS] if is_unified else tops:
        folder = top / name
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):
            source = top / setting
            if source.exists() and not is_unified:
                (folder / setting).write_text(source.read_text())


def _is_cgroup_removed(name: str) -> bool:
    remove_cgroups(name)
    return not any(path.exists() for path in [CGROUPS / name, *CGROUPS.glob(f"*/{name}")])


def _delete_bridge() -> None:
    """The CNI plug-in's bridge; the interfaces on it went with the pods."""
    subprocess.run(["ip", "link", "delete", "cni0"], capture_output=True, check=False)
