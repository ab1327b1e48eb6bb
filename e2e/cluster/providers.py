"""Which cluster the tests use: `HORTATOR_LAB_PROVIDER`, else the first that this machine can offer.

kubeconfig  the cluster of HORTATOR_LAB_KUBECONFIG; nothing of it is started or ended here
lab         the project's own (`make lab`)
kind        a kind cluster for the session, where docker and kind are
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from cluster import installation
from cluster.controlplane import ControlPlane, running_lab
from cluster.kube import Kube
from cluster.processes import LabError

CHOICE = "HORTATOR_LAB_PROVIDER"
GIVEN = "HORTATOR_LAB_KUBECONFIG"
KIND_TIMEOUT_S = 300


class Provider(Protocol):
    """Something that can provide a cluster."""

    name: str

    def obstacle(self) -> str | None:
        """Why it cannot here, in one line."""
        ...

    def running(self) -> AbstractContextManager[ControlPlane]:
        """A cluster until the block ends."""
        ...


class LabProvider:
    """The project's own control plane."""

    name = "lab"

    def obstacle(self) -> str | None:
        """What is not installed, or not allowed."""
        return installation.reason_it_cannot_run()

    def running(self) -> AbstractContextManager[ControlPlane]:
        """Started for this session."""
        return running_lab()


class KubeconfigProvider:
    """A cluster that somebody else runs."""

    name = "kubeconfig"

    def obstacle(self) -> str | None:
        """No file."""
        path = os.environ.get(GIVEN, "")
        if not path:
            return f"{GIVEN} is not set"
        return None if Path(path).is_file() else f"{GIVEN}: no file {path}"

    @contextlib.contextmanager
    def running(self) -> Iterator[ControlPlane]:
        """As it is."""
        with tempfile.TemporaryDirectory() as folder:
            yield connected(self.name, Path(os.environ[GIVEN]), Path(folder))


class KindProvider:
    """A kind cluster of one node."""

    name = "kind"

    def obstacle(self) -> str | None:
        """No kind, or no docker that answers."""
        missing = [command for command in ("kind", "docker") if shutil.which(command) is None]
        if missing:
            return f"{' and '.join(missing)} not installed"
        answer = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20)
        return None if answer.returncode == 0 else "the docker daemon does not answer"

    @contextlib.contextmanager
    def running(self) -> Iterator[ControlPlane]:
        """Created for this session."""
        name = f"hortator-{uuid.uuid4().hex[:6]}"
        with tempfile.TemporaryDirectory() as folder:
            kubeconfig = Path(folder) / "kubeconfig"
            options = ["--name", name, "--kubeconfig", str(kubeconfig)]
            try:
                command = ["kind", "create", "cluster", *options, "--wait", "120s"]
                subprocess.run(command, check=True, timeout=KIND_TIMEOUT_S)
                yield connected(self.name, kubeconfig, Path(folder))
            finally:
                subprocess.run(["kind", "delete", "cluster", *options], check=False, timeout=KIND_TIMEOUT_S)


def connected(name: str, kubeconfig: Path, folder: Path) -> ControlPlane:
    """A cluster that is there already."""
    client = Kube.from_kubeconfig(kubeconfig)
    version = client.request("GET", "/version")
    number = int(version["major"]), int(version["minor"].rstrip("+"))
    return ControlPlane(provider=name, folder=folder, kubeconfig=kubeconfig, client=client, version=number)


PROVIDERS: tuple[Provider, ...] = (KubeconfigProvider(), LabProvider(), KindProvider())


def choose() -> Provider:
    """The provider to use; none: an error that says what each of them lacks."""
    wanted = os.environ.get(CHOICE)
    names = [provider.name for provider in PROVIDERS]
    if wanted and wanted not in names:
        raise LabError(f"{CHOICE}: unknown {wanted!r} (allowed: {', '.join(names)})")
    obstacles = []
    for provider in PROVIDERS:
        if wanted in {None, "", provider.name}:
            obstacle = provider.obstacle()
            if obstacle is None:
                return provider
            obstacles.append(f"{provider.name}: {obstacle}")
    raise LabError("; ".join(obstacles))
