"""Two hundred services with four pods each: how long until all are up, how fast an edit arrives, how much memory.

Takes minutes, so it runs where HORTATOR_SCALE is set (its value: how many services).
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.kube import Obj
from cluster.operators import SERVICES, Operators, operators_in
from cluster.results import record
from cluster.test_operator import is_ready

NUM_SERVICES = int(os.environ.get("HORTATOR_SCALE") or "0")
NUM_EDITED = 20
MAX_RSS_MIB = 400
MAX_EDIT_S = 5.0
MAX_FIRST_S = 600.0
REST_S = 60

pytestmark = [
    pytest.mark.skipif(not NUM_SERVICES, reason="set HORTATOR_SCALE to a number of services"),
    pytest.mark.timeout(1500),
]


@pytest.fixture
def operators(lab, namespace) -> Iterator[Operators]:
    with operators_in(lab, namespace, namespaces=f'["{namespace}"]') as found:
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


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_two_hundred_services(lab, namespace, fake_nodes, operators) -> None:
    fake_nodes(max(4, NUM_SERVICES // 3))
    operator = operators.start()
    began_at = time.monotonic()
    for number in range(NUM_SERVICES):
        lab.client.create(small(namespace, number))
    created_s = time.monotonic() - began_at
    peak = 0.0
    while True:
        services = lab.client.list(*SERVICES, namespace)
        peak = max(peak, rss_mib(operator.process.pid))
        num_ready = sum(is_ready(service) for service in services)
        if num_ready == NUM_SERVICES:
            break
        assert time.monotonic() - began_at < MAX_FIRST_S, f"{num_ready} of {NUM_SERVICES} are ready"
        time.sleep(1)
    first_s = time.monotonic() - began_at

    edited: dict[str, float] = {}
    for number in range(min(NUM_EDITED, NUM_SERVICES)):
        name = f"s{number:03d}"
        edited[name] = time.monotonic()
        path = lab.client.path(*SERVICES, namespace, name)
        body = {"spec": {"gateway": {"replicas": 2}}}
        lab.client.request("PATCH", path, body, content_type="application/merge-patch+json")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        gateways = [lab.client.get("apps/v1", "Deployment", f"{name}-gateway", namespace) for name in edited]
        if all(one["spec"]["replicas"] == 2 and one["status"].get("readyReplicas") == 2 for one in gateways):
            break
        time.sleep(0.5)
    time.sleep(3)
    delays = []
    for name, at in edited.items():
        writes = [
            one.at
            for one in lab.proxy.faults.passed(since=at, writes=True)
            if f"/{name}-" in one.target and "llmservices" not in one.target
        ]
        assert writes, f"no child of {name} was written"
        delays.append(max(writes) - at)

    time.sleep(10)
    since = time.monotonic()
    time.sleep(REST_S)
    at_rest = [
        one.target
        for one in lab.proxy.faults.passed(since=since, writes=True)
        if f"/namespaces/{namespace}/" in one.target and "/leases/" not in one.target
    ]
    peak = max(peak, rss_mib(operator.process.pid))
    record(
        "scale",
        settings={"services": NUM_SERVICES, "pods_per_service": 4, "edited": NUM_EDITED, "at_rest_s": REST_S},
        targets={
            "all_ready_s": f"< {MAX_FIRST_S:g}",
            "edit_to_last_child_write_max_s": f"< {MAX_EDIT_S:g}",
            "peak_rss_mib": f"< {MAX_RSS_MIB}",
            "writes_at_rest": "0",
        },
        figures={
            "create_s": round(created_s, 1),
            "all_ready_s": round(first_s, 1),
            "edit_to_last_child_write_max_s": round(max(delays), 2),
            "edit_to_last_child_write_median_s": round(sorted(delays)[len(delays) // 2], 2),
            "peak_rss_mib": round(peak, 1),
            "writes_at_rest": len(at_rest),
        },
    )
    assert at_rest == []
    assert max(delays) < MAX_EDIT_S
    assert peak < MAX_RSS_MIB
