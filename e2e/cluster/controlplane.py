"""A control plane of its own for a test session: real 1.20 processes, and a current CRD server aggregated into it.

Clients of the product use `kubeconfig`: a proxy that adapts what 1.20 lacks (cluster.adaptation) and sends CRD objects
to the CRD server. The lab's own processes talk to the API server directly (`direct_kubeconfig`).

The thread that starts it is inside the lab's network namespace until it ends (cluster.netns), and so is everything
that it starts.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import components
from cluster.aggregation import Aggregation
from cluster.components import API_PORT, CRD_NAMESPACE, CRD_PORT, CRD_SERVICE, PROXY_PORT
from cluster.installation import binary
from cluster.kube import APPLY, ApiError, Kube, Obj, documents
from cluster.netns import MACHINE_IP, NetworkNamespace
from cluster.pki import Pki
from cluster.processes import LabError, Processes, wait_until
from cluster.proxy.server import CRD_PATH, ApiProxy, Upstreams
from cluster.sweep import FOLDERS, claim, sweep

PREFIX = "hortator-lab-"
E2E = Path(__file__).resolve().parents[1]
READY_TIMEOUT_S = 90
NAMESPACE_TIMEOUT_S = 100


@dataclass(slots=True, kw_only=True)
class ControlPlane:
    """A cluster to test against, whatever provides it."""

    provider: str
    folder: Path
    kubeconfig: Path
    client: Kube
    version: tuple[int, int]

    def apply_crd(self, path: Path) -> None:
        """Create or update the CRDs of a file and wait until their objects can be created."""
        for crd in documents(path.read_text()):
            self.client.apply(crd)
            self._wait_until_served(crd)

    def _wait_until_served(self, crd: Obj) -> None:
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        for version in crd["spec"]["versions"]:
            path = f"/apis/{group}/{version['name']}/{plural}"
            wait_until(lambda path=path: self._answers(path), what=f"{path} is served")

    def _answers(self, path: str) -> bool:
        try:
            self.client.request("GET", path, query={"limit": "1"})
        except ApiError:
            return False
        return True

    def kubectl(
        self, *words: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl against it."""
        command = [kubectl(), f"--kubeconfig={self.kubeconfig}", *words]
        result = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=120, check=False
        )
        if check and result.returncode != 0:
            raise LabError(f"kubectl {' '.join(words)}: {result.stderr.strip()}")
        return result

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A namespace that is usable (its service account exists); afterwards its pods are gone and the rest is going.

        Kubernetes itself waits 5 s before it empties a deleted namespace; nobody waits for that here.
        """
        client = self.client
        obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        client.create(obj)
        client.wait("v1", "ServiceAccount", "default", name, _has_token_if_old(self.version))
        try:
            yield name
        finally:
            client.delete(obj)
            deadline = time.monotonic() + NAMESPACE_TIMEOUT_S
            while pods := client.list("v1", "Pod", name):
                with contextlib.suppress(
                    TimeoutError
                ):  # many pods, a busy machine: the server goes on with it
                    # their nodes may be gone, and then nobody else would end them
                    client.delete_all("v1", "Pod", name, grace_s=0)
                if time.monotonic() > deadline:
                    raise LabError(f"namespace {name} still has pods: {_names(pods)}")
                time.sleep(0.1)


@dataclass(slots=True, kw_only=True)
class Lab(ControlPlane):
    """The project's own control plane."""

    netns: NetworkNamespace
    pki: Pki
    processes: Processes
    direct: Kube
    direct_kubeconfig: Path
    proxy: ApiProxy

    @contextlib.contextmanager
    def proxied(self, name: str) -> Iterator[tuple[ApiProxy, Path]]:
        """One more proxy with a kubeconfig of its own: what fails in it fails for its clients only."""
        proxy = ApiProxy(_upstreams(self.pki), self.pki.certificate("apiserver"), self.pki.key("apiserver"))
        proxy.start("127.0.0.1", 0)
        try:
            server = f"https://127.0.0.1:{proxy.port}"
            yield proxy, self.pki.kubeconfig(f"proxied-{name}", user="admin", server=server)
        finally:
            proxy.stop()

    def apply_crd(self, path: Path) -> None:
        """CRDs live on the CRD server; the 1.20 server aggregates their group."""
        for crd in documents(path.read_text()):
            query = {"fieldManager": "lab", "force": "true", "fieldValidation": "Strict"}
            where = f"{CRD_PATH}/{crd['metadata']['name']}"
            self.client.request("PATCH", where, crd, content_type=APPLY, query=query)
            self._wait_until_served(crd)

    def delete_crd(self, path: Path) -> None:
        """Delete the CRDs of a file and wait until they and all their objects are gone."""
        for crd in documents(path.read_text()):
            self.client.delete(crd)
            self.client.wait(
                crd["apiVersion"], crd["kind"], crd["metadata"]["name"], None, lambda found: found is None
            )

    def start_pod_network(self) -> None:
        """Service addresses (kube-proxy) and DNS for pods that really run; once, until the lab ends."""
        if "dns" in self.processes.running:
            return
        components.start_kube_proxy(self.processes, self.direct_kubeconfig)
        dns = self.processes.start(
            "dns",
            [sys.executable, "-m", "cluster.dns", f"--kubeconfig={self.direct_kubeconfig}"],
            env={"PYTHONPATH": str(E2E)},
        )
        self.processes.wait_until(lambda: b"ready" in dns.log.read_bytes(), what="DNS")

    # Faults. What the API server does, everybody sees: the controllers, the scheduler and the fake nodes too.

    def pause_api(self) -> None:
        """Stop the API servers in their tracks; connections stay open and nothing is answered."""
        for name in ("kube-apiserver", "crd-server"):
            self.processes.running[name].pause()

    def resume_api(self) -> None:
        """Let them go on."""
        for name in ("kube-apiserver", "crd-server"):
            self.processes.running[name].resume()

    def kill_api(self) -> None:
        """SIGKILL the API server; `start_api` brings it back with what etcd holds."""
        self.processes.running.pop("kube-apiserver").kill()

    def start_api(self) -> None:
        """Start the API server and wait until it is ready; also mends what died of its absence."""
        components.start_api_server(self.processes, self.pki)
        self.processes.wait_until(lambda: _is_ready(self.direct), what="kube-apiserver is ready")
        for name, start in (
            ("controller-manager", components.start_controllers),
            ("scheduler", components.start_scheduler),
        ):
            if not self.processes.running[name].is_alive:
                start(self.processes, self.pki)


@contextlib.contextmanager
def running_lab() -> Iterator[Lab]:
    """A control plane until the block ends; afterwards no process, namespace or file of it is there."""
    sweep(PREFIX)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=FOLDERS))
        stack.callback(_remove_folder, folder)
        claim(folder)
        netns = NetworkNamespace.create(folder.name)
        stack.callback(netns.delete)
        stack.enter_context(netns.entered())
        pki = Pki.create(folder / "pki")
        processes = Processes(logs=folder / "logs")
        stack.callback(processes.end)
        components.start_storage(processes, folder)
        components.start_api_server(processes, pki)
        server = f"https://127.0.0.1:{API_PORT}"
        for user in ("controller-manager", "scheduler", "true-node", "true-node-2"):
            pki.kubeconfig(user, user=user, server=server)
        direct_kubeconfig = pki.kubeconfig("direct", user="admin", server=server)
        direct = Kube.from_kubeconfig(direct_kubeconfig)
        stack.callback(direct.close)
        processes.wait_until(lambda: _is_ready(direct), what="API server is ready", timeout_s=READY_TIMEOUT_S)
        components.start_controllers(processes, pki)
        components.start_scheduler(processes, pki)
        components.start_crd_server(processes, pki, direct_kubeconfig)
        upstreams = _upstreams(pki)
        proxy = ApiProxy(upstreams, pki.certificate("apiserver"), pki.key("apiserver"))
        proxy.start("0.0.0.0", PROXY_PORT)  # noqa: S104  # inside the lab's network namespace
        stack.callback(proxy.stop)
        kubeconfig = pki.kubeconfig("admin", user="admin", server=f"https://127.0.0.1:{PROXY_PORT}")
        aggregation = Aggregation(
            kubeconfig=kubeconfig, direct_kubeconfig=direct_kubeconfig, authority=pki.ca
        )
        proxy.after_write = aggregation.after_write
        stack.enter_context(aggregation.running())
        client = Kube.from_kubeconfig(kubeconfig)
        stack.callback(client.close)
        lab = Lab(
            provider="lab",
            folder=folder,
            kubeconfig=kubeconfig,
            client=client,
            version=(1, 20),
            netns=netns,
            pki=pki,
            processes=processes,
            direct=direct,
            direct_kubeconfig=direct_kubeconfig,
            proxy=proxy,
        )
        _wait_until_usable(lab)
        _make_known_services(direct)
        yield lab


def kubectl() -> str:
    """The newest kubectl there is: of the virtual environment, else of the lab, else of the machine."""
    candidates = [Path(sys.executable).parent / "kubectl", binary("kubectl"), shutil.which("kubectl")]
    found = next((str(path) for path in candidates if path and Path(path).exists()), None)
    if found is None:
        raise LabError("no kubectl: make lab")
    return found


def _upstreams(pki: Pki) -> Upstreams:
    return Upstreams(api=("127.0.0.1", API_PORT), crd=("127.0.0.1", CRD_PORT), authority=pki.ca)


def _wait_until_usable(lab: Lab) -> None:
    def is_usable() -> bool:
        try:
            account = lab.direct.get("v1", "ServiceAccount", "default", "default")
            lab.client.request("GET", CRD_PATH)  # through the proxy, from the CRD server
        except (ApiError, OSError):
            return False
        return bool(account and account.get("secrets"))

    lab.processes.wait_until(is_usable, what="service accounts and the CRD server", timeout_s=READY_TIMEOUT_S)


def _make_known_services(direct: Kube) -> None:
    """The CRD server as a Service, for the aggregator; the proxy as what pods know as `kubernetes`."""
    crd = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": CRD_SERVICE, "namespace": CRD_NAMESPACE},
    }
    direct.create({**crd, "spec": {"type": "ExternalName", "externalName": "localhost"}})
    ports = [{"name": "https", "port": PROXY_PORT, "protocol": "TCP"}]
    direct.create(
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "subsets": [{"addresses": [{"ip": MACHINE_IP}], "ports": ports}],
        }
    )


def _is_ready(client: Kube) -> bool:
    try:
        return client.request("GET", "/readyz") == "ok"
    except (ApiError, OSError):
        return False


def _names(objects: list[Obj]) -> str:
    return ", ".join(obj["metadata"]["name"] for obj in objects)


def _has_token_if_old(version: tuple[int, int]):
    """Before 1.24 a pod is refused until the account's token secret exists."""
    return lambda account: account and (version >= (1, 24) or account.get("secrets"))


def _remove_folder(folder: Path) -> None:
    keep = os.environ.get("LAB_KEEP_LOGS")
    if keep:
        shutil.copytree(folder / "logs", Path(keep) / folder.name, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
