"""The true node: real containers, and what a real kubelet says about failures (recorded for the scripted pods)."""

import json
from pathlib import Path

import pytest

from cluster.fakenodes.script import Script
from cluster.images import BUSYBOX
from cluster.kube import is_ready
from cluster.normal_status import normalized
from cluster.pods import headless_service

RECORDED = Path(__file__).parent / "recorded"
ON_TRUE_NODE = {"nodeSelector": {"lab.hortator.dev/true-node": "true"}}


def statuses(pod):
    return (pod or {}).get("status", {}).get("containerStatuses") or [{"state": {}, "lastState": {}}]


def is_waiting_for(reason):
    return lambda pod: statuses(pod)[0]["state"].get("waiting", {}).get("reason") == reason


def last_reason(reason):
    return lambda pod: statuses(pod)[0].get("lastState", {}).get("terminated", {}).get("reason") == reason


MEMORY = {"resources": {"requests": {"memory": "16Mi"}, "limits": {"memory": "16Mi"}}}
EAT = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
SECRET = {"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "t"}}}]}
# name -> (the pod on the true node, when its status is the one to record, the script of a pod that does the same)
CASES = {
    "ready": ({"command": ["sleep", "1000"]}, is_ready, {}),
    "err-image-pull": (
        {"image": "registry.invalid/none:1"},
        is_waiting_for("ErrImagePull"),
        {"waiting": "ErrImagePull"},
    ),
    "image-pull-back-off": (
        {"image": "registry.invalid/none:1"},
        is_waiting_for("ImagePullBackOff"),
        {"waiting": "ErrImagePull"},
    ),
    "invalid-image-name": (
        {"image": "Not A Name"},
        is_waiting_for("InvalidImageName"),
        {"waiting": "InvalidImageName"},
    ),
    "missing-secret": (
        {"command": ["sleep", "1000"], "container": SECRET},
        is_waiting_for("CreateContainerConfigError"),
        {"missing_secret": "hf-token"},
    ),
    "no-such-command": (
        {"command": ["/no/such"]},
        is_waiting_for("RunContainerError"),
        {"waiting": "RunContainerError"},
    ),
    "crash-loop": (
        {"command": ["sh", "-c", "exit 3"]},
        is_waiting_for("CrashLoopBackOff"),
        {"crash_after_s": 0, "exit_code": 3},
    ),
    "out-of-memory": (
        {"command": ["sh", "-c", f"sleep 1; {EAT}"], "container": MEMORY},
        lambda pod: last_reason("OOMKilled")(pod) and is_ready(pod),
        {"crash_after_s": 0.1, "oom": True, "crashes": 1},
    ),
    "job-failed": (
        {"command": ["sh", "-c", "exit 4"], "spec": {"restartPolicy": "Never"}},
        lambda p: p["status"].get("phase") == "Failed",
        {"crash_after_s": 0.1, "exit_code": 4},
    ),
    "job-succeeded": (
        {"command": ["sh", "-c", "exit 0"], "spec": {"restartPolicy": "Never"}},
        lambda p: p["status"].get("phase") == "Succeeded",
        {},
    ),
}


@pytest.fixture
def run(lab, true_node, make_pod, namespace):
    """`run(name, ...)`: a pod on the true node, once the condition holds."""

    def start(name, until=is_ready, *, spec=None, timeout_s=25, **options):
        options.setdefault("image", BUSYBOX)
        spec = {**ON_TRUE_NODE, "terminationGracePeriodSeconds": 1, **(spec or {})}
        lab.client.create(make_pod(name, spec=spec, **options))
        return lab.client.wait("v1", "Pod", name, namespace, until, timeout_s=timeout_s, poll_s=0.05)

    return start


@pytest.mark.parametrize("case", CASES)
def test_a_real_kubelet_still_writes_what_is_recorded(run, case, request):
    options, until, _ = CASES[case]
    status = run(case, until, **options)["status"]
    file = RECORDED / f"{case}.json"
    if request.config.getoption("--update-golden"):
        file.write_text(json.dumps(status, indent=2, sort_keys=True) + "\n")
    assert normalized(status) == normalized(json.loads(file.read_text()))


@pytest.mark.parametrize("case", CASES)
def test_a_scripted_pod_has_the_status_that_a_real_kubelet_wrote(lab, fake_nodes, make_pod, namespace, case):
    fake_nodes(1)
    options, until, script = CASES[case]
    assert Script.parse(script)
    spec = {**options.get("spec", {}), "nodeSelector": {"kubernetes.io/hostname": "node-0"}}
    pod = make_pod(case, script=script or None, **{"image": BUSYBOX, **options, "spec": spec})
    lab.client.create(pod)
    status = lab.client.wait("v1", "Pod", case, namespace, until, timeout_s=20, poll_s=0.02)["status"]
    assert normalized(status) == normalized(json.loads((RECORDED / f"{case}.json").read_text()))


def test_pods_find_each_other_by_name_and_through_a_service_address(lab, run, namespace):
    labels = {"app": "web"}
    lab.client.create(headless_service("web", namespace, labels, 8000))
    behind = headless_service("behind", namespace, labels, 80)
    behind["spec"]["ports"][0]["targetPort"] = 8000
    del behind["spec"]["clusterIP"]
    lab.client.create(behind)
    serve = ["sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 8000 -h /tmp"]
    run("web-0", command=serve, labels=labels, spec={"hostname": "web-0", "subdomain": "web"})
    urls = f"http://web-0.web.{namespace}.svc:8000/ http://behind/"
    fetch = f"for url in {urls}; do until wget -q -O - $url; do sleep 0.2; done; done"
    pod = run(
        "client",
        lambda p: p["status"].get("phase") == "Succeeded",
        command=["sh", "-c", fetch],
        spec={"restartPolicy": "Never"},
    )
    assert lab.kubectl("logs", "-n", namespace, pod["metadata"]["name"]).stdout == "hello\nhello\n"


def test_kubectl_executes_in_a_container(lab, run, namespace):
    run("shell", command=["sleep", "1000"])
    answer = lab.kubectl("exec", "-n", namespace, "shell", "--", "sh", "-c", "echo inside $HOSTNAME")
    assert answer.stdout == "inside shell\n"
