"""Process mode: a pod's containers are processes of this machine, in namespaces of the pod's own."""

import json
import os
import time
from pathlib import Path

import pytest

from cluster.kube import is_ready
from cluster.pods import headless_service
from cluster.processes import wait_until

# Nobody else on this machine sleeps so long.
CHILD, MAIN = (f"sleep {number + os.getpid()}" for number in (3_000_000, 4_000_000))
SERVE = ["python", "-m", "http.server", "8000", "--directory", "/usr/share/doc"]
PROBE = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1}


@pytest.fixture
def nodes(fake_nodes):
    return fake_nodes(2, mode="process")


@pytest.fixture
def ready(lab, nodes, make_pod, namespace):
    """`ready(name, ...)`: a pod, once it is ready."""

    def start(name, **options):
        lab.client.create(make_pod(name, **options))
        return lab.client.wait("v1", "Pod", name, namespace, is_ready, timeout_s=20)

    return start


def restarts(pod):
    return pod["status"]["containerStatuses"][0]["restartCount"]


def test_two_pods_on_the_same_port_reach_each_other_by_their_names(lab, nodes, ready, namespace):
    labels = {"app": "pair"}
    lab.client.create(headless_service("pair", namespace, labels, 8000))
    for name in ("pair-0", "pair-1"):
        spec = {"hostname": name, "subdomain": "pair"}
        ready(name, command=SERVE, container={"readinessProbe": PROBE}, labels=labels, spec=spec)
    script = f"""
import socket, urllib.request
for name in ("pair-0.pair.{namespace}.svc", "pair-1.pair.{namespace}.svc.cluster.local", "pair-1.pair"):
    assert urllib.request.urlopen(f"http://{{name}}:8000/", timeout=5).status == 200
print(len(socket.getaddrinfo("pair", 8000, type=socket.SOCK_STREAM)), socket.gethostname(), flush=True)
"""
    lab.client.create(_client(namespace, script))
    wait_until(lambda: nodes.log(namespace, "client").strip(), what="the client's answer")
    assert nodes.log(namespace, "client").split() == ["2", "client"]


def _client(namespace, script):
    container = {"name": "main", "image": "x", "command": ["python", "-c", script]}
    spec = {"restartPolicy": "Never", "containers": [container]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client", "namespace": namespace},
        "spec": spec,
    }


def test_the_environment_is_that_of_a_kubelet(lab, nodes, ready, namespace):
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": namespace}}
    lab.client.create({**secret, "stringData": {"HF_TOKEN": "s3cret"}})

    def field(path):
        return {"valueFrom": {"fieldRef": {"fieldPath": path}}}

    env = [
        {"name": "NAME", **field("metadata.name")},
        {"name": "ROLE", **field("metadata.labels['serving.hortator.dev/role']")},
        {"name": "IP", **field("status.podIP")},
        {"name": "NODE", **field("spec.nodeName")},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "HF_TOKEN"}}},
        {"name": "ADDRESS", "value": "$(NAME):7071"},
    ]
    command = ["sh", "-c", "env; echo from $(NAME); exec sleep 1000"]
    labels = {"serving.hortator.dev/role": "prefill"}
    pod = ready("env", command=command, container={"env": env}, labels=labels)
    wait_until(lambda: "from env" in nodes.log(namespace, "env"), what="the environment")
    found = dict(line.split("=", 1) for line in nodes.log(namespace, "env").splitlines() if "=" in line)
    assert found["ROLE"] == "prefill"
    assert found["IP"] == pod["status"]["podIP"]
    assert found["NODE"] == pod["spec"]["nodeName"]
    assert found["TOKEN"] == "s3cret"  # noqa: S105
    assert found["ADDRESS"] == "env:7071"
    assert "HORTATOR_LAB" not in found


def test_a_missing_secret_holds_the_pod_until_it_is_created(lab, nodes, make_pod, namespace):
    env = [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "late", "key": "t"}}}]
    lab.client.create(make_pod("late", command=["sleep", "1000"], container={"env": env}))

    def waits(pod):
        statuses = pod["status"].get("containerStatuses")
        return (
            statuses and statuses[0]["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError"
        )

    pod = lab.client.wait("v1", "Pod", "late", namespace, waits)
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"] == 'secret "late" not found'
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late", "namespace": namespace}}
    lab.client.create({**secret, "stringData": {"t": "x"}})
    lab.client.wait("v1", "Pod", "late", namespace, is_ready)


def test_a_killed_process_is_restarted_and_its_exit_code_told(lab, nodes, ready, namespace):
    ready("victim", command=["sleep", "1000"])
    nodes.signal(namespace, "victim", "SIGKILL")
    pod = lab.client.wait("v1", "Pod", "victim", namespace, lambda p: is_ready(p) and restarts(p) == 1)
    assert pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137


def test_a_child_is_killed_by_its_command_line_and_the_rest_goes_on(nodes, ready, namespace):
    ready("family", command=["sh", "-c", "sleep 1111 & sleep 2222 & wait %1; echo child ended $?; wait"])
    pid = nodes.pod(namespace, "family")["containers"]["main"]["pid"]
    nodes.signal(namespace, "family", "SIGKILL", match="^sleep 1111")
    wait_until(lambda: "child ended 137" in nodes.log(namespace, "family"), what="the parent to notice")
    assert nodes.pod(namespace, "family")["containers"]["main"]["pid"] == pid


def test_a_stopped_process_fails_its_probes_and_is_ready_again_when_it_goes_on(lab, nodes, ready, namespace):
    probe = {**PROBE, "failureThreshold": 1}
    pod = ready("stopped", command=SERVE, container={"readinessProbe": probe})
    nodes.signal(namespace, "stopped", "SIGSTOP")
    lab.client.wait("v1", "Pod", "stopped", namespace, lambda p: not is_ready(p))
    nodes.signal(namespace, "stopped", "SIGCONT")
    pod = lab.client.wait("v1", "Pod", "stopped", namespace, is_ready)
    assert restarts(pod) == 0


def test_liveness_restarts_only_after_the_startup_probe_has_passed(lab, nodes, ready, namespace, tmp_path):
    flag = tmp_path / "alive"
    check = {"exec": {"command": ["test", "-e", str(flag)]}, "periodSeconds": 1}
    probes = {
        "startupProbe": {**check, "failureThreshold": 30},
        "livenessProbe": {**check, "failureThreshold": 1},
    }
    script = f"echo started; sleep 2; touch {flag}; exec sleep 1000"
    pod = ready("alive", command=["sh", "-c", script], container=probes)
    assert restarts(pod) == 0
    flag.unlink()
    pod = lab.client.wait(
        "v1", "Pod", "alive", namespace, lambda p: is_ready(p) and restarts(p) == 1, timeout_s=20
    )
    assert nodes.log(namespace, "alive").count("started") == 2


def test_deletion_sends_sigterm_and_waits_for_the_process_to_finish(lab, nodes, ready, namespace, tmp_path):
    said = tmp_path / "said"
    script = f"trap 'echo draining > {said}; sleep 1; echo done >> {said}; exit 0' TERM; while :; do sleep 0.1; done"
    pod = ready("polite", command=["sh", "-c", script])
    started_at = time.monotonic()
    lab.client.delete(pod)
    lab.client.wait("v1", "Pod", "polite", namespace, lambda found: found is None)
    assert said.read_text() == "draining\ndone\n"
    assert 1 <= time.monotonic() - started_at < 5


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period_with_all_it_started(
    lab, nodes, ready, namespace
):
    pod = ready("rude", command=["sh", "-c", f"trap '' TERM; {CHILD} & while :; do sleep 1; done"])
    wait_until(lambda: _pids(CHILD), what="the child")
    lab.client.delete(pod, grace_s=1)
    lab.client.wait("v1", "Pod", "rude", namespace, lambda found: found is None)
    assert not _pids(CHILD)


def test_a_pod_talks_to_the_api_server_as_its_service_account(lab, nodes, ready, namespace):
    # what the official client's in-cluster configuration uses
    script = """
import json, os, ssl, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
headers = {"Authorization": "Bearer " + open(folder + "token").read()}
request = urllib.request.Request(f"{server}/api/v1/namespaces/default/pods", headers=headers)
context = ssl.create_default_context(cafile=folder + "ca.crt")
try:
    urllib.request.urlopen(request, context=context)
except urllib.error.HTTPError as error:
    print(json.loads(error.read())["message"], flush=True)
"""
    lab.client.create(_client(namespace, script))
    wait_until(lambda: nodes.log(namespace, "client").strip(), what="the answer")
    assert f"system:serviceaccount:{namespace}:default" in nodes.log(namespace, "client")
    assert not Path("/run/secrets/kubernetes.io").exists()


def test_kubectl_shows_the_log(lab, nodes, ready, namespace):
    ready("talks", command=["sh", "-c", "echo one; echo two; exec sleep 1000"])
    wait_until(lambda: "two" in nodes.log(namespace, "talks"), what="the log")
    assert lab.kubectl("logs", "-n", namespace, "talks", "--tail=1").stdout == "two\n"


def test_a_crashed_node_takes_its_processes_with_it_and_starts_them_again_when_it_returns(
    lab, nodes, ready, namespace
):
    pod = ready("there", command=MAIN.split())
    node = pod["spec"]["nodeName"]
    nodes.lose_node(node, how="crash")
    wait_until(lambda: not _pids(MAIN), what="the process to be gone")
    assert is_ready(lab.client.get("v1", "Pod", "there", namespace))  # nobody has said so
    nodes.return_node(node)
    lab.client.wait("v1", "Pod", "there", namespace, lambda p: is_ready(p) and restarts(p) == 1)
    assert _pids(MAIN)


def test_a_partitioned_pod_goes_on_and_cannot_be_reached(lab, nodes, ready, namespace):
    pod = ready("cut", command=SERVE, container={"readinessProbe": PROBE})
    pid = nodes.pod(namespace, "cut")["containers"]["main"]["pid"]
    address = pod["status"]["podIP"]
    assert _reaches(address)
    nodes.lose_node(pod["spec"]["nodeName"])
    assert not _reaches(address)
    os.kill(pid, 0)
    nodes.return_node(pod["spec"]["nodeName"])
    wait_until(lambda: _reaches(address), what="the pod to be reachable")


def _reaches(address):
    import socket

    try:
        socket.create_connection((address, 8000), 1).close()
    except OSError:
        return False
    return True


def _pids(words):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            if line == words:
                found.append(int(entry.name))
    return found


def test_the_pods_of_the_control_socket_are_those_of_the_api_server(lab, nodes, ready, namespace):
    pod = ready("seen", command=["sleep", "1000"])
    seen = nodes.pod(namespace, "seen")
    assert json.loads(json.dumps(seen))["node"] == pod["spec"]["nodeName"]
    assert seen["ip"] == pod["status"]["podIP"]
