"""Many services with four pods each: how long until all are up, how fast an edit arrives, how much memory.

HORTATOR_SCALE says how many (`make soak`: 200); few, and a short rest, unless it is set. The operator watches the
whole cluster, Nodes too, as it is installed.
"""

import os
import time
from collections.abc import Iterator, Sequence

import pytest

from cluster.kube import Obj
from cluster.operators import SERVICES, Operators, operators_in
from cluster.processes import peak_rss_mib, wait_until
from cluster.proxy.faults import Passed
from cluster.results import record
from cluster.scene import is_ready as is_ready_as_specified
from cluster.test_operator import is_ready

NUM_SERVICES = int(os.environ.get("HORTATOR_SCALE") or "20")
NUM_EDITED = min(20, NUM_SERVICES)
MAX_RSS_MIB = 400
MAX_EDIT_S = 5.0
GUARD = 3
"""On a busy machine, with few services, the time of an edit is only guarded, at so many times its limit."""
MAX_FIRST_S = 600.0
REST_S = 60 if NUM_SERVICES >= 200 else 10
EDITS: list[Obj] = [
    {"gateway": {"replicas": 2}},
    {"scheduler": {"policy": "immediate-least-delay"}},
    {"gateway": {"replicas": 1, "resources": {"cpu": "300m"}}},
    {"replicas": 2},
]
"""What changes in the edited services, in turn: Deployments with and without new pods, one more group."""

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def operators(lab, namespace) -> Iterator[Operators]:
    with operators_in(lab, namespace) as found:
        yield found


def small(namespace: str, number: int) -> Obj:
    """One EP group of two pods, a scheduler and a gateway."""
    role = {
        "name": "Aggregated",
        "nodes": 2,
        "gpusPerNode": 1,
        "parallelism": {"attentionDP": 2, "expert": 2},
    }
    return {
        "apiVersion": SERVICES[0],
        "kind": SERVICES[1],
        "metadata": {"name": f"s{number:03d}", "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://deepseek-ai/DeepSeek-V3", "name": "deepseek-v3"},
            "engine": {"backend": "Simulated"},
            "topology": "Aggregated",
            "roles": [role],
            "scheduler": {"replicas": 1},
            "gateway": {"replicas": 1},
        },
    }


def last_of_the_edit(passed: Sequence[Passed], name: str, since: float) -> float:
    """When the last child was written because of an edit.

    A new StatefulSet is created and admitted; what is written to it later, and to its pods, follows their start.
    """
    writes = [one for one in passed if one.at >= since and f"/{name}-" in one.target]
    writes = [one for one in writes if "/llmservices/" not in one.target and "/pods/" not in one.target]
    of_sets = [one for one in writes if "/statefulsets/" in one.target]
    assert writes, f"no child of {name} was written"
    return max(one.at for one in writes if one not in of_sets[2:])


def test_many_services(lab, namespace, fake_nodes, operators) -> None:
    fake_nodes(max(4, NUM_SERVICES // 3))
    operator = operators.start()
    began_at = time.monotonic()
    for number in range(NUM_SERVICES):
        lab.client.create(small(namespace, number))
    created_s = time.monotonic() - began_at
    while True:
        services = lab.client.list(*SERVICES, namespace)
        num_ready = sum(is_ready(service) for service in services)
        if num_ready == NUM_SERVICES:
            break
        assert time.monotonic() - began_at < MAX_FIRST_S, f"{num_ready} of {NUM_SERVICES} are ready"
        time.sleep(1)
    first_s = time.monotonic() - began_at

    edited: dict[str, float] = {}
    for number in range(NUM_EDITED):
        name = f"s{number:03d}"
        edited[name] = time.monotonic()
        path = lab.client.path(*SERVICES, namespace, name)
        body = {"spec": EDITS[number % len(EDITS)]}
        lab.client.request("PATCH", path, body, content_type="application/merge-patch+json")

    def are_through() -> bool:
        services = [lab.client.get(*SERVICES, name, namespace) for name in edited]
        return all(is_ready_as_specified(service) for service in services)

    wait_until(are_through, what="the edited services are ready", timeout_s=60)
    time.sleep(3)
    passed = lab.proxy.faults.passed(since=began_at, writes=True)
    delays_s = sorted(last_of_the_edit(passed, name, at) - at for name, at in edited.items())

    time.sleep(10)
    since = time.monotonic()
    time.sleep(REST_S)
    at_rest = [
        one.target
        for one in lab.proxy.faults.passed(since=since, writes=True)
        if f"/namespaces/{namespace}/" in one.target and "/leases/" not in one.target
    ]
    peak = peak_rss_mib(operator.process.pid)
    record(
        "scale",
        settings={
            "services": NUM_SERVICES,
            "pods_per_service": 4,
            "edited": NUM_EDITED,
            "edits": EDITS,
            "at_rest_s": REST_S,
        },
        targets={
            "all_ready_s": f"< {MAX_FIRST_S:g}",
            "edit_to_last_child_write_max_s": f"< {MAX_EDIT_S:g}",
            "peak_rss_mib": f"< {MAX_RSS_MIB}",
            "writes_at_rest": "0",
        },
        figures={
            "create_s": round(created_s, 1),
            "all_ready_s": round(first_s, 1),
            "edit_to_last_child_write_max_s": round(delays_s[-1], 2),
            "edit_to_last_child_write_median_s": round(delays_s[len(delays_s) // 2], 2),
            "peak_rss_mib": round(peak, 1),
            "writes_at_rest": len(at_rest),
        },
    )
    assert at_rest == []
    assert delays_s[-1] < MAX_EDIT_S * (1 if NUM_SERVICES >= 200 else GUARD)
    assert peak < MAX_RSS_MIB
