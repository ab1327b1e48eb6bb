"""The life of a release with the real helm, from a chart package, against the in-memory API."""

import asyncio
import os
from pathlib import Path

import pytest
import yaml

from doubles.kubernetes.api import ApiServer
from doubles.kubernetes.helm_front import HelmFront

ROOT = Path(__file__).resolve().parents[3]
HOME = "hortator-system"
CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "llmservices.serving.hortator.dev")
POD = ("v1", "Pod", HOME, "hortator-test")
SERVICE = ("serving.hortator.dev/v1alpha1", "LLMService", HOME, "hortator-test")


@pytest.fixture(scope="session")
def package(helm, tmp_path_factory):
    """charts/hortator as the file that is handed around."""
    folder = tmp_path_factory.mktemp("package")
    done = helm("package", ROOT / "charts/hortator", "--destination", folder)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("hortator-*.tgz")
    return file


class Cluster:
    """An in-memory API, and helm that speaks to it."""

    def __init__(self, api, front, command, package, folder):
        self.api, self.front, self.command, self.package = api, front, command, package
        self.environment = os.environ | {"KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)}
        named = {"cluster": {"server": front.url}, "user": {}, "context": {"cluster": "c", "user": "c"}}
        config = {f"{kind}s": [{"name": "c", kind: value}] for kind, value in named.items()}
        (folder / "kubeconfig").write_text(yaml.safe_dump(config | {"current-context": "c"}))

    async def helm(self, *arguments, namespace=HOME):
        """Exit code and all that helm said."""
        process = await asyncio.create_subprocess_exec(
            self.command, *map(str, arguments), "--namespace", namespace, env=self.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    async def does(self, *arguments, **options):
        code, said = await self.helm(*arguments, **options)
        assert code == 0, said

    def has(self, key):
        """The object, or None."""
        found = (one for one in self.api.find(key[1]) if one["metadata"]["name"] == key[3])
        return next((one for one in found if one["metadata"].get("namespace", "") == key[2]), None)

    def kinds(self, *kinds):
        """(kind, name) of all objects of these kinds."""
        return {(kind, one["metadata"]["name"]) for kind in kinds for one in self.api.find(kind)}

    async def end_test_pod(self, phase):
        """What a kubelet does with the pod of `helm test`; returns whether the service was there before."""
        async with asyncio.timeout(20):
            while (self.has(POD) or {}).get("status", {}).get("phase") != "Pending":
                await asyncio.sleep(0.01)
        was_first = self.has(SERVICE) is not None
        self.api.patch(POD, {"status": {"phase": phase}}, manager="kubelet", subresource="status")
        return was_first


@pytest.fixture
async def cluster(helm_command, package, tmp_path):
    api = ApiServer()
    for name in (HOME, "team-a", "elsewhere"):
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    async with HelmFront(api) as front:
        yield Cluster(api, front, helm_command, package, tmp_path)


async def test_a_release_is_installed_upgraded_rolled_back_and_uninstalled(cluster, render):
    await cluster.does("install", "hortator", cluster.package)
    wanted = render({"crds": {"enabled": True}})
    for one in wanted:
        if "helm.sh/hook" in one["metadata"].get("annotations", {}):
            continue
        metadata = one["metadata"]
        key = (one["apiVersion"], one["kind"], metadata.get("namespace", ""), metadata["name"])
        found = cluster.has(key)
        assert found, key
        assert metadata.get("labels", {}).items() <= found["metadata"]["labels"].items()
        assert found.get("rules") == one.get("rules")
    cluster_wide = cluster.kinds("ClusterRole", "ClusterRoleBinding")
    assert len(cluster_wide) == 6

    await cluster.does("upgrade", "hortator", cluster.package, "--set", "namespaces={team-a}")
    assert cluster.kinds("ClusterRole", "ClusterRoleBinding") == set()
    assert cluster.has(("rbac.authorization.k8s.io/v1", "Role", "team-a", "hortator-operator-services"))

    await cluster.does("rollback", "hortator", "1")
    assert cluster.kinds("ClusterRole", "ClusterRoleBinding") == cluster_wide
    assert not cluster.has(("rbac.authorization.k8s.io/v1", "Role", "team-a", "hortator-operator-services"))

    served = {
        "apiVersion": SERVICE[0],
        "kind": SERVICE[1],
        "metadata": {"name": "mine", "namespace": "team-a"},
        "spec": next(one for one in wanted if one["kind"] == "LLMService")["spec"],
    }
    cluster.api.create(served)
    await cluster.does("uninstall", "hortator")
    assert cluster.has(CRD)
    assert cluster.has((*SERVICE[:2], "team-a", "mine"))
    left = cluster.kinds(
        "Deployment", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"
    )
    assert left == set()

    await cluster.does("install", "hortator", cluster.package)  # the CRD that stayed is taken again


async def test_a_second_release_serves_other_namespaces_without_the_crd(cluster):
    await cluster.does("install", "hortator", cluster.package)
    code, said = await cluster.helm("install", "second", cluster.package, namespace="elsewhere")
    assert code != 0
    assert "invalid ownership metadata" in said
    narrow = ["--set", "crds.enabled=false", "--set", "namespaces={team-a}"]
    await cluster.does("install", "second", cluster.package, *narrow, namespace="elsewhere")
    await cluster.does("uninstall", "hortator")
    assert cluster.has(("apps/v1", "Deployment", "elsewhere", "hortator-operator"))


async def test_the_test_of_a_release_makes_a_service_first_and_leaves_its_pod_only_after_a_failure(cluster):
    await cluster.does("install", "hortator", cluster.package)
    (code, said), was_first = await asyncio.gather(
        cluster.helm("test", "hortator", "--timeout", "20s"), cluster.end_test_pod("Failed")
    )
    assert code != 0, said
    assert was_first
    assert cluster.has(POD)  # its log tells what the last answer was
    assert not cluster.has(SERVICE)  # helm ends what succeeded before a failure
    (code, said), was_first = await asyncio.gather(
        cluster.helm("test", "hortator", "--timeout", "20s"), cluster.end_test_pod("Succeeded")
    )
    assert code == 0, said
    assert was_first
    assert not cluster.has(SERVICE)
    assert not cluster.has(POD)


async def test_what_was_installed_without_helm_is_handed_over_and_the_crd_to_a_chart_of_its_own(cluster):
    for one in yaml.safe_load_all((ROOT / "manifests/install.yaml").read_text()):
        cluster.api.apply(one, manager="kubectl", force=False)
    code, said = await cluster.helm("install", "hortator", cluster.package)
    assert code != 0
    assert "invalid ownership metadata" in said
    await cluster.does("install", "hortator", cluster.package, "--take-ownership")
    before = cluster.has(CRD)["metadata"]["uid"]
    await cluster.does("upgrade", "hortator", cluster.package, "--set", "crds.enabled=false")
    await cluster.does("install", "hortator-crds", ROOT / "charts/hortator-crds", "--take-ownership")
    found = cluster.has(CRD)["metadata"]
    assert found["uid"] == before
    assert found["annotations"]["meta.helm.sh/release-name"] == "hortator-crds"
