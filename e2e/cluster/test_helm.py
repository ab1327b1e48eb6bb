"""The life of a release with the real helm on a real API server: the operator is a pod with the chart's own roles.

The chart is packaged as it is but for `kubeVersion`, which this control plane does not have. The tests share one
release and go through its life in order.
"""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.controlplane import Lab
from cluster.fakenodes.client import FakeNodes, running_fake_nodes
from cluster.kube import Obj
from cluster.operators import CRD, SERVICES
from cluster.processes import wait_until
from cluster.scene import is_ready, llmservice

ROOT = Path(__file__).resolve().parents[2]
PINNED = ROOT / "build/bin/helm"
HELM = str(PINNED) if PINNED.exists() else shutil.which("helm") or ""

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not HELM, reason="helm is missing: run hack/install-helm"),
]
NAME = "served"
DEPLOYMENT = ("apps/v1", "Deployment", "hortator-operator")


@dataclass(slots=True, kw_only=True)
class Release:
    """A release of the packaged chart in a namespace of its own."""

    lab: Lab
    nodes: FakeNodes
    namespace: str
    package: Path
    home: Path

    def helm(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What helm did; its exit code is for the caller."""
        command = [HELM, *words, "--kubeconfig", str(self.lab.kubeconfig)]
        return subprocess.run(
            [*command, "--namespace", self.namespace],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"HOME": str(self.home)},
        )

    def does(self, *words: str) -> str:
        """What helm said; it must succeed."""
        done = self.helm(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def log_level(self) -> str:
        """Of the operator that runs."""
        deployment = self.lab.client.get(*DEPLOYMENT, self.namespace)
        assert deployment is not None
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        levels = {entry["name"]: entry.get("value") for entry in container["env"]}
        return levels.get("HORTATOR_OPERATOR_LOG_LEVEL", "INFO")

    def service(self) -> Obj:
        """The LLMService beside the operator."""
        found = self.lab.client.get(*SERVICES, NAME, self.namespace)
        assert found is not None
        return found

    def pods(self, component: str) -> set[str]:
        """Uids of a component's pods of the service."""
        selector = f"serving.hortator.dev/name={NAME},app.kubernetes.io/component={component}"
        pods = self.lab.client.list("v1", "Pod", self.namespace, labels=selector)
        return {pod["metadata"]["uid"] for pod in pods}

    def operator_pods(self) -> set[str]:
        """Uids of the operator's pods that are not going."""
        pods = self.lab.client.list("v1", "Pod", self.namespace)
        return {
            pod["metadata"]["uid"]
            for pod in pods
            if pod["metadata"]["name"].startswith("hortator-operator-")
            and "deletionTimestamp" not in pod["metadata"]
        }


@pytest.fixture(scope="module")
def release(lab, tmp_path_factory) -> Iterator[Release]:
    """Not installed yet."""
    folder = tmp_path_factory.mktemp("helm")
    chart = shutil.copytree(ROOT / "charts/hortator", folder / "chart")
    about = chart / "Chart.yaml"
    about.write_text(about.read_text().replace(">=1.29.0-0", ">=1.20.0-0"))
    packaged = [HELM, "package", str(chart), "--destination", str(folder)]
    subprocess.run(packaged, check=True, capture_output=True, timeout=60)
    (package,) = folder.glob("hortator-*.tgz")
    lab.apply_crd(CRD)
    with (
        lab.namespace(f"helm-{uuid.uuid4().hex[:8]}") as namespace,
        running_fake_nodes(lab, 4, mode="process") as nodes,
    ):
        release = Release(lab=lab, nodes=nodes, namespace=namespace, package=package, home=folder)
        yield release
        release.helm("uninstall", "hortator", "--ignore-not-found")


def test_it_installs_and_the_operator_serves(release):
    """The CRD was here before, made by kubectl: helm takes it over, as for somebody who moves to the chart."""
    said = release.does(
        "install", "hortator", str(release.package), "--take-ownership", "--wait", "--timeout", "90s"
    )
    assert "STATUS: deployed" in said
    engine = {"backend": "Simulated", "simulated": {"timeScale": 0.05}}
    release.lab.client.create(llmservice(NAME, release.namespace, engine=engine))
    release.lab.client.wait(*SERVICES, NAME, release.namespace, is_ready, timeout_s=120)


def test_helm_test_generates_a_token(release):
    said = release.does("test", "hortator", "--timeout", "100s")
    assert "Phase:          Succeeded" in said
    release.lab.client.wait(
        *SERVICES, "hortator-test", release.namespace, lambda found: found is None, timeout_s=30
    )


@pytest.mark.safety
def test_an_upgrade_and_its_rollback_replace_the_operator_and_no_engine(release):
    engines, operators = release.pods("engine"), release.operator_pods()
    assert len(engines) == 4
    wanted = ("--wait", "--timeout", "90s")
    release.does("upgrade", "hortator", str(release.package), "--set", "logLevel=DEBUG", *wanted)
    assert release.log_level() == "DEBUG"
    upgraded = release.operator_pods()
    assert not upgraded & operators
    release.does("rollback", "hortator", "1", *wanted)
    assert release.log_level() == "INFO"
    assert not release.operator_pods() & upgraded
    history = json.loads(release.does("history", "hortator", "--output", "json"))
    assert [entry["status"] for entry in history] == ["superseded", "superseded", "deployed"]
    # whoever leads now has looked at the service
    release.lab.client.patch(release.service(), {"spec": {"drain": {"timeout": "1s"}}})
    release.lab.client.wait(*SERVICES, NAME, release.namespace, is_ready, timeout_s=60)
    assert release.pods("engine") == engines


def test_a_wrong_value_is_refused_and_changes_nothing(release):
    refused = release.helm("upgrade", "hortator", str(release.package), "--set", "logLevel=LOUD")
    assert refused.returncode != 0
    assert "logLevel" in refused.stderr
    assert release.log_level() == "INFO"
    assert json.loads(release.does("status", "hortator", "--output", "json"))["version"] == 3


@pytest.mark.safety
def test_uninstalled_the_operator_goes_and_the_service_serves_on(release):
    engines = release.pods("engine")
    said = release.does("uninstall", "hortator", "--wait", "--timeout", "60s")
    assert "llmservices.serving.hortator.dev" in said  # kept
    wait_until(lambda: release.operator_pods() == set(), what="the operator is gone", timeout_s=60)
    assert release.pods("engine") == engines
    assert len(release.pods("gateway")) == 1
    roles = release.lab.client.list("rbac.authorization.k8s.io/v1", "ClusterRole", "")
    assert [role for role in roles if role["metadata"]["name"].startswith("hortator")] == []
    assert release.service()["metadata"].get("deletionTimestamp") is None
