"""The operator as cluster objects (manifests/install.yaml, rendered from charts/hortator), and what it may do."""

import tomllib
from pathlib import Path

import pytest
import yaml

from hortator.operator import permissions
from hortator.operator.permissions import PERMISSIONS, Scope
from hortator.operator.settings import OperatorSettings

ROOT = Path(__file__).resolve().parents[3]
RESOURCE_OF = {
    "StatefulSet": "statefulsets",
    "Deployment": "deployments",
    "ControllerRevision": "controllerrevisions",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "Secret": "secrets",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Job": "jobs",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
}
CREATED_ONCE = {"ControllerRevision", "Secret", "Job"}


@pytest.fixture(scope="module")
def objects():
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.load_all((ROOT / "manifests/install.yaml").read_text(), loader))


def one(objects, kind, name="hortator-operator"):
    (found,) = (obj for obj in objects if (obj["kind"], obj["metadata"]["name"]) == (kind, name))
    return found


def test_no_permission_is_a_wildcard():
    assert all("*" not in [one.group, one.resource, *one.verbs] for one in PERMISSIONS)


def test_no_permission_is_said_twice():
    found = list(permissions.granted())
    assert len(set(found)) == len(found)


def test_every_permission_has_a_reason():
    assert all(len(one.why) > 10 for one in PERMISSIONS)


def test_of_secrets_only_create_is_allowed_but_where_certificates_are_made():
    verbs = {one.scope: set(one.verbs) for one in PERMISSIONS if one.resource == "secrets"}
    assert verbs == {Scope.SERVED: {"create"}, Scope.CERTIFICATES: {"get", "update"}}


def test_the_committed_manifest_lets_nobody_read_secrets(objects):
    rules = [rule for one in objects for rule in one.get("rules", ()) if "secrets" in rule["resources"]]
    assert [rule["verbs"] for rule in rules] == [["create"]]


def test_an_llmservice_itself_is_only_read():
    verbs = {verb for _, resource, verb in permissions.granted() if resource == "llmservices"}
    assert verbs == {"get", "list", "watch"}


def test_every_object_of_a_service_may_be_made(sample, changed, wanted):
    everything = {"spec.model.cache": {"create": {"size": "1Ti"}}, "spec.security.networkPolicy": {}}
    service = changed(sample("h800-16"), everything)
    objects = list(wanted(service).objects())
    assert {obj["kind"] for obj in objects} == RESOURCE_OF.keys()
    for obj in objects:
        group = obj["apiVersion"].rpartition("/")[0]
        verbs = ["create"] if obj["kind"] in CREATED_ONCE else ["create", "patch"]
        for verb in verbs:
            assert permissions.is_allowed(group, RESOURCE_OF[obj["kind"]], verb), (obj["kind"], verb)


def test_roles_say_what_the_table_says(objects):
    for kind, name, scope in (
        ("ClusterRole", "hortator-operator", Scope.SERVED),
        ("ClusterRole", "hortator-operator-nodes", Scope.NODES),
        ("Role", "hortator-operator", Scope.OWN),
    ):
        role = one(objects, kind, name)
        wanted = [(p.group, p.resource, p.verbs) for p in PERMISSIONS if p.scope is scope and not p.provider]
        found = [(r["apiGroups"][0], r["resources"][0], tuple(r["verbs"])) for r in role["rules"]]
        assert found == wanted
        binding = one(objects, f"{kind}Binding", name)
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "hortator-operator", "namespace": "hortator-system"}
        ]


def test_the_lease_is_bound_to_its_name(objects):
    role = one(objects, "Role")
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in role["rules"]] == [
        (["create"], None),
        (["get", "update"], ["hortator-operator"]),
    ]


def test_editors_and_viewers_of_a_namespace_may_do_so_with_its_services(objects):
    view, edit = (one(objects, "ClusterRole", f"hortator-{name}") for name in ("view", "edit"))
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in edit["metadata"]["labels"]
    assert set(view["rules"][0]["verbs"]) == {"get", "list", "watch"}
    scale = {"serving.hortator.dev": {"llmservices/scale", "llmservicescalers/scale"}}
    for role, verbs in ((view, {"get"}), (edit, {"get", "update", "patch"})):
        found = {rule["resources"][0] for rule in role["rules"] if set(rule["verbs"]) == verbs}
        assert found >= scale[role["rules"][0]["apiGroups"][0]]


def test_one_operator_runs_at_a_time_as_nobody(objects):
    deployment = one(objects, "Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    pod = deployment["template"]["spec"]
    assert pod["serviceAccountName"] == "hortator-operator"
    assert pod["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container["image"] == f"hortator-operator:{version}"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin", "scheme": "HTTP"}


def test_the_operator_knows_the_variables_that_it_is_given(objects):
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    prefix = OperatorSettings.model_config["env_prefix"]
    given = {
        entry["name"].removeprefix(prefix).lower() for entry in container["env"] if entry["name"] != "HOME"
    }
    assert given == {"admin_port", "admin_host", "namespace"}
    assert given <= OperatorSettings.model_fields.keys()


def test_the_committed_manifest_installs_crd_roles_and_operator(objects):
    kinds = [obj["kind"] for obj in objects]
    assert kinds[:3] == ["CustomResourceDefinition", "CustomResourceDefinition", "Namespace"]
    assert kinds[-1] == "Deployment"


def test_the_manifest_belongs_to_no_release(objects):
    labels = {label for obj in objects for label in obj["metadata"].get("labels", {})}
    assert not labels & {"helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/instance"}
    assert not any("helm.sh/resource-policy" in obj["metadata"].get("annotations", {}) for obj in objects)


def test_the_namespace_lets_in_restricted_pods_only(objects):
    labels = one(objects, "Namespace", "hortator-system")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
