"""Real workers on several nodes: tokens flow, and planned removals cost no request.

Pods are processes in namespaces of their own (process mode), so the operator reaches their schedulers.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from cluster.kube import Obj
from cluster.operators import SERVICES, Operators, operators_in
from cluster.test_operator import condition, is_ready
from hortator.cli.client import Completion, GatewayClient, Sampling

pytestmark = pytest.mark.timeout(300)

NUM_STREAMS = 12


@pytest.fixture
def operators(lab, namespace) -> Iterator[Operators]:
    with operators_in(lab, namespace, namespaces=f'["{namespace}"]') as found:
        yield found


@pytest.fixture
def nodes(fake_nodes):
    return fake_nodes(4, mode="process")


def modelled(namespace: str) -> Obj:
    """Two EP groups of two pods each."""
    role = {
        "name": "Aggregated",
        "replicas": 2,
        "nodes": 2,
        "gpusPerNode": 4,
        "parallelism": {"attentionDP": 8, "expert": 8},
        "kvBlocks": 2000,
    }
    return {
        "apiVersion": SERVICES[0],
        "kind": SERVICES[1],
        "metadata": {"name": "modelled", "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://deepseek-ai/DeepSeek-V3", "name": "m"},
            "engine": {"backend": "Simulated", "simulated": {"timeScale": 0.2}},
            "topology": "Aggregated",
            "roles": [role],
            "scheduler": {"replicas": 1},
            "gateway": {"replicas": 1},
            "drain": {"timeout": "30s"},
        },
    }


class Traffic(threading.Thread):
    """Streams of requests, one after the other in each, until stopped."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.num_done = 0
        self.failures: list[str] = []
        self._is_stopping = threading.Event()

    def run(self) -> None:
        asyncio.run(self._run())

    def stop(self) -> None:
        self._is_stopping.set()
        self.join(60)
        assert not self.is_alive()

    async def _run(self) -> None:
        client = GatewayClient(self.address)
        async with asyncio.TaskGroup() as group:
            for number in range(NUM_STREAMS):
                group.create_task(self._stream(client, number))
        await client.aclose()

    async def _stream(self, client: GatewayClient, number: int) -> None:
        while not self._is_stopping.is_set():
            try:
                sampling = Sampling(max_tokens=40, ignore_eos=True)
                events = client.generate(f"stream {number} " * 20, model="m", sampling=sampling)
                async with aclosing(events):
                    ended = [event async for event in events if isinstance(event, Completion)]
                if not ended:
                    self.failures.append("no completion")
                self.num_done += 1
            except Exception as error:  # noqa: BLE001  # every failure is a finding
                self.failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.2)


def test_a_planned_removal_under_load_costs_no_request(lab, namespace, nodes, operators) -> None:
    operators.start()
    lab.client.create(modelled(namespace))

    def service_when(until, timeout_s: float = 120.0) -> Obj:
        try:
            return lab.client.wait(*SERVICES, "modelled", namespace, until, timeout_s=timeout_s)
        except TimeoutError:
            for pod in lab.client.list("v1", "Pod", namespace):
                name = pod["metadata"]["name"]
                print(name, nodes.log(namespace, name)[-1500:])
            raise

    service_when(is_ready)
    gateway = lab.client.list("v1", "Pod", namespace, labels="serving.hortator.dev/name=modelled")
    address = next(
        f"{pod['status']['podIP']}:8080" for pod in gateway if "-gateway-" in pod["metadata"]["name"]
    )
    traffic = Traffic(address)
    traffic.start()
    try:
        lab.processes.wait_until(lambda: traffic.num_done >= NUM_STREAMS, what="answers", timeout_s=60)
        path = lab.client.path(*SERVICES, namespace, "modelled")
        roles = modelled(namespace)["spec"]["roles"]
        roles[0]["replicas"] = 1
        merge = {"content_type": "application/merge-patch+json"}
        since = time.monotonic()
        lab.client.request("PATCH", path, {"spec": {"roles": roles}}, **merge)
        lab.client.wait(
            "apps/v1", "StatefulSet", "modelled-a-1", namespace, lambda found: found is None, timeout_s=90
        )
        drained_s = time.monotonic() - since
        before = traffic.num_done
        lab.processes.wait_until(lambda: traffic.num_done > before + 5, what="answers go on", timeout_s=60)
    finally:
        traffic.stop()
    found = service_when(is_ready)
    print({"requests": traffic.num_done, "drained_s": round(drained_s, 1), "failures": traffic.failures[:3]})
    assert traffic.failures == []
    assert drained_s < 30 + 15, "the drain ended by its time limit, not by its acknowledgement"
    assert [group["name"] for group in found["status"]["groups"]] == ["modelled-a-0"]
    assert condition(found)["reason"] == "AllGroupsReady"


def test_one_killed_member_is_one_restart_of_its_group(lab, namespace, nodes, operators) -> None:
    operators.start()
    lab.client.create(modelled(namespace))

    def service_when(until, timeout_s: float = 120.0) -> Obj:
        return lab.client.wait(*SERVICES, "modelled", namespace, until, timeout_s=timeout_s)

    service_when(is_ready)
    label = "serving.hortator.dev/epoch"

    def epochs() -> dict[str, str]:
        sets = lab.client.list("apps/v1", "StatefulSet", namespace)
        return {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"][label] for one in sets}

    nodes.signal(namespace, "modelled-a-0-1", "SIGKILL")
    service_when(lambda found: not is_ready(found))
    found = service_when(is_ready)
    assert epochs() == {"modelled-a-0": "2", "modelled-a-1": "1"}
    group = next(one for one in found["status"]["groups"] if one["name"] == "modelled-a-0")
    assert group["epoch"] == 2
    assert group["members"][0]["bootId"].startswith("2-")
    time.sleep(5)
    assert epochs() == {"modelled-a-0": "2", "modelled-a-1": "1"}
