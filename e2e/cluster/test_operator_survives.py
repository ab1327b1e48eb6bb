"""What goes wrong around the operator: stopped, cut off, lied to, not told. It goes on where the cluster stands."""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cluster.kube import Kube, Obj
from cluster.operators import SERVICES, Operators, operators_in
from cluster.proxy.faults import Fault
from cluster.test_operator import condition, is_ready, sample

GROUPS = {"simulated-p-0": 2, "simulated-p-1": 2, "simulated-d-0": 4}
LEASE_S, DEADLINE_S = 6.0, 4.0
EDIT_INTERVAL_S = 0.1


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

    def now(self, client: Kube | None = None) -> Obj:
        return (client or self.lab.client).get(*SERVICES, "simulated", self.namespace) or {}

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


@pytest.mark.safety
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


@pytest.mark.safety
def test_a_leader_that_cannot_renew_writes_nothing_after_its_term(lab, nodes, faulty_api, operators, service):
    """The API server takes every other write of it, and there is something to write at every moment."""
    proxy, _ = faulty_api
    times = {
        "lease_duration_s": str(LEASE_S),
        "lease_renew_deadline_s": str(DEADLINE_S),
        "lease_retry_s": "0.5",
    }
    first = operators.start(**times)
    service.create()
    service.when(is_ready)
    second = operators.start(kubeconfig=str(lab.kubeconfig), **times)  # it goes another way
    no_renewals = Fault(methods="PUT PATCH POST", path="/leases/", answer=500)
    slow_writes = Fault(methods="PUT PATCH POST DELETE", delay_s=0.5)  # one is under way at any moment
    with _edits(lab, service) as edited_at:
        time.sleep(1)
        with proxy.faults.failing(no_renewals, slow_writes):
            failing_since = time.monotonic()
            nodes.do(service.namespace, "simulated-p-0-0", "crash", exit_code=1)
            lab.processes.wait_until(lambda: not first.is_alive(), what="the first one ends", timeout_s=30)
            ended_at = time.monotonic()
            nodes.do(service.namespace, "simulated-d-0-1", "crash", exit_code=1)
            lab.processes.wait_until(
                lambda: second.metric("hortator_operator_leader") == 1.0,
                what="the second one leads",
                timeout_s=30,
            )
    assert first.process.child.returncode == 1

    through = [one for one in proxy.faults.passed(writes=True) if one.status in range(200, 300)]
    renewed_at = max(one.asked_at for one in through if "/leases/" in one.target)
    written = [one for one in through if "/leases/" not in one.target and one.asked_at > failing_since]
    assert renewed_at < failing_since
    assert max(one.asked_at for one in written) < renewed_at + DEADLINE_S
    assert max(one.at for one in written) < renewed_at + LEASE_S  # what was under way then has arrived
    assert ended_at < renewed_at + LEASE_S
    # it was not for want of work: there was some all the time, and it was done until the term ended
    assert max(one.asked_at for one in written) > renewed_at + DEADLINE_S - 1
    assert sum(at > renewed_at + DEADLINE_S for at in edited_at) > 1 / EDIT_INTERVAL_S

    service.when(
        lambda found: (
            is_ready(found)
            and service.epochs() == {"simulated-p-0": 2, "simulated-p-1": 1, "simulated-d-0": 2}
            and found["status"]["observedGeneration"] == found["metadata"]["generation"]
        )
    )
    taken_at = min(
        one.asked_at
        for one in lab.proxy.faults.passed(since=renewed_at, writes=True)
        if f"/namespaces/{service.namespace}/leases/" in one.target
    )
    assert taken_at >= renewed_at + LEASE_S


@contextlib.contextmanager
def _edits(lab, service: Service) -> Iterator[list[float]]:
    """People change the service all the time, within the block: two children and the status; when they did."""
    made: list[float] = []
    is_over = threading.Event()
    client = Kube.from_kubeconfig(lab.kubeconfig)

    def edit() -> None:
        for number in itertools.count():
            if is_over.wait(EDIT_INTERVAL_S):
                break
            change = {
                "gateway": {"replicas": 1 + number % 2},
                "scheduler": {"queue": {"timeout": f"{30 + number % 2}s"}},
            }
            client.patch(service.now(client), {"spec": change})
            made.append(time.monotonic())

    thread = threading.Thread(target=edit, name="edits")
    thread.start()
    try:
        yield made
    finally:
        is_over.set()
        thread.join()
        client.close()


@pytest.mark.parametrize(
    ("resync_s", "inactivity_s", "is_for_ever"),
    [
        pytest.param("5", "300", True, id="complete lists find what the watches do not tell"),
        pytest.param("600", "3", False, id="a watch that says nothing is begun anew"),
    ],
)
def test_silent_watches_are_noticed(
    faulty_api, namespace, nodes, operators, service, resync_s, inactivity_s, is_for_ever
):
    proxy, _ = faulty_api
    operators.start(resync_interval_s=resync_s, watch_inactivity_s=inactivity_s)
    service.create()
    service.when(is_ready)
    silent = Fault(watches=True, silent=True, arrived_before=None if is_for_ever else time.monotonic())
    with proxy.faults.failing(silent):
        nodes.do(namespace, "simulated-d-0-1", "crash", exit_code=1)
        service.when(lambda _: service.epochs()["simulated-d-0"] == 2, timeout_s=30)
        service.when(is_ready)
    assert service.epochs() == {"simulated-p-0": 1, "simulated-p-1": 1, "simulated-d-0": 2}


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
