"""Who reaches whom: docs/concepts/network.md against the rendered NetworkPolicies, the chart's and the operator's.

Nothing here enforces a policy: `doubles.kubernetes.traffic` decides by the rules of the API. Every pair of ends is
asked for every port of the table and some that are not in it.
"""

import copy
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from doubles.kubernetes.traffic import End, Traffic, matches
from hortator.api.v1alpha1 import LLMService
from hortator.operator import names
from hortator.operator.desired import desired
from hortator.operator.options import Images, Options

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/concepts/network.md"
SAMPLE = ROOT / "manifests/samples/llmservice-h800-16.yaml"
OPTIONS = Options(images=Images.of_version("0.0.0"))
COMPONENTS = {"gateways": "gateway", "schedulers": "scheduler", "engines": "engine", "download": "cache"}
OTHER_PORTS = (
    (22, "TCP"),
    (80, "TCP"),
    (2222, "TCP"),
    (7073, "TCP"),
    (40000, "TCP"),
    (40000, "UDP"),
    (16443, "TCP"),
)
SERVICES = (("llm", "team-a"), ("other", "team-a"), ("llm", "team-b"))
"""The third is of the same name elsewhere."""
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A service, and how far it is open."""

    backend: str = "Simulated"
    uri: str = "hf://deepseek-ai/DeepSeek-V3"
    cache: bool = False
    clients: tuple[str, ...] = ()
    scrapers: tuple[str, ...] = ()
    download_ports: tuple[int, ...] = (443,)
    api_server_ports: tuple[int, ...] = (443, 6443)

    def service(self, name, namespace):
        document = yaml.safe_load(SAMPLE.read_text())
        document["metadata"] = {"name": name, "namespace": namespace}
        spec = document["spec"]
        spec["engine"] = {"backend": self.backend}
        spec["model"] = {"uri": self.uri, "revision": "main"}
        if self.cache:
            spec["model"]["cache"] = {"create": {"size": "1Ti"}}
        spec["security"] = {
            "networkPolicy": {
                "clientNamespaces": list(self.clients),
                "scraperNamespaces": list(self.scrapers),
                "downloadPorts": list(self.download_ports),
            }
        }
        return LLMService.model_validate(document, by_alias=True, by_name=False)

    def holds(self, when):
        """What the last column of the table says."""
        downloads = self.uri.startswith(("hf://", "oci://", "s3://")) and self.backend != "Simulated"
        return {
            "always": True,
            "Simulated, TorchMoE": self.backend != "TensorRTLLM",
            "TensorRTLLM": self.backend == "TensorRTLLM",
            "engines download": downloads and not self.cache,
            "a Job fills the cache": self.cache,
        }[when]

    def values(self):
        return {
            "networkPolicy": {
                "enabled": True,
                "scrapers": [PEER] if self.scrapers else [],
                "apiServerPorts": list(self.api_server_ports),
            }
        }


SCENES = {
    "simulated, open": Scene(),
    "simulated, closed": Scene(clients=("apps",), scrapers=("monitoring",), cache=True),
    "builtin": Scene(backend="TorchMoE", uri="builtin://moe-shakespeare", clients=("apps",)),
    "from a hub": Scene(backend="TensorRTLLM", clients=("apps",), scrapers=("monitoring",)),
    "from S3": Scene(backend="TensorRTLLM", uri="s3://bucket/model", scrapers=("monitoring",)),
    "from a cache": Scene(backend="TensorRTLLM", cache=True, clients=("apps",)),
    "from a claim": Scene(backend="TensorRTLLM", uri="pvc://weights/model", api_server_ports=(16443,)),
}
every_scene = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)


def templates(objects):
    """(component, namespace, labels) of everything that makes pods."""
    for one in objects:
        if one["kind"] in {"Deployment", "StatefulSet", "Job"}:
            labels = one["spec"]["template"]["metadata"]["labels"]
            yield labels[names.LABEL_COMPONENT], one["metadata"]["namespace"], labels


class World:
    """Every kind of end that matters, and the policies between them."""

    def __init__(self, scene, render):
        self.scene = scene
        chart = render(scene.values())
        services = [
            list(desired(scene.service(*where), uid="u", options=OPTIONS).objects()) for where in SERVICES
        ]
        self.objects = [*chart, *(one for objects in services for one in objects)]
        self.policies = [one for one in self.objects if one["kind"] == "NetworkPolicy"]
        self.traffic = Traffic(policies=tuple(self.policies))
        found = {}
        for objects in services:
            for component, namespace, labels in templates(objects):
                name = f"{namespace}/{labels[names.LABEL_SERVICE]}/{component}"
                role = labels.get(names.LABEL_ROLE)
                found[name, role] = End(name=name, namespace=namespace, labels=labels)
        self.pods = list(found.values())
        ((_, namespace, labels),) = templates(chart)
        self.operator = End(name="operator", namespace=namespace, labels=labels)
        self.strangers = [
            End(name="somebody's operator", namespace="apps-b", labels=labels),
            End(name="client", namespace="apps", labels={"app": "chat"}),
            End(name="prometheus", namespace="monitoring", labels={"app": "prometheus"}),
            End(name="neighbour", namespace="team-a", labels={"app": "neighbour"}),
            End(name="beside the operator", namespace=namespace, labels={"app": "x"}),
            End(name="dns", namespace="kube-system", labels={"k8s-app": "kube-dns"}),
            End(name="outside", namespace=None),
        ]
        self.ends = [*self.pods, self.operator, *self.strangers]
        self.fenced = {end for end in self.ends if self.traffic.is_fenced(end)}
        self.asked = all_ports()

    def ends_of(self, word):
        """Whom a word of the table means; of a service's components those of every service."""
        if word in COMPONENTS:
            return [end for end in self.pods if end.labels[names.LABEL_COMPONENT] == COMPONENTS[word]]
        namespaces = {"clients": self.scene.clients, "scrapers": self.scene.scrapers}
        match word:
            case "operator":
                return [self.operator]
            case "the world":
                return self.strangers
            case "clients" | "scrapers":
                allowed = namespaces[word]
                return [end for end in self.strangers if not allowed or end.namespace in allowed]
        raise ValueError(f"docs/concepts/network.md: who is {word!r}?")

    def ports_of(self, row):
        """Pairs of port and protocol; None for all of them."""
        if row["to"] == "the world" and row["from"] != "gateways, schedulers, engines, download, operator":
            own = self.scene.api_server_ports if row["from"] == "operator" else self.scene.download_ports
            return {(port, "TCP") for port in own}
        if row["port"] == "every":
            return None
        listed = (one.partition("/") for one in row["port"].split(", "))
        return {(int(port), protocol or "TCP") for port, _, protocol in listed}

    @functools.cached_property
    def documented(self):
        """(source, target) -> the ports that the table names, None for all."""
        found = {}
        for row in table():
            if not self.scene.holds(row["when"]):
                continue
            ports = self.ports_of(row)
            for source in (end for word in row["from"].split(", ") for end in self.ends_of(word)):
                for target in (end for word in row["to"].split(", ") for end in self.ends_of(word)):
                    if is_together(source, target):
                        known = found.get((source, target), set())
                        found[source, target] = None if None in (ports, known) else known | ports
        return found

    def pairs(self, fenced):
        """One end of each is in `fenced`: what goes on between others is not our business."""
        return [(one, two) for one in self.ends for two in self.ends if one in fenced or two in fenced]

    def differences(self, traffic, fenced):
        """What passes and is not in the table, and the other way round; one pair after the other."""
        for source, target in self.pairs(fenced):
            wanted = self.documented.get((source, target), set())
            passes = {one for one in self.asked if traffic.is_allowed(source, target, *one)}
            if passes != (self.asked if wanted is None else wanted):
                yield source.name, target.name, sorted(passes)


def is_together(source, target):
    """Pods of a service belong together, whoever else is in it."""
    services = [
        (end.namespace, end.labels[names.LABEL_SERVICE])
        for end in (source, target)
        if names.LABEL_SERVICE in end.labels
    ]
    return len(set(services)) <= 1


def table():
    """Its rows, by the heads of its columns."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def all_ports():
    listed = re.findall(r"(\d+)(?:/(UDP))?", " ".join(row["port"] for row in table()))
    return {(int(port), protocol or "TCP") for port, protocol in listed} | set(OTHER_PORTS)


@pytest.fixture(scope="module")
def world_of(render):
    """`world_of(scene)`: made once."""
    return functools.cache(lambda scene: World(scene, render))


@every_scene
def test_what_passes_is_what_the_table_says_and_nothing_else(scene, world_of):
    world = world_of(scene)
    assert list(world.differences(world.traffic, world.fenced)) == []
    assert {(source.name, target.name) for source, target in world.documented} > {
        ("team-a/llm/gateway", "team-a/llm/engine"),
        ("operator", "team-b/llm/scheduler"),
    }


@every_scene
def test_every_pod_of_a_service_and_the_operator_are_fenced_in_both_ways(scene, world_of):
    world = world_of(scene)
    assert world.fenced == {*world.pods, world.operator}
    assert all(one["spec"]["policyTypes"] == ["Ingress", "Egress"] for one in world.policies)
    assert len(world.policies) == 1 + len(SERVICES) * (4 if scene.cache else 3)


@every_scene
def test_the_table_misses_every_rule_that_is_taken_out(scene, world_of):
    world = world_of(scene)
    for index, policy in enumerate(world.policies):
        if policy["metadata"]["labels"].get(names.LABEL_SERVICE) == "other":
            continue  # the same again
        chosen = Traffic(policies=(policy,))
        fenced = {end for end in world.ends if chosen.is_fenced(end)}
        for rules in ("ingress", "egress"):
            for place in range(len(policy["spec"].get(rules, ()))):
                fewer = copy.deepcopy(policy)
                taken = fewer["spec"][rules].pop(place)
                rest = (*world.policies[:index], fewer, *world.policies[index + 1 :])
                assert any(world.differences(Traffic(policies=rest), fenced)), (
                    policy["metadata"]["name"],
                    taken,
                )


def test_every_row_of_the_table_holds_in_some_scene():
    for row in table():
        assert any(scene.holds(row["when"]) for scene in SCENES.values()), row


@every_scene
def test_every_address_that_a_pod_is_told_can_be_reached(scene, world_of):
    """By the Services: what a pod dials is in its settings."""
    world = world_of(scene)
    services = {
        f"{one['metadata']['name']}.{one['metadata']['namespace']}.svc": one["spec"]
        for one in world.objects
        if one["kind"] == "Service"
    }
    checked = set()
    for one in world.objects:
        if (
            one["kind"] not in {"Deployment", "StatefulSet"}
            or names.LABEL_SERVICE not in one["metadata"]["labels"]
        ):
            continue
        template = one["spec"]["template"]
        me = End(name="me", namespace=one["metadata"]["namespace"], labels=template["metadata"]["labels"])
        for entry in template["spec"]["containers"][0]["env"]:
            for host, port in re.findall(r"([a-z0-9.-]+\.svc):(\d+)", entry.get("value", "")):
                spec = services[host if host in services else host.partition(".")[2]]
                assert int(port) in {each["port"] for each in spec["ports"]}
                for target in world.pods:
                    if target.namespace == me.namespace and matches(
                        {"matchLabels": spec["selector"]}, target.labels
                    ):
                        assert world.traffic.is_allowed(me, target, int(port)), (me, target, port)
                        checked.add((me.labels[names.LABEL_COMPONENT], target.labels[names.LABEL_COMPONENT]))
    assert checked >= {("gateway", "scheduler"), ("engine", "scheduler"), ("engine", "engine")}


def test_the_operator_reaches_schedulers_of_the_namespaces_that_it_serves_only(render, world_of):
    world = world_of(SCENES["simulated, open"])
    narrow = render({"namespaces": ["team-a"], "networkPolicy": {"enabled": True}})
    traffic = Traffic(policies=tuple(one for one in narrow if one["kind"] == "NetworkPolicy"))
    schedulers = world.ends_of("schedulers")
    reached = {
        end.namespace for end in schedulers if traffic.is_allowed(world.operator, end, names.PORT_SCHEDULER)
    }
    assert reached == {"team-a"}
    assert {end.namespace for end in schedulers} == {"team-a", "team-b"}


class TestTheRulesOfTheApi:
    """What Kubernetes says of NetworkPolicies, on which the table above stands."""

    def policy(self, **spec):
        spec = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], **spec}
        return Traffic(policies=({"metadata": {"name": "p", "namespace": "a"}, "spec": spec},))

    db = End(name="db", namespace="a", labels={"app": "db"})
    web = End(name="web", namespace="a", labels={"app": "web"})
    far = End(name="far", namespace="b", labels={"app": "web"})
    outside = End(name="outside", namespace=None)

    def reaching(self, traffic, port=1, protocol="TCP"):
        return {
            end.name
            for end in (self.web, self.far, self.outside)
            if traffic.is_allowed(end, self.db, port, protocol)
        }

    def test_a_pod_that_no_policy_selects_is_open(self):
        assert self.reaching(self.policy(podSelector={"matchLabels": {"app": "x"}})) == {
            "web",
            "far",
            "outside",
        }

    def test_a_pod_that_a_policy_selects_is_closed_in_its_directions(self):
        traffic = self.policy()
        assert self.reaching(traffic) == set()
        assert traffic.is_allowed(self.db, self.web, 1)

    def test_a_pod_selector_alone_means_the_own_namespace(self):
        peer = {"podSelector": {"matchLabels": {"app": "web"}}}
        assert self.reaching(self.policy(ingress=[{"from": [peer]}])) == {"web"}

    def test_a_namespace_selector_alone_means_all_its_pods(self):
        peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}}
        assert self.reaching(self.policy(ingress=[{"from": [peer]}])) == {"far"}
        assert self.reaching(self.policy(ingress=[{"from": [{"namespaceSelector": {}}]}])) == {"web", "far"}

    def test_both_in_one_peer_must_hold_and_two_peers_add_up(self):
        near = {"podSelector": {"matchLabels": {"app": "x"}}}
        far = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}}
        assert self.reaching(self.policy(ingress=[{"from": [near | far]}])) == set()
        assert self.reaching(self.policy(ingress=[{"from": [near, far]}])) == {"far"}

    def test_a_rule_without_peers_lets_everybody_in_on_its_ports(self):
        traffic = self.policy(ingress=[{"ports": [{"port": 1, "protocol": "TCP"}]}])
        assert self.reaching(traffic) == {"web", "far", "outside"}
        assert self.reaching(traffic, port=2) == set()
        assert self.reaching(traffic, protocol="UDP") == set()

    def test_both_ends_must_agree(self):
        into, out = (self.policy(ingress=[{}]), self.policy(policyTypes=["Egress"], podSelector={}))
        assert self.reaching(Traffic(policies=(*into.policies, *out.policies))) == {"far", "outside"}

    def test_what_is_not_understood_is_an_error(self):
        for rule in ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}, {"ports": [{"port": 1, "endPort": 9}]}):
            with pytest.raises(ValueError, match="nobody used"):
                self.reaching(self.policy(ingress=[rule]))
