"""Faults between a client and the API server, and of the API server itself."""

import threading
import time

import pytest

from cluster.kube import ApiError, Kube, is_ready
from cluster.proxy.faults import Fault


@pytest.fixture
def client(faulty_api):
    client = Kube.from_kubeconfig(faulty_api[1])
    client.timeout_s = 5
    yield client
    client.close()


@pytest.fixture
def faults(faulty_api):
    return faulty_api[0].faults


def config_map(name, namespace, **data):
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


@pytest.mark.parametrize("status", [409, 429, 500])
def test_a_storm_refuses_writes_and_reads_still_work(client, faults, namespace, status):
    with faults.failing(Fault(methods="POST PATCH", answer=status, retry_after_s=1)):
        for _ in range(3):
            with pytest.raises(ApiError, match="made to fail by the lab") as refused:
                client.create(config_map("a", namespace))
            assert refused.value.status == status
        assert client.get("v1", "ConfigMap", "a", namespace) is None
    client.create(config_map("a", namespace))


def test_a_fault_of_one_client_is_not_seen_by_another(lab, client, faults, namespace):
    with faults.failing(Fault(answer=500)):
        lab.client.create(config_map("a", namespace))
        with pytest.raises(ApiError):
            client.get("v1", "ConfigMap", "a", namespace)


def test_a_fault_may_happen_a_number_of_times_or_to_a_share_of_the_requests(client, faults, namespace):
    client.path("v1", "ConfigMap")  # discovery, before it can fail
    with faults.failing(Fault(answer=500, times=2)):
        outcomes = [_is_refused(client, namespace) for _ in range(4)]
    assert outcomes == [True, True, False, False]
    with faults.failing(Fault(answer=500, share=0.5)):
        outcomes = [_is_refused(client, namespace) for _ in range(60)]
    assert 10 < sum(outcomes) < 50


def _is_refused(client, namespace):
    try:
        client.list("v1", "ConfigMap", namespace)
    except ApiError:
        return True
    return False


def test_a_lost_reply_hides_a_write_that_happened(lab, client, faults, namespace):
    client.path("v1", "ConfigMap")
    with faults.failing(Fault(methods="POST", lose="reply")), pytest.raises((OSError, Exception)) as lost:
        client.create(config_map("a", namespace))
    assert not isinstance(lost.value, ApiError)
    assert lab.client.get("v1", "ConfigMap", "a", namespace) is not None
    with faults.failing(Fault(methods="POST", lose="request")), pytest.raises((OSError, Exception)):
        client.create(config_map("b", namespace))
    assert lab.client.get("v1", "ConfigMap", "b", namespace) is None


def test_what_passed_is_on_record(client, faults, namespace):
    since = time.monotonic()
    client.create(config_map("a", namespace))
    client.list("v1", "ConfigMap", namespace)
    assert [entry.method for entry in faults.passed(since=since, writes=True)] == ["POST"]
    assert faults.passed(since=since, writes=True)[0].status == 201


class Watcher(threading.Thread):
    """Watches config maps through a connection of its own."""

    def __init__(self, kubeconfig, namespace):
        super().__init__(daemon=True)
        self.client = Kube.from_kubeconfig(kubeconfig)
        self.namespace = namespace
        self.lines = []
        self.error = None

    def run(self):
        import http.client

        connection = http.client.HTTPSConnection(
            self.client.host, self.client.port, context=self.client.context, timeout=20
        )
        path = f"/api/v1/namespaces/{self.namespace}/configmaps?watch=true"
        try:
            connection.request("GET", path, headers=dict(self.client.headers))
            response = connection.getresponse()
            while line := response.readline():
                self.lines.append(line)
        except (OSError, http.client.HTTPException) as error:
            self.error = error
        finally:
            connection.close()

    def saw(self, name, within_s):
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if any(f'"name":"{name}"'.encode() in line for line in self.lines):
                return True
            time.sleep(0.05)
        return False


def test_a_silent_watch_brings_nothing_and_is_closed_when_the_fault_ends(lab, faulty_api, faults, namespace):
    watcher = Watcher(faulty_api[1], namespace)
    watcher.start()
    lab.client.create(config_map("before", namespace))
    assert watcher.saw("before", 5)
    with faults.failing(Fault(watches=True, silent=True)):
        time.sleep(0.2)
        lab.client.create(config_map("during", namespace))
        assert not watcher.saw("during", 1)
        assert watcher.is_alive()
    watcher.join(5)
    assert not watcher.is_alive()
    assert not watcher.saw("during", 0.1)


def test_a_paused_api_server_answers_nobody_until_it_goes_on(lab, client, namespace):
    client.timeout_s = 1
    client.create(config_map("a", namespace))
    lab.pause_api()
    try:
        with pytest.raises(TimeoutError):
            client.create(config_map("b", namespace))
    finally:
        lab.resume_api()
    client.close()
    client.timeout_s = 10
    assert client.get("v1", "ConfigMap", "a", namespace) is not None


def test_a_killed_api_server_comes_back_with_everything_and_the_nodes_go_on(
    lab, client, fake_nodes, make_pod, namespace
):
    fake_nodes(1)
    lab.client.create(make_pod("first"))
    lab.client.wait("v1", "Pod", "first", namespace, is_ready)
    lab.kill_api()
    with pytest.raises((OSError, Exception)):
        client.get("v1", "Pod", "first", namespace)
    lab.start_api()
    # on a busy machine the node controller may have called the node lost meanwhile: the pod comes back with it
    lab.client.wait("v1", "Pod", "first", namespace, is_ready)
    lab.client.create(make_pod("second"))
    lab.client.wait("v1", "Pod", "second", namespace, is_ready, timeout_s=90)
