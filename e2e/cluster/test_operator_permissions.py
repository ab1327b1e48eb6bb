"""The operator with the roles that manifests/install.yaml gives it, and no others."""

import base64
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.kube import Obj
from cluster.operators import SCALERS, SERVICES, Operators, operators_in
from cluster.processes import wait_until
from cluster.test_helm import HELM
from cluster.test_operator import condition, is_ready, sample
from hortator.operator.permissions import PERMISSIONS, Scope

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "manifests" / "install.yaml"
NAMESPACE = "hortator-system"
APPLIED = {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
NOT_USED_HERE = {
    # a service with a cache
    *(("batch", "jobs", verb) for verb in ("get", "create", "delete")),
    *(("", "persistentvolumeclaims", verb) for verb in ("get", "create", "patch")),
    # an object is read again only after a conflict
    *(
        (group, resource, "get")
        for group, resource, verbs in [(one.group, one.resource, one.verbs) for one in PERMISSIONS]
        if "get" in verbs
    ),
    # a pod is deleted by name only when its node is lost or its epoch was left
    ("", "pods", "delete"),
}


def granted(*scopes: Scope) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of what the operator may do in these scopes."""
    permissions = [one for one in PERMISSIONS if one.scope in scopes and not one.provider]
    return {(one.group, one.resource, verb) for one in permissions for verb in one.verbs}


def is_in_force(lab, group: str, resource: str, verb: str, *, namespace: str = NAMESPACE) -> bool:
    """The API server learns of roles a moment after they were written."""
    resource, _, subresource = resource.partition("/")
    asked = {"group": group, "resource": resource, "subresource": subresource, "verb": verb}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{NAMESPACE}:hortator-operator",
            "resourceAttributes": asked | {"namespace": namespace},
        },
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return lab.client.request("POST", path, review)["status"]["allowed"]


@pytest.fixture(scope="module")
def installed(lab) -> Iterator[None]:
    """The roles, without the operator's Deployment."""
    objects = [obj for obj in yaml.safe_load_all(INSTALL.read_text()) if obj and obj["kind"] in APPLIED]
    for obj in objects:
        lab.client.apply(obj)
    wait_until(
        lambda: all(is_in_force(lab, *one) for one in granted(Scope.SERVED)), what="the roles to be in force"
    )
    yield
    for obj in reversed(objects):
        lab.client.delete(obj)


@pytest.fixture
def as_operator(lab, installed, faulty_api) -> Path:
    """A kubeconfig of the operator's service account, through the test's own proxy."""
    _, kubeconfig = faulty_api
    account = lab.client.wait(
        "v1",
        "ServiceAccount",
        "hortator-operator",
        NAMESPACE,
        lambda found: found and found.get("secrets"),
    )
    secret = lab.client.get("v1", "Secret", account["secrets"][0]["name"], NAMESPACE)
    document = yaml.safe_load(kubeconfig.read_text())
    document["users"][0]["user"] = {"token": base64.b64decode(secret["data"]["token"]).decode()}
    path = kubeconfig.with_name("as-operator.kubeconfig")
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def operators(lab, as_operator) -> Iterator[Operators]:
    with operators_in(lab, NAMESPACE, kubeconfig=as_operator) as found:
        yield found


def used(passed) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of requests."""
    found = set()
    for one in passed:
        path, _, query = one.target.partition("?")
        match = re.fullmatch(
            r"/(?:api/v1|apis/([^/]+)/[^/]+)(?:/namespaces/[^/]+)?/([a-z]+)(?:/([^/]+)(/status|/scale)?)?",
            path,
        )
        if match is None:
            continue
        group, resource, name, part = match[1] or "", match[2], match[3], match[4] or ""
        verb = VERBS.get(one.method) or ("watch" if "watch=true" in query else "get" if name else "list")
        found.add((group, resource + part, verb))
        if verb == "patch":  # an apply of what is not there needs both
            found.add((group, resource + part, "create"))
    return found


def test_the_installed_roles_are_what_is_needed(lab, namespace, fake_nodes, faulty_api, operators) -> None:
    proxy, _ = faulty_api
    nodes = fake_nodes(10)
    operators.start()

    def service_when(until, timeout_s: float = 60.0) -> Obj:
        return lab.client.wait(*SERVICES, "simulated", namespace, until, timeout_s=timeout_s)

    def patch(**spec: object) -> None:
        path = lab.client.path(*SERVICES, namespace, "simulated")
        lab.client.request("PATCH", path, {"spec": spec}, content_type="application/merge-patch+json")

    lab.client.create(sample(namespace, drain={"timeout": "1s"}))
    service_when(is_ready)
    nodes.do(namespace, "simulated-d-0-1", "crash", exit_code=1)
    service_when(lambda found: not is_ready(found))
    service_when(is_ready)
    scaler = {"apiVersion": SCALERS[0], "kind": SCALERS[1], "metadata": {"name": "d", "namespace": namespace}}
    lab.client.create(scaler | {"spec": {"serviceName": "simulated", "role": "Decode"}})
    lab.client.wait(
        *SCALERS, "d", namespace, lambda found: condition(found, "Active").get("status") == "True"
    )
    patch(autoscaling={"minReplicas": 2, "maxReplicas": 2})
    service_when(lambda found: found["status"].get("replicas") == found["spec"]["replicas"] == 2)
    patch(replicas=1)
    service_when(lambda found: condition(found, "Autoscaling").get("reason") == "ScaledByOthers")
    service_when(lambda found: found["status"].get("replicas") == 1 and is_ready(found))
    for policy in ({}, None):
        patch(security={"networkPolicy": policy})
        lab.client.wait(
            "networking.k8s.io/v1", "NetworkPolicy", "simulated-engine", namespace,
            lambda found, wanted=policy is not None: bool(found) is wanted,
            timeout_s=30,
        )  # fmt: skip
    patch(suspend=True)
    service_when(lambda found: condition(found, "Suspended").get("status") == "True")
    time.sleep(2)
    passed = proxy.faults.passed()
    # (a namespace that an earlier test left behind refuses all new objects with 403 while it goes)
    elsewhere = re.compile(rf"/namespaces/(?!{namespace}/|{NAMESPACE}/)")
    refused = [one for one in passed if one.status == 403 and not elsewhere.search(one.target)]
    assert [f"{one.method} {one.target}" for one in refused] == []
    of_the_manifest = granted(
        Scope.SERVED, Scope.NODES, Scope.OWN
    )  # which names no namespace for certificates
    assert of_the_manifest - used(passed) - NOT_USED_HERE == set()
    assert any(one.scope is Scope.NODES for one in PERMISSIONS)


@pytest.mark.skipif(not HELM, reason="helm is missing: run hack/install-helm")
@pytest.mark.safety
def test_certificates_are_made_with_the_role_of_one_namespace(lab, namespace, faulty_api, operators) -> None:
    """`certificates.namespaces` of the chart: without it the service says what is missing, with it no more is used."""
    proxy, _ = faulty_api
    operators.start()

    def service_when(until) -> Obj:
        return lab.client.wait(*SERVICES, "simulated", namespace, until, timeout_s=60)

    def patch_tls(**tls: object) -> None:
        path = lab.client.path(*SERVICES, namespace, "simulated")
        body = {"spec": {"security": {"tls": tls}}}
        lab.client.request("PATCH", path, body, content_type="application/merge-patch+json")

    def certificates(service: Obj | None) -> Obj:
        return condition(service, "CertificatesReady")

    def gateway() -> Obj:
        return lab.client.get("v1", "Secret", "simulated-gateway-tls", namespace)

    lab.client.create(sample(namespace, suspend=True, security={"tls": {"issuer": "Operator"}}))
    refused = service_when(lambda found: certificates(found).get("status") == "False")
    assert "certificates.namespaces" in certificates(refused)["message"]
    values = ("--set", f"certificates.namespaces={{{namespace}}}", "--namespace", NAMESPACE)
    command = [
        HELM,
        "template",
        "hortator",
        str(ROOT / "charts/hortator"),
        "--kube-version",
        "1.34.0",
        *values,
    ]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    roles = [
        obj for obj in yaml.safe_load_all(rendered) if obj and obj["metadata"].get("namespace") == namespace
    ]
    assert {obj["kind"] for obj in roles} == {"Role", "RoleBinding"}
    for obj in roles:
        lab.client.apply(obj)
    granted_here = granted(Scope.CERTIFICATES)
    wait_until(
        lambda: all(is_in_force(lab, *one, namespace=namespace) for one in granted_here),
        what="the role to be in force",
    )
    since = time.monotonic()
    service_when(lambda found: certificates(found).get("status") == "True")
    before = gateway()["data"]["tls.crt"]
    patch_tls(hosts=["llm.example.com"])
    wait_until(lambda: gateway()["data"]["tls.crt"] != before, what="a certificate for another host")

    def on_secrets() -> set[tuple[str, str, str]]:
        return {one for one in used(proxy.faults.passed(since=since)) if one[1] == "secrets"}

    wait_until(lambda: granted_here <= on_secrets(), what="the proxy to have seen the answers")
    assert on_secrets() == granted_here | {("", "secrets", "create")}
    passed = [one for one in proxy.faults.passed(since=since) if f"/namespaces/{namespace}/" in one.target]
    assert [one.target for one in passed if one.status == 403] == []
    assert not any(is_in_force(lab, *one, namespace="default") for one in granted_here)
