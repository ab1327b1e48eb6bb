"""The operator against a real API server, with scripted nodes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cluster.kube import Obj
from cluster.operators import SERVICES, Operators, operators_in
from cluster.results import record

SAMPLE = Path(__file__).resolve().parents[2] / "manifests" / "samples" / "llmservice-simulated-64.yaml"
REST_S = 60
RESYNC_S = 20
"""So that several complete lists fall into the rest."""


@pytest.fixture
def operators(lab, namespace) -> Iterator[Operators]:
    settings = {"namespaces": f'["{namespace}"]', "resync_interval_s": str(RESYNC_S)}
    with operators_in(lab, namespace, **settings) as found:
        yield found


@pytest.fixture
def nodes(fake_nodes):
    return fake_nodes(10)


def sample(namespace: str, *, name: str = "simulated", **spec: object) -> Obj:
    obj = yaml.safe_load(SAMPLE.read_text())
    obj["metadata"] = {"name": name, "namespace": namespace}
    obj["spec"] |= spec
    return obj


def condition(service: Obj | None, kind: str = "Ready") -> Obj:
    conditions = ((service or {}).get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def is_ready(service: Obj | None) -> bool:
    return condition(service).get("status") == "True"


@pytest.fixture
def service_when(lab, namespace) -> Callable[..., Obj]:
    """`service_when(until)`: the LLMService once that holds."""

    def wait(until, *, name: str = "simulated", timeout_s: float = 60.0) -> Obj:
        try:
            return lab.client.wait(*SERVICES, name, namespace, until, timeout_s=timeout_s)
        except TimeoutError:
            for pod in lab.client.list("v1", "Pod", namespace):
                print(pod["metadata"]["name"], pod["spec"].get("nodeName"), pod["status"])
            raise

    return wait


def test_a_service_comes_up_and_is_left_alone(lab, namespace, nodes, operators, service_when):
    operators.start()
    lab.client.create(sample(namespace))
    service = service_when(is_ready)
    assert service["status"]["display"] == {"groups": "3/3", "ranks": "64/64", "updated": "3/3"}
    sets = lab.client.list("apps/v1", "StatefulSet", namespace)
    assert {one["metadata"]["name"]: one["status"]["readyReplicas"] for one in sets} == {
        "simulated-p-0": 2,
        "simulated-p-1": 2,
        "simulated-d-0": 4,
    }
    time.sleep(2)
    since = time.monotonic()
    time.sleep(REST_S)
    here = [one for one in lab.proxy.faults.passed(since=since) if f"/namespaces/{namespace}/" in one.target]
    writes = [one.target for one in here if one.method != "GET" and "/leases/" not in one.target]
    lists = [one for one in here if one.target.partition("?")[0].endswith("/statefulsets")]
    record(
        "at-rest",
        settings={"rest_s": REST_S, "resync_interval_s": RESYNC_S},
        targets={"writes": "0"},
        figures={"writes": len(writes), "complete_lists": len(lists)},
    )
    assert writes == []
    assert len(lists) >= REST_S // RESYNC_S - 1
