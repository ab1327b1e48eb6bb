"""What goes wrong around the operator: stopped, cut off, lied to, not told. It goes on where the cluster stands."""

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from cluster.kube import Obj
from cluster.operators import SERVICES, Operators, operators_in
from cluster.proxy.faults import Fault
from cluster.test_operator import condition, is_ready, sample

GROUPS = {"simulated-p-0": 2, "simulated-p-1": 2, "simulated-d-0": 4}


@pytest.fixture
def operators(lab, namespace, faulty_api) -> Iterator[Operators]:
    """Behind a proxy of their own, so that faults hit nobody else."""
    _, kubeconfig = faulty_api
    settings = {"namespaces": f'["{namespace}"]', "resync_interval_s": "5"}
    with operators_in(lab, namespace, kubeconfig=kubeconfig, **settings) as found:
        yield found


@pytest.fixture
def nodes(fake_nodes):
    return fake_nodes(10)


class Service:
    """The LLMService of a test, and what must be true of it."""

    def __init__(self, lab, namespace: str) -> None:
        self.lab, self.namespace = lab, namespace

    def create(self, **spec: object) -> None:
        self.lab.client.create(sample(self.namespace, **spec))

    def patch(self, **spec: object) -> None:
        path = self.lab.client.path(*SERVICES, self.namespace, "simulated")
        self.lab.client.request("PATCH", path, {"spec": spec}, content_type="application/merge-patch+json")

    def now(self) -> Obj:
        return self.lab.client.get(*SERVICES, "simulated", self.namespace) or {}

    def when(self, until: Callable[[Obj | None], object], *, timeout_s: float = 60.0) -> Obj:
        try:
            found = self.lab.client.wait(*SERVICES, "simulated", self.namespace, until, timeout_s=timeout_s)
        except TimeoutError:
            for pod in self.pods():
                print(pod["metadata"]["name"], pod["spec"].get("nodeName"), pod.get("status"))
            raise
        assert found is not None
        return found

    def pods(self) -> list[Obj]:
        return self.lab.client.list("v1", "Pod", self.namespace)

    def sets(self) -> dict[str, Obj]:
        found = self.lab.client.list("apps/v1", "StatefulSet", self.namespace)
        return {one["metadata"]["name"]: one for one in found}

    def epochs(self) -> dict[str, int]:
        label = "serving.hortator.dev/epoch"
        return {
            name: int(one["spec"]["template"]["metadata"]["labels"][label])
            for name, one in self.sets().items()
        }


@pytest.fixture
def service(lab, namespace) -> Service:
    return Service(lab, namespace)


def test_a_leader_that_was_stopped_writes_nothing_when_it_wakes_up(
    lab, namespace, nodes, faulty_api, operators, service
):
    proxy, _ = faulty_api
    first = operators.start()
    service.create()
    service.when(is_ready)
    second = operators.start(kubeconfig=str(lab.kubeconfig))  # it goes another way
    first.process.send(signal.SIGSTOP)
    lab.processes.wait_until(
        lambda: second.metric("hortator_operator_leader") == 1.0, what="the second one leads", timeout_s=30
    )
    nodes.do(namespace, "simulated-p-0-0", "crash", exit_code=1)
    service.when(lambda _: service.epochs()["simulated-p-0"] == 2)
    woken_at = time.monotonic()
    first.process.send(signal.SIGCONT)
    lab.processes.wait_until(lambda: not first.is_alive(), what="the first one ends", timeout_s=30)
    assert first.process.child.returncode == 1
    service.when(is_ready)
    writes = proxy.faults.passed(since=woken_at, writes=True)
    assert [one.target for one in writes if "/leases/" not in one.target] == []
    assert service.epochs() == {"simulated-p-0": 2, "simulated-p-1": 1, "simulated-d-0": 1}


def test_storms_of_errors_are_ridden_out(faulty_api, nodes, operators, service):
    proxy, _ = faulty_api
    operators.start()
    storm = [
        Fault(share=0.25, answer=429, retry_after_s=1, watches=False),
        Fault(share=0.3, answer=500, watches=False),
        Fault(share=0.3, methods="PATCH POST DELETE", answer=409),
        Fault(share=0.2, methods="PATCH POST DELETE", lose="reply"),
        Fault(share=0.5, answer=500, watches=True),
    ]
    with proxy.faults.failing(*storm):
        service.create()
        time.sleep(12)
    service.when(is_ready)
    assert service.epochs() == dict.fromkeys(GROUPS, 1)


def test_silent_watches_are_noticed(faulty_api, namespace, nodes, operators, service):
    proxy, _ = faulty_api
    operators.start(watch_inactivity_s="300")
    service.create()
    service.when(is_ready)
    with proxy.faults.failing(Fault(watches=True, silent=True)):
        nodes.do(namespace, "simulated-d-0-1", "crash", exit_code=1)
        service.when(lambda _: service.epochs()["simulated-d-0"] == 2, timeout_s=30)
        service.when(is_ready)
    assert service.epochs()["simulated-d-0"] == 2


def test_an_api_server_that_answers_nothing_for_30_s_changes_nothing(lab, nodes, operators, service):
    operator = operators.start()
    service.create()
    service.when(is_ready)
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in service.pods()}
    lab.pause_api()
    try:
        time.sleep(30)
        assert not operator.is_alive()  # it could not renew: it stopped writing and ended
    finally:
        lab.resume_api()
    operators.start()
    service.when(is_ready)
    time.sleep(3)
    assert {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in service.pods()} == before
    assert condition(service.now())["reason"] == "AllGroupsReady"


def test_an_api_server_that_died_and_came_back_is_found_again(lab, nodes, operators, service):
    operator = operators.start()
    service.create(drain={"timeout": "1s"})
    service.when(is_ready)
    lab.kill_api()
    lab.start_api()
    time.sleep(5)
    if not operator.is_alive():  # it could not renew in time
        operators.start()
    service.when(is_ready)
    service.patch(replicas=0)
    service.when(lambda found: condition(found).get("reason") == "ScaledToZero", timeout_s=40)
