"""Scripts are read strictly, statuses follow from what happened; also node numbering and the proxy's faults."""

import pytest

from cluster.fakenodes.nodes import fleet
from cluster.fakenodes.script import Script
from cluster.fakenodes.status import Container, back_off_message, duration, phase_of, pod_status
from cluster.processes import LabError
from cluster.proxy.faults import Fault, Faults
from cluster.proxy.messages import Head, Request


def pod(policy="Always"):
    metadata = {"name": "p", "namespace": "ns", "uid": "u"}
    return {"metadata": metadata, "spec": {"restartPolicy": policy, "containers": []}}


def test_a_script_with_an_unknown_word_is_refused():
    with pytest.raises(LabError, match="unknown crash_afters"):
        Script.parse('{"crash_afters": 1}')
    with pytest.raises(LabError, match="waiting: 'Bad'"):
        Script.parse({"waiting": "Bad"})


def test_a_missing_secret_is_a_config_error():
    assert Script.parse({"missing_secret": "s"}).waiting == "CreateContainerConfigError"


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        ("Always", 1, "Running"),
        ("OnFailure", 1, "Running"),
        ("OnFailure", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("Never", 0, "Succeeded"),
    ],
)
def test_the_phase_of_a_pod_whose_container_ended(policy, code, phase):
    container = Container(name="c", image="i")
    assert phase_of(pod(policy), [container]) == "Pending"
    container.run("u")
    assert phase_of(pod(policy), [container]) == "Running"
    container.end(code)
    assert phase_of(pod(policy), [container]) == phase


def test_the_last_state_is_kept_while_a_crashed_container_waits_and_runs_again():
    container = Container(name="c", image="i")
    container.run("u")
    container.end(7)
    container.wait("CrashLoopBackOff", back_off_message("c", pod(), 20))
    assert container.last_state["terminated"]["exitCode"] == 7
    container.run("u")
    assert container.last_state["terminated"]["exitCode"] == 7
    assert container.is_running


def test_a_condition_keeps_its_time_while_its_status_stays():
    old = [{"type": "Initialized", "status": "True", "lastTransitionTime": "then"}]
    container = Container(name="c", image="i", ready=True)
    status = pod_status(pod(), [container], host_ip="h", pod_ip=None, start_time="t", previous=old)
    times = {condition["type"]: condition["lastTransitionTime"] for condition in status["conditions"]}
    assert times["Initialized"] == "then"
    assert times["Ready"] != "then"


@pytest.mark.parametrize(("seconds", "text"), [(10, "10s"), (80, "1m20s"), (300, "5m0s")])
def test_durations_are_written_as_go_does(seconds, text):
    assert duration(seconds) == text


def test_labels_of_a_fleet_are_numbered():
    nodes = fleet(count=5, prefix="n-", labels=["rack=r{i//4}", "zone=z"], capacity={}, first=3)
    assert [node.name for node in nodes] == ["n-3", "n-4", "n-5", "n-6", "n-7"]
    assert [node.labels["rack"] for node in nodes] == ["r0", "r1", "r1", "r1", "r1"]
    assert nodes[0].labels["zone"] == "z"


def request(method, target):
    return Request(method=method, target=target, head=Head(first=""), body=b"")


def test_the_newest_fault_that_matches_counts_and_ends_with_its_block():
    faults = Faults()
    read, write = request("GET", "/api/v1/pods?watch=true"), request("POST", "/api/v1/pods")
    with faults.failing(Fault(answer=500)), faults.failing(Fault(watches=True, answer=429, times=1)):
        assert faults.choose(write).answer == 500
        assert faults.choose(read).answer == 429
        assert faults.choose(read).answer == 500
    assert faults.choose(write) is None


def test_a_fault_is_about_methods_and_paths():
    fault = Fault(methods="PATCH PUT", path="/leases/hortator-operator$")
    assert fault.matches(request("PATCH", "/apis/x/leases/hortator-operator"))
    assert not fault.matches(request("GET", "/apis/x/leases/hortator-operator"))
    assert not fault.matches(request("PATCH", "/apis/x/leases/other"))
