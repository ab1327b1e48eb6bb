"""Scripted pods: many nodes in one process, and statuses that say what a kubelet's would."""

import time

import pytest

from cluster.kube import is_ready


def status_of(pod):
    return pod["status"]["containerStatuses"][0]


def waiting_reason(pod):
    return (
        pod
        and pod.get("status", {}).get("containerStatuses")
        and status_of(pod)["state"].get("waiting", {}).get("reason")
    )


@pytest.fixture
def nodes(fake_nodes):
    return fake_nodes(2, labels=["rack=rack-{i//2}"])


@pytest.fixture
def run(lab, nodes, make_pod, namespace):
    """`run(script, until)`: a pod with the script, once `until(pod)` holds."""

    def start(script, until, name="pod", **options):
        lab.client.create(make_pod(name, script=script, **options))
        return lab.client.wait("v1", "Pod", name, namespace, until, timeout_s=15)

    return start


def test_a_node_has_its_gpus_and_labels_and_is_ready(lab, nodes):
    node = lab.client.wait("v1", "Node", "node-1", None, is_ready)
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["metadata"]["labels"]["rack"] == "rack-0"


def test_a_pod_is_ready_after_its_time_and_ends_on_deletion(lab, run, namespace):
    pod = run({"ready_after_s": 0.5}, is_ready)
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"].startswith("10.244.")
    lab.client.delete(pod)
    lab.client.wait("v1", "Pod", "pod", namespace, lambda found: found is None)


def test_the_scheduler_says_when_the_gpus_do_not_suffice(lab, run, namespace):
    wants = {"resources": {"requests": {"nvidia.com/gpu": "9"}, "limits": {"nvidia.com/gpu": "9"}}}
    pod = run({}, lambda p: p.get("status", {}).get("conditions"), container=wants)
    assert "2 Insufficient nvidia.com/gpu" in pod["status"]["conditions"][0]["message"]


def test_a_crash_restarts_at_once_and_the_next_one_backs_off(run):
    pod = run({"crash_after_s": 0.2, "exit_code": 3}, lambda p: waiting_reason(p) == "CrashLoopBackOff")
    status = status_of(pod)
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert status["lastState"]["terminated"]["reason"] == "Error"
    assert status["state"]["waiting"]["message"].startswith(
        "back-off 10s restarting failed container=main pod=pod_"
    )


def test_a_limited_number_of_crashes_is_followed_by_a_good_run(run):
    script = {"crash_after_s": 0.1, "crashes": 2, "back_off_s": 0.2, "ready_after_s": 0.3}
    assert status_of(run(script, is_ready))["restartCount"] == 2


def test_an_out_of_memory_kill_is_told_as_such(run):
    script = {"crash_after_s": 0.1, "oom": True, "crashes": 1}
    pod = run(script, lambda p: p.get("status", {}).get("containerStatuses") and status_of(p)["lastState"])
    assert status_of(pod)["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 137


def test_a_missing_secret_holds_the_container_until_it_is_there(lab, nodes, run, namespace):
    pod = run({"missing_secret": "hf-token"}, lambda p: waiting_reason(p) == "CreateContainerConfigError")
    assert status_of(pod)["state"]["waiting"]["message"] == 'secret "hf-token" not found'
    nodes.do(namespace, "pod", "go_on")
    lab.client.wait("v1", "Pod", "pod", namespace, is_ready)


def test_an_image_that_cannot_be_pulled_alternates_between_its_two_reasons(lab, run, namespace):
    run({"waiting": "ErrImagePull"}, lambda p: waiting_reason(p) == "ErrImagePull")
    lab.client.wait("v1", "Pod", "pod", namespace, lambda p: waiting_reason(p) == "ImagePullBackOff")
    lab.client.wait("v1", "Pod", "pod", namespace, lambda p: waiting_reason(p) == "ErrImagePull")
    events = lab.client.list("v1", "Event", namespace, fields="involvedObject.name=pod")
    assert {"Failed", "BackOff"} <= {event["reason"] for event in events}


def test_a_test_crashes_a_pod_and_makes_it_unready_when_it_wants(lab, nodes, run, namespace):
    run({}, is_ready)
    nodes.do(namespace, "pod", "unready")
    lab.client.wait("v1", "Pod", "pod", namespace, lambda p: not is_ready(p))
    nodes.do(namespace, "pod", "crash", exit_code=9)
    pod = lab.client.wait(
        "v1", "Pod", "pod", namespace, lambda p: is_ready(p) and status_of(p)["restartCount"] == 1
    )
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 9


def test_a_pod_without_annotation_follows_the_rule_for_its_name(lab, nodes, make_pod, namespace):
    nodes.script(namespace, "bad-*", waiting="CreateContainerError", message="no such device")
    for name in ("bad-0", "good-0"):
        lab.client.create(make_pod(name))
    bad = lab.client.wait(
        "v1", "Pod", "bad-0", namespace, lambda p: waiting_reason(p) == "CreateContainerError"
    )
    assert status_of(bad)["state"]["waiting"]["message"] == "no such device"
    lab.client.wait("v1", "Pod", "good-0", namespace, is_ready)


def test_a_pod_that_never_terminates_stays_until_it_is_forced(lab, run, namespace):
    pod = run({"never_terminates": True}, is_ready)
    lab.client.delete(pod, grace_s=1)
    time.sleep(2)
    assert lab.client.get("v1", "Pod", "pod", namespace) is not None
    lab.client.delete(pod, grace_s=0)
    lab.client.wait("v1", "Pod", "pod", namespace, lambda found: found is None)


def test_a_job_pod_succeeds(run):
    pod = run(
        None, lambda p: p.get("status", {}).get("phase") == "Succeeded", spec={"restartPolicy": "Never"}
    )
    assert status_of(pod)["state"]["terminated"]["reason"] == "Completed"


def test_a_lost_node_is_noticed_its_pod_is_unready_and_both_come_back(lab, nodes, run, namespace):
    pod = run({}, is_ready)
    node = pod["spec"]["nodeName"]
    nodes.lose_node(node)
    lab.client.wait("v1", "Node", node, None, lambda n: not is_ready(n), timeout_s=40)
    lab.client.wait("v1", "Pod", "pod", namespace, lambda p: not is_ready(p), timeout_s=20)
    lab.client.delete(pod)
    time.sleep(1)
    assert lab.client.get("v1", "Pod", "pod", namespace) is not None  # nobody there to end it
    nodes.return_node(node)
    lab.client.wait("v1", "Node", node, None, is_ready, timeout_s=40)
    lab.client.wait("v1", "Pod", "pod", namespace, lambda found: found is None)


def test_a_hundred_nodes_run_eight_hundred_pods(lab, fake_nodes, namespace):
    many = fake_nodes(100, name="many", prefix="many-")
    replicas = 800
    template = {
        "metadata": {"labels": {"app": "many"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "x"}]},
    }
    lab.client.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "many", "namespace": namespace},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "many"}},
                "template": template,
            },
        }
    )
    lab.client.wait(
        "apps/v1",
        "Deployment",
        "many",
        namespace,
        lambda found: found["status"].get("readyReplicas") == replicas,
        timeout_s=90,
        poll_s=0.5,
    )
    stats = many.stats()
    assert stats["num_pods"] == replicas
    assert stats["num_status_writes"] <= 3 * replicas
    assert stats["max_rss_mib"] < 200
    print(stats)
