"""What of the lab is installed on this machine, and how the rest is (`make lab`).

Everything comes from Debian 12 and PyPI: the Kubernetes 1.20 binaries are built from Debian's own source package,
the CRD server from the Go sources in Debian sid, etcd and containerd are binary packages. Nothing that is there
is built again; `LAB_PREFIX` says where (default /opt/kubelab).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PREFIX = Path(os.environ.get("LAB_PREFIX", "/opt/kubelab"))
CONTROL_PLANE = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
CRD_SERVER = "apiextensions-apiserver"
# command that shows it is there -> Debian package
PACKAGES = {
    "etcd": "etcd-server",
    "openssl": "openssl",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "containerd": "containerd",
    "runc": "runc",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
    "gcc": "gcc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/bin/busybox": "busybox-static",
    "mpirun": "openmpi-bin",
    "/usr/sbin/sshd": "openssh-server",
    "ssh": "openssh-client",
}


def binary(name: str) -> Path:
    """Where a built binary is."""
    return PREFIX / "bin" / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to install."""

    what: str
    minutes: float
    run: Callable[[], None]


def steps() -> list[Step]:
    """What is still to be done here, in order; nothing: the lab is complete."""
    found = []
    packages = sorted({package for command, package in PACKAGES.items() if shutil.which(command) is None})
    if packages:
        found.append(
            Step(what=f"Debian packages: {' '.join(packages)}", minutes=1, run=lambda: _apt_install(packages))
        )
    missing = [name for name in CONTROL_PLANE if not binary(name).exists()]
    if missing:
        what = f"Kubernetes 1.20 from Debian's source package, into {PREFIX} (415 MB): {' '.join(missing)}"
        found.append(Step(what=what, minutes=5, run=lambda: _build("control-plane")))
    if not binary(CRD_SERVER).exists():
        what = f"the CRD server from Debian sid's Go sources, into {PREFIX} (76 MB, 4 GB of scratch space)"
        found.append(Step(what=what, minutes=4, run=lambda: _build("crd-server", sys.executable)))
    return found


def reason_it_cannot_be_installed() -> str | None:
    """Why `make lab` cannot work on this machine."""
    if sys.platform != "linux" or not _is_debian_12():
        return "the lab is built on Debian 12 only; elsewhere use kind, or HORTATOR_LAB_KUBECONFIG"
    if os.geteuid() != 0:
        return "needs root: it installs packages, and the lab uses network namespaces"
    return None


def reason_it_cannot_run() -> str | None:
    """What the lab lacks on this machine, in one line."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "the lab needs Linux and root (network namespaces)"
    left = steps()
    return f"not installed: {'; '.join(step.what for step in left)}" if left else None


def install(*, ask: Callable[[str], bool]) -> int:
    """Do what is left to do; returns the exit code."""
    left = steps()
    if not left:
        print(f"lab: complete ({PREFIX})")
        return 0
    obstacle = reason_it_cannot_be_installed()
    if obstacle:
        print(f"lab: {obstacle}", file=sys.stderr)
        return 2
    print("lab: this will be installed on this machine:")
    for step in left:
        print(f"  about {step.minutes:g} min: {step.what}")
    if not ask("Go on? [y/N] "):
        print("lab: nothing was changed", file=sys.stderr)
        return 1
    for step in left:
        print(f"lab: {step.what}", flush=True)
        step.run()
    still = steps()
    for step in still:
        print(f"lab: still missing: {step.what}", file=sys.stderr)
    return 1 if still else 0


def may_change_this_machine(question: str) -> bool:
    """`LAB_YES=1` or continuous integration says yes; else a person does."""
    if os.environ.get("LAB_YES") == "1" or os.environ.get("CI") == "true":
        return True
    if not sys.stdin.isatty():
        print("lab: LAB_YES=1 says yes where nobody can be asked", file=sys.stderr)
        return False
    return input(question).strip().lower() in {"y", "yes"}


def _is_debian_12() -> bool:
    try:
        release = Path("/etc/os-release").read_text()
    except OSError:
        return False
    lines = release.splitlines()
    return "ID=debian" in lines and 'VERSION_ID="12"' in lines


def _apt_install(packages: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def _build(script: str, *arguments: str) -> None:
    subprocess.run([HERE / "build" / script, PREFIX, *arguments], check=True)
