"""charts/hortator and charts/hortator-crds, rendered by helm over the values that they can be told."""

import json
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from doubles.kubernetes import schemas
from hortator.api.crd import crd, scaler_crd
from hortator.api.files import load_llmservice
from hortator.operator import names
from hortator.operator.manifests import pods
from hortator.operator.manifests.gang import PROVIDERS
from hortator.operator.permissions import PERMISSIONS, Scope, rules
from hortator.operator.settings import OperatorSettings

ROOT = Path(__file__).resolve().parents[3]
CHARTS = ROOT / "charts"
NOT_OF_KUBERNETES = {
    "serving.hortator.dev/v1alpha1",  # loaded in the test of the hook
    "monitoring.coreos.com/v1",  # the Prometheus operator's
}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}
ANTI_AFFINITY = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "operator"}},
            }
        ]
    }
}
DIGEST = "sha256:" + "0a" * 32
MATRIX = {
    "defaults": {},
    "one namespace": {"namespaces": ["team-a"]},
    "two namespaces": {"namespaces": ["team-a", "team-b"], "replicas": 2},
    "gangs": {"gang": {"providers": ["Volcano", "Kueue"]}},
    "certificates": {"certificates": {"namespaces": ["prod", "staging"]}},
    "certificates of one namespace": {
        "namespaces": ["team-a"],
        "certificates": {"namespaces": ["team-a"]},
    },
    "no nodes": {"observeNodes": False, "aggregateRoles": False},
    "a registry": {
        "image": {"registry": "r.example/x", "tag": "9.9"},
        "imagePullSecrets": [{"name": "pull"}],
    },
    "a digest": {
        "image": {"name": "operator", "digest": DIGEST, "pullPolicy": "Always"},
        "serviceImages": {"registry": "mirror.example/y", "tag": "9.8"},
    },
    "a place": {
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": ANTI_AFFINITY,
        "priorityClassName": "system-cluster-critical",
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    },
    "an account": {"serviceAccount": {"create": False, "name": "mine"}},
    "annotations": {
        "serviceAccount": {"annotations": {"cloud.example/role": "x"}},
        "podAnnotations": {"a.example/b": "true"},
        "podLabels": {"team": "inference"},
    },
    "monitoring": {
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prom"}},
            "podMonitor": {"enabled": True, "interval": "10s", "labels": {"release": "prom"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "prom"}},
            "dashboards": {"enabled": True},
        },
        "networkPolicy": {"enabled": True},
    },
    "monitoring of one namespace": {
        "namespaces": ["team-a"],
        "monitoring": {"podMonitor": {"enabled": True}},
        "networkPolicy": {
            "enabled": True,
            "scrapers": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
            ],
            "apiServerPorts": [16443],
        },
    },
    "hardened": yaml.safe_load((ROOT / "manifests/hardened-values.yaml").read_text()),
    "words": {"logLevel": "DEBUG", "serviceLogLevel": "WARNING", "clusterDomain": "cluster.local"},
}
matrix = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)


def named(objects, kind):
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def hooks_in(objects):
    return [one for one in objects if "helm.sh/hook" in one["metadata"].get("annotations", {})]


def pod_of(objects):
    (deployment,) = named(objects, "Deployment").values()
    return deployment["spec"]["template"]["spec"]


def container_of(objects):
    (container,) = pod_of(objects)["containers"]
    return container


def environment_of(objects):
    return {one["name"]: one.get("value") for one in container_of(objects)["env"]}


def test_helm_finds_nothing_to_say_against_the_charts(helm):
    done = helm("lint", "--strict", "--quiet", CHARTS / "hortator", CHARTS / "hortator-crds")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_supported_kubernetes_knows_every_field(render):
    with_crd = {"crds": {"enabled": True}}
    rendered = [one for values in (*MATRIX.values(), with_crd) for one in render(values)]
    objects = schemas.unlike(one for one in rendered if one["apiVersion"] not in NOT_OF_KUBERNETES)
    assert len(objects) > len(MATRIX)
    assert {one["kind"] for one in objects} >= {"CustomResourceDefinition", "NetworkPolicy", "Deployment"}
    assert (schemas.VERSIONS[0], schemas.VERSIONS[-1]) == ("1.29", kubernetes_validate.latest_version()[:4])
    assert [
        said for version in schemas.VERSIONS for one in objects for said in schemas.problems(one, version)
    ] == []


@matrix
def test_pods_are_restricted_as_those_of_services_are(render, values):
    objects = render(values)
    test = named(hooks_in(objects), "Pod")["hortator-test"]["spec"]
    for pod in (pod_of(objects), test):
        (container,) = pod["containers"]
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": pods.USER_ID,
            "runAsGroup": pods.USER_ID,
            "fsGroup": pods.USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == container_of(objects)["image"]
    probes = pods.probes(startup_timeout_s=120)
    assert {name: container_of(objects)[name] for name in probes} == probes


@matrix
def test_the_test_of_a_release_asks_a_small_service_for_a_token(render, values, tmp_path):
    service, pod = sorted(hooks_in(render(values)), key=lambda one: one["kind"])
    weights = [int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in (service, pod)]
    assert weights == sorted(set(weights))
    namespace = [*values.get("namespaces", []), "hortator-system"][0]
    assert service["metadata"]["namespace"] == namespace
    assert service["spec"]["engine"].get("imagePullSecrets", []) == values.get("imagePullSecrets", [])
    (tmp_path / "service.yaml").write_text(yaml.safe_dump(service))
    name = load_llmservice(tmp_path / "service.yaml").metadata.name
    host = f"{names.gateway_name(name)}.{namespace}.svc"
    if "clusterDomain" in values:
        host += f".{values['clusterDomain']}"
    assert pod["spec"]["containers"][0]["command"][-1] == f"{host}:{names.PORT_GATEWAY}"
    assert pod["spec"]["automountServiceAccountToken"] is False


@matrix
def test_no_annotation_tells_a_scanner_to_look_away(render, values):
    annotations = [key for one in render(values) for key in one["metadata"].get("annotations", {})]
    assert {key for key in annotations if not key.startswith("helm.sh/")} <= values.get(
        "serviceAccount", {}
    ).get("annotations", {}).keys()


@matrix
def test_no_role_has_a_wildcard_and_all_bindings_name_the_operator(render, values):
    objects = render(values)
    account = values.get("serviceAccount", {}).get("name", names.OPERATOR_NAME)
    for one in objects:
        for rule in one.get("rules", ()):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        for subject in one.get("subjects", ()):
            assert subject == {"kind": "ServiceAccount", "name": account, "namespace": "hortator-system"}
    assert pod_of(objects)["serviceAccountName"] == account
    assert set(named(objects, "ServiceAccount")) == (set() if account == "mine" else {account})


@matrix
def test_the_operator_knows_every_variable_that_it_is_given(render, values):
    prefix = OperatorSettings.model_config["env_prefix"]
    given = {name.removeprefix(prefix).lower() for name in environment_of(render(values))} - {"home"}
    assert given <= OperatorSettings.model_fields.keys()


def test_roles_are_the_table_of_permissions(render):
    objects = render()
    served, nodes, certificates, own = (rules(scope) for scope in Scope)
    assert certificates not in [one.get("rules") for one in objects]
    roles = named(objects, "ClusterRole")
    assert roles["hortator-operator"]["rules"] == served
    assert roles["hortator-operator-nodes"]["rules"] == nodes
    assert named(objects, "Role")["hortator-operator"]["rules"] == own
    assert {one.scope for one in PERMISSIONS} == set(Scope)


def test_the_documented_permissions_are_those_of_the_rendered_roles(render):
    page = (ROOT / "docs/reference/permissions.md").read_text()
    documented = [line.split(" | ")[:3] for line in page.splitlines() if line.startswith("| `")]
    granted = [
        (rule["resources"][0], rule["apiGroups"][0] or "core", rule.get("resourceNames"), verb)
        for one in render({"gang": {"providers": list(PROVIDERS)}, "certificates": {"namespaces": ["prod"]}})
        if one["kind"] in {"ClusterRole", "Role"} and one["metadata"]["name"].startswith(names.OPERATOR_NAME)
        for rule in one["rules"]
        for verb in rule["verbs"]
    ]
    said = []
    for resource, group, verbs in documented:
        name, *only = resource.removeprefix("| ").replace("`", "").split()
        said += [(name, group, only or None, verb) for verb in verbs.split(", ")]
    assert sorted(map(str, granted)) == sorted(map(str, said))


@pytest.mark.parametrize("given", [{}, {"namespaces": ["team-a", "team-b"]}], ids=["cluster", "namespaced"])
def test_of_other_schedulers_only_those_that_are_named_may_be_used(render, given):
    objects = render(given | MATRIX["gangs"])
    kind = "Role" if given else "ClusterRole"
    (served, *others) = [
        one["rules"] for one in objects if one["kind"] == kind and rules(Scope.SERVED)[1] in one["rules"]
    ]
    assert served == [*rules(Scope.SERVED), *rules(Scope.SERVED, provider="Volcano")]
    assert others == [served] * (len(given.get("namespaces", [0])) - 1)
    (container,) = named(objects, "Deployment")["hortator-operator"]["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert json.loads(variables["HORTATOR_OPERATOR_GANG_PROVIDERS"]) == ["Volcano", "Kueue"]


@pytest.mark.parametrize("given", ["certificates", "certificates of one namespace"])
def test_secrets_are_read_in_the_namespaces_of_certificates_and_nowhere_else(render, given):
    readers = [
        (one["kind"], one["metadata"].get("namespace"), rule["verbs"])
        for one in render(MATRIX[given])
        for rule in one.get("rules", ())
        if "secrets" in rule["resources"] and set(rule["verbs"]) - {"create"}
    ]
    wanted = MATRIX[given]["certificates"]["namespaces"]
    assert readers == [("Role", namespace, ["get", "update"]) for namespace in wanted]
    bindings = {
        one["metadata"]["namespace"]
        for one in render(MATRIX[given])
        if one["kind"] == "RoleBinding" and one["roleRef"]["name"] == "hortator-operator-certificates"
    }
    assert bindings == set(wanted)


def test_named_namespaces_ask_for_nothing_of_the_cluster(render):
    objects = render(MATRIX["two namespaces"])
    assert not [one["metadata"]["name"] for one in objects if one["kind"] in CLUSTER_WIDE]
    roles = [
        (one["metadata"]["namespace"], one["metadata"]["name"], one["rules"])
        for one in objects
        if one["kind"] == "Role"
    ]
    served = rules(Scope.SERVED)
    assert sorted(roles, key=str) == sorted(
        [
            ("hortator-system", "hortator-operator", rules(Scope.OWN)),
            ("team-a", "hortator-operator-services", served),
            ("team-b", "hortator-operator-services", served),
        ],
        key=str,
    )
    bindings = {
        (one["metadata"]["namespace"], one["roleRef"]["name"])
        for one in objects
        if one["kind"] == "RoleBinding"
    }
    assert bindings == {(namespace, name) for namespace, name, _ in roles}
    assert environment_of(objects)["HORTATOR_OPERATOR_NAMESPACES"] == '["team-a","team-b"]'
    assert OperatorSettings(namespaces=("team-a", "team-b")).namespaces == ("team-a", "team-b")


def test_without_nodes_there_is_no_role_for_them_and_the_operator_knows(render):
    objects = render(MATRIX["no nodes"])
    assert set(named(objects, "ClusterRole")) == {"hortator-operator"}
    assert environment_of(objects)["HORTATOR_OPERATOR_OBSERVE_NODES"] == "false"


def test_an_image_has_a_tag_or_a_digest(render):
    version = yaml.safe_load((CHARTS / "hortator/Chart.yaml").read_text())["appVersion"]
    assert container_of(render())["image"] == f"hortator-operator:{version}"
    tagged = render(MATRIX["a registry"])
    assert container_of(tagged)["image"] == "r.example/x/hortator-operator:9.9"
    assert environment_of(tagged)["HORTATOR_OPERATOR_IMAGE_REGISTRY"] == "r.example/x"
    assert pod_of(tagged)["imagePullSecrets"] == [{"name": "pull"}]
    pinned = render(MATRIX["a digest"])
    assert container_of(pinned)["image"] == f"operator@{DIGEST}"
    assert container_of(pinned)["imagePullPolicy"] == "Always"
    assert environment_of(pinned)["HORTATOR_OPERATOR_IMAGE_REGISTRY"] == "mirror.example/y"
    assert environment_of(pinned)["HORTATOR_OPERATOR_IMAGE_TAG"] == "9.8"


def test_where_the_operator_runs_is_what_the_values_say(render):
    values = MATRIX["a place"]
    pod = pod_of(render(values))
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[name] == values[name]
    assert pod["containers"][0]["resources"] == values["resources"]
    assert not {"nodeSelector", "tolerations", "affinity", "priorityClassName"} & pod_of(render()).keys()


def test_annotations_and_labels_reach_their_objects_and_never_the_selector(render):
    objects = render(MATRIX["annotations"])
    assert named(objects, "ServiceAccount")["hortator-operator"]["metadata"]["annotations"] == {
        "cloud.example/role": "x"
    }
    (deployment,) = named(objects, "Deployment").values()
    metadata = deployment["spec"]["template"]["metadata"]
    assert metadata["annotations"] == {"a.example/b": "true"}
    assert metadata["labels"] == deployment["spec"]["selector"]["matchLabels"] | {"team": "inference"}


def test_words_reach_the_operator(render):
    given = environment_of(render(MATRIX["words"]))
    assert given["HORTATOR_OPERATOR_LOG_LEVEL"] == "DEBUG"
    assert given["HORTATOR_OPERATOR_CHILD_LOG_LEVEL"] == "WARNING"
    assert given["HORTATOR_OPERATOR_CLUSTER_DOMAIN"] == "cluster.local"


def test_the_crd_is_kept_and_is_the_one_of_the_api(render, helm):
    alone = list(yaml.safe_load_all(helm("template", "crds", CHARTS / "hortator-crds").stdout))
    included = named(render({"crds": {"enabled": True}}), "CustomResourceDefinition")
    assert included == named(alone, "CustomResourceDefinition")
    for wanted in (crd(), scaler_crd()):
        found = included.pop(wanted["metadata"]["name"])
        assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert found == wanted
    assert not included
    assert not named(render(), "CustomResourceDefinition")
    for name in ("crd.yaml", "crd-scaler.yaml"):
        assert (CHARTS / "hortator/files" / name).stat().st_size <= 200 * 1024


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"imagePullSecret": []}, "'imagePullSecret'"),
        ({"image": {"repository": "x"}}, "/image"),
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"image": {"registry": "r.example/"}}, "/image/registry"),
        ({"replicas": 0}, "/replicas"),
        ({"replicas": "1"}, "/replicas"),
        ({"namespaces": "team-a"}, "/namespaces"),
        ({"namespaces": ["Team_A"]}, "/namespaces/0"),
        ({"namespaces": ["a", "a"]}, "/namespaces"),
        ({"crds": {"enabled": "yes"}}, "/crds/enabled"),
        ({"imagePullSecrets": ["pull"]}, "/imagePullSecrets/0"),
        ({"resources": {"request": {}}}, "/resources"),
        ({"tolerations": [{"kee": "x"}]}, "/tolerations/0"),
        ({"affinity": {"nodeAffinity": {"required": []}}}, "/affinity/nodeAffinity"),
        ({"nodeSelector": {"disk": 1}}, "/nodeSelector/disk"),
        ({"serviceAccount": {"name": ""}}, "/serviceAccount/name"),
        ({"logLevel": "LOUD"}, "/logLevel"),
        ({"monitoring": {"podMonitor": {"interval": "often"}}}, "/monitoring/podMonitor/interval"),
        ({"monitoring": {"grafana": {}}}, "/monitoring"),
        ({"networkPolicy": {"apiServerPorts": []}}, "/networkPolicy/apiServerPorts"),
        ({"networkPolicy": {"scrapers": [{"namespace": "x"}]}}, "/networkPolicy/scrapers/0"),
        ({"clusterDomain": "-x"}, "/clusterDomain"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_the_schema_refuses_what_is_wrong_and_names_the_field(values, field):
    schema = json.loads((CHARTS / "hortator/values.schema.json").read_text())
    found = jsonschema.Draft202012Validator(schema).iter_errors(values)
    messages = [f"{'/'.join(['', *map(str, one.absolute_path)])} {one.message}" for one in found]
    assert len(messages) == 1
    assert field in messages[0]


def test_helm_says_every_wrong_field_at_once(helm):
    wrong = {
        "image": {"repository": "x"},
        "replicas": 0,
        "tolerations": [{"kee": "x"}],
        "imagePullSecret": [],
    }
    arguments = [
        part for name, value in wrong.items() for part in ("--set-json", f"{name}={json.dumps(value)}")
    ]
    done = helm("template", "hortator", CHARTS / "hortator", *arguments)
    assert done.returncode != 0
    for what in ("'/image'", "'repository'", "'/replicas'", "'/tolerations/0'", "'imagePullSecret'"):
        assert what in done.stderr, what


def test_no_object_of_the_schema_takes_unknown_names():
    schema = json.loads((CHARTS / "hortator/values.schema.json").read_text())

    def objects(node, path):
        if isinstance(node, dict):
            if node.get("type") == "object" or "properties" in node:
                yield path, node
            for name, value in node.items():
                yield from objects(value, f"{path}/{name}")
        if isinstance(node, list):
            for place, value in enumerate(node):
                yield from objects(value, f"{path}/{place}")

    open_ones = [path for path, node in objects(schema, "") if node.get("additionalProperties", True) is True]
    assert open_ones == []


def test_every_value_is_read_by_a_template():
    values = yaml.safe_load((CHARTS / "hortator/values.yaml").read_text())
    text = "".join(path.read_text() for path in (CHARTS / "hortator/templates").rglob("*") if path.is_file())

    def leaves(node):
        for name, value in node.items():
            yield name
            if isinstance(value, dict) and name not in {"resources", "labels"}:
                yield from leaves(value)

    assert [name for name in leaves(values) if not re.search(rf"\.{name}\b", text)] == []


def test_notes_say_what_is_served_and_what_stays(helm):
    arguments = ["--dry-run=client", "--namespace", "hortator-system"]
    done = helm("install", "hortator", CHARTS / "hortator", *arguments, "--set-json", 'namespaces=["team-a"]')
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "LLMServices in team-a" in notes
    assert "helm uninstall hortator --namespace hortator-system" in notes
