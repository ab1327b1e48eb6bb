"""A whole service on a true node: operator, scheduler, gateway and workers are containers, tokens are real."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from live_stack import HORTATOR, tokens_in

from cluster import launch_image
from cluster.controlplane import kubectl
from cluster.kube import ApiError, Obj, documents
from cluster.processes import wait_until
from cluster.recorder import Recorder, recording
from cluster.scene import children_in
from cluster.truenode import SECOND, TrueNode, running_true_node
from hortator.client import Delta, GatewayClient, Sampling

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("serving.hortator.dev/v1alpha1", "LLMService")
INSTALL = ROOT / "manifests" / "install.yaml"
OPERATOR = "hortator-system"
BUILD_TIMEOUT_S = 300
SOON_S = 5.0
"""Within this time of the API first showing the evidence the status tells the reason."""

pytestmark = pytest.mark.timeout(900)

REAL: Obj = {
    "model": {"uri": "builtin://moe-shakespeare", "name": "moe-shakespeare"},
    "engine": {"backend": "TorchMoE"},
    "topology": "Aggregated",
    "roles": [
        {
            "name": "Aggregated",
            "nodes": 1,
            "gpusPerNode": 2,
            "parallelism": {"attentionDP": 2, "expert": 2},
            "chunkBudgetTokens": 256,
            "maxBatchSize": 16,
            "tokensPerBlock": 16,
            "kvBlocks": 512,
            "maxSequenceTokens": 1024,
        }
    ],
    "scheduler": {"replicas": 1},
    "gateway": {"replicas": 1},
    "drain": {"timeout": "10s"},
}
MODELLED: Obj = REAL | {
    "model": {"uri": "hf://org/model", "revision": "main", "name": "m"},
    "engine": {"backend": "Simulated"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """What `hack/images` makes of this checkout."""
    folder = tmp_path_factory.mktemp("images")
    command = [sys.executable, ROOT / "hack/images", "--output", folder]
    subprocess.run(command, check=True, timeout=BUILD_TIMEOUT_S)
    return sorted(folder.glob("*.tar"))


@pytest.fixture(scope="module")
def operator(lab, true_node, images) -> Iterator[str]:
    """The operator as a user installs it; its namespace."""
    for tar in images:
        true_node.import_image(tar)
    lab.kubectl("apply", "--server-side", "-f", str(INSTALL))
    lab.client.wait("apps/v1", "Deployment", "hortator-operator", OPERATOR, has_a_ready_replica, timeout_s=90)
    yield OPERATOR
    lab.kubectl("delete", "--ignore-not-found", "-f", str(INSTALL))


def has_a_ready_replica(deployment: Obj | None) -> bool:
    return bool((deployment or {}).get("status", {}).get("readyReplicas"))


def condition(service: Obj | None, kind: str = "Ready") -> Obj:
    conditions = ((service or {}).get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def is_serving(service: Obj | None) -> bool:
    return condition(service).get("status") == "True"


def group_of(service: Obj | None) -> Obj:
    groups = ((service or {}).get("status") or {}).get("groups") or [{}]
    return groups[0]


@dataclass
class Service:
    """An LLMService of the test's own."""

    lab: object
    namespace: str
    name: str
    began_at: float = field(default_factory=time.monotonic)

    def get(self) -> Obj:
        return self.lab.client.get(*SERVICES, self.name, self.namespace)

    def when(self, until: Callable[[Obj | None], object], *, timeout_s: float = 120) -> Obj:
        try:
            return self.lab.client.wait(*SERVICES, self.name, self.namespace, until, timeout_s=timeout_s)
        except TimeoutError:
            print(
                self.lab.kubectl(
                    "get", "pods,statefulsets,deployments", "-A", "-o", "wide", check=False
                ).stdout
            )
            print(self.lab.kubectl("get", "events", "-n", self.namespace, check=False).stdout)
            print(self.cli("k8s", "explain", self.name).stdout)
            for pod in self.lab.client.list("v1", "Pod", self.namespace):
                name = pod["metadata"]["name"]
                print(
                    name,
                    self.lab.kubectl("logs", "-n", self.namespace, name, "--tail=20", check=False).stdout,
                )
            print(
                self.lab.kubectl(
                    "logs", "-n", OPERATOR, "deploy/hortator-operator", "--tail=40", check=False
                ).stdout
            )
            raise

    def endpoint(self) -> str:
        """The gateway's Service address."""
        service = self.lab.client.get("v1", "Service", f"{self.name}-gateway", self.namespace)
        return f"{service['spec']['clusterIP']}:8080"

    def cli(self, *words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        command = [*HORTATOR, *words]
        if words[0] == "k8s":
            command += ["--kubeconfig", str(self.lab.kubeconfig), "--namespace", self.namespace]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)

    def tokens(self, prompt: str, num: int) -> tuple[list[int], Obj]:
        """Generate through the gateway's Service; token ids and the completion."""
        words = [
            "generate",
            prompt,
            "--endpoint",
            self.endpoint(),
            "--json",
            "--ignore-eos",
            "--max-tokens",
            str(num),
        ]
        result = self.cli(*words)
        assert result.returncode == 0, result.stderr
        return tokens_in(json.loads(line) for line in result.stdout.splitlines())

    def tokens_of(self, prompt: Sequence[int], num: int) -> list[int]:
        """The same for a prompt of token ids."""

        async def ask() -> list[int]:
            found: list[int] = []
            async with GatewayClient(self.endpoint()) as gateway:
                sampling = Sampling(max_tokens=num, ignore_eos=True)
                async for event in gateway.generate(tuple(prompt), sampling=sampling, timeout_s=30):
                    found += event.token_ids if isinstance(event, Delta) else ()
            return found

        return asyncio.run(ask())


@pytest.fixture
def apply(lab, operator, namespace):
    """`apply("name", spec)`: an LLMService."""
    made = []

    def create(name: str, spec: Obj) -> Service:
        obj = {
            "apiVersion": SERVICES[0],
            "kind": SERVICES[1],
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
        made.append(obj)
        service = Service(lab, namespace, name)
        lab.client.create(obj)
        return service

    yield create
    with contextlib.suppress(ApiError):  # the CRD may have gone
        for obj in made:
            lab.client.delete(obj)


GPU = "lab.hortator.dev/gpu"
LAUNCHED: Obj = REAL | {
    "model": {"uri": f"file:///{launch_image.MODEL}", "name": "double"},
    "engine": {
        "backend": "TensorRTLLM",
        "image": launch_image.NAME,
        "env": [{"name": "TENSORRT_LLM_DOUBLE_TIME_SCALE", "value": "0.01"}],
    },
    "roles": [
        {
            "name": "Aggregated",
            "nodes": 2,
            "gpusPerNode": 2,
            "gpuResourceName": GPU,
            "parallelism": {"attentionDP": 4, "expert": 4},
            "chunkBudgetTokens": 64,
            "maxBatchSize": 8,
            "tokensPerBlock": 16,
            "kvBlocks": 64,
            "maxSequenceTokens": 1024,
            "chunkedPrefill": False,
            "tensorrtLLM": {
                "kvCacheDtype": "fp8",
                "mtpLayers": 1,
                "cudaGraph": {"batchSizes": [8, 1]},
                "args": [{"name": "kv_cache_config.host_cache_size", "value": "1073741824"}],
            },
            "shmSize": "64Mi",
            "resources": {"cpu": "100m", "memory": "512Mi"},
        }
    ],
}
"""Four ranks of TensorRT-LLM's double in two pods that keep apart."""


@pytest.fixture
def gpu_nodes(lab, true_node, images, tmp_path) -> Iterator[list[TrueNode]]:
    """Two true nodes that say that they have GPUs, with the image for groups over several pods."""
    image = launch_image.write_launch_image(tmp_path)
    serving = next(tar for tar in images if "serving" in tar.name)
    with running_true_node(lab, name=SECOND, images=[serving]) as second:
        for node in (true_node, second):
            node.import_image(image)
            said = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name}}
            lab.direct.patch(said, {"status": {"capacity": {GPU: "2"}}}, subresource="status")
        yield [true_node, second]


def kubectl_plugin(lab, *words: str) -> subprocess.CompletedProcess[str]:
    """`kubectl hortator ...`: kubectl finds the plugin on the PATH and the cluster in KUBECONFIG."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [kubectl(), "hortator", *words],
        env=os.environ | {"PATH": path, "KUBECONFIG": str(lab.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rank_processes(lab, namespace: str, pod: str) -> list[int]:
    """Process ids of the ranks, as the container counts them: the children of its first process."""
    code = (
        "import pathlib\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    stat = (p / 'stat').read_text().rpartition(')')[2].split()\n"
        "    if stat[1] == '1' and b'rank_process' in (p / 'cmdline').read_bytes(): print(p.name)\n"
    )
    answer = lab.kubectl("exec", "-n", namespace, pod, "--", "python", "-c", code)
    return [int(line) for line in answer.stdout.split()]


def test_real_pods_stream_real_tokens_and_a_killed_rank_restarts_its_group(lab, apply, namespace):
    service = apply("real", REAL)
    ready = service.when(is_serving, timeout_s=180)
    print(f"ready after {time.monotonic() - service.began_at:.1f} s")
    assert ready["status"]["display"] == {"groups": "1/1", "ranks": "2/2", "updated": "1/1"}
    group = group_of(ready)
    assert group["epoch"] == 1
    assert group["members"][0]["bootId"].startswith("1-")
    token_ids, completion = service.tokens("To be, or not to be", 32)
    assert len(token_ids) == 32
    assert completion["finish_reason"] == "length"

    shown = service.cli("k8s", "status", "real")
    assert "aggregated-0  Ready" in shown.stdout, shown.stdout
    assert service.cli("k8s", "explain", "real").stdout == "real is ready: 1 of 1 groups ready\n"
    logs = service.cli("k8s", "logs", "real", "--rank", "1", "--tail", "1000")
    assert '"event": "worker ready"' in logs.stdout, logs.stderr

    plugin = kubectl_plugin(lab, "status", "real", "--namespace", namespace)
    assert plugin.stdout.splitlines()[0] == shown.stdout.splitlines()[0], plugin.stderr

    ranks = rank_processes(lab, namespace, "real-a-0-0")
    assert len(ranks) == 2
    killed_at = time.monotonic()
    lab.kubectl(
        "exec", "-n", namespace, "real-a-0-0", "--", "python", "-c", f"import os; os.kill({ranks[1]}, 9)"
    )
    service.when(lambda one: group_of(one).get("epoch") == 2)
    fenced_s = time.monotonic() - killed_at
    back = service.when(lambda one: is_serving(one) and group_of(one)["epoch"] == 2, timeout_s=120)
    print(f"epoch 2 after {fenced_s:.1f} s, serving again after {time.monotonic() - killed_at:.1f} s")
    group = group_of(back)
    assert group["restarts"] == 1
    assert group["members"][0]["bootId"].startswith("2-")
    assert "the engine died" in group["lastFailure"]["message"]
    again, _ = service.tokens("To be, or not to be", 32)
    assert again == token_ids  # greedy, and nothing but the group's life has changed

    drained = service.cli("k8s", "drain", "real", "aggregated-0", "--wait", "180", timeout_s=240)
    assert drained.returncode == 0, drained.stderr
    group = group_of(service.get())
    assert (group["epoch"], group["phase"]) == (3, "Ready")
    assert service.tokens("To be, or not to be", 8)[0] == token_ids[:8]
    assert service.cli("k8s", "doctor").returncode == 1  # this API server is older than what is supported
    doctor = json.loads(service.cli("k8s", "doctor", "--json").stdout)
    assert {check["name"] for check in doctor if check["verdict"] == "failed"} == {"API server"}


def test_a_group_of_two_pods_joins_by_name_and_restarts_as_one(lab, apply, namespace):
    role = MODELLED["roles"][0] | {"nodes": 2, "gpusPerNode": 1}
    service = apply("pair", MODELLED | {"roles": [role]})
    group = group_of(service.when(is_serving, timeout_s=150))
    print(f"two pods ready after {time.monotonic() - service.began_at:.1f} s")
    assert [(member["index"], member["ranks"], member["ready"]) for member in group["members"]] == [
        (0, "0", True),
        (1, "1", True),
    ]
    uids = pod_uids(lab, namespace)
    service.tokens("two oars", 8)

    killed_at = time.monotonic()
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pair-a-0-1", "namespace": namespace}}
    lab.client.delete(pod, grace_s=0)
    group = group_of(service.when(lambda one: is_serving(one) and group_of(one)["epoch"] > 1, timeout_s=150))
    print(f"both pods are new and ready {time.monotonic() - killed_at:.1f} s after one was deleted")
    assert (group["epoch"], group["restarts"]) == (2, 1)
    assert not uids & pod_uids(lab, namespace)
    service.tokens("two oars", 8)


def pod_uids(lab, namespace: str) -> set[str]:
    pods = lab.client.list("v1", "Pod", namespace, labels="app.kubernetes.io/component=engine")
    return {pod["metadata"]["uid"] for pod in pods}


def waiting_reason(pod: Obj) -> str:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return statuses[0].get("state", {}).get("waiting", {}).get("reason", "")


def ended_reason(pod: Obj) -> str:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    states = (statuses[0].get("state", {}), statuses[0].get("lastState", {}))
    return next((state["terminated"]["reason"] for state in states if "terminated" in state), "")


@pytest.mark.parametrize(
    ("name", "change", "evidence", "reasons", "said"),
    [
        (
            "wrong-image",
            {"engine": {"backend": "Simulated", "image": "registry.invalid/none:1"}},
            lambda pod: waiting_reason(pod) in {"ErrImagePull", "ImagePullBackOff"},
            {"ErrImagePull", "ImagePullBackOff"},
            "registry.invalid/none:1",
        ),
        (
            "no-secret",
            {"model": MODELLED["model"] | {"authSecretRef": {"name": "hf-token"}}},
            lambda pod: waiting_reason(pod) == "CreateContainerConfigError",
            {"SecretNotFound"},
            "hf-token",
        ),
        (
            "no-memory",
            {"roles": [MODELLED["roles"][0] | {"resources": {"memory": "24Mi"}}]},
            lambda pod: ended_reason(pod) == "OOMKilled",
            {"OOMKilled"},
            "memory",
        ),
    ],
)
def test_what_is_wrong_is_told_within_five_seconds_of_the_evidence(
    lab, apply, namespace, name, change, evidence, reasons, said
):
    with recording(lab.client, namespace) as record:
        service = apply(name, MODELLED | change)
        assert_told_in_time(record, evidence, reasons)
    explained = service.cli("k8s", "explain", name).stdout
    assert said in explained, explained


def assert_told_in_time(record: Recorder, evidence: Callable[[Obj], bool], reasons: set[str]) -> None:
    """Condition Ready has one of the reasons soon after an engine pod shows the evidence."""
    shown = record.first("Pod", lambda pod: is_engine(pod) and evidence(pod), timeout_s=90)
    told = record.first("LLMService", lambda one: condition(one).get("reason") in reasons)
    print(f"{told.name}: {told.at - shown.at:.2f} s after the evidence: {condition(told.obj)['message']}")
    assert told.at - shown.at < SOON_S


def is_engine(pod: Obj) -> bool:
    labels: Obj = pod["metadata"].get("labels", {})
    return labels.get("app.kubernetes.io/component") == "engine"


def processes_in(lab, namespace: str, pod: str) -> dict[int, str]:
    """Every process of a pod but those of this question: process id and command line."""
    code = (
        "import os, pathlib\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    words = (p / 'cmdline').read_text().replace(chr(0), ' ').strip()\n"
        "    if words and int(p.name) != os.getpid(): print(p.name, words)\n"
    )
    answer = lab.kubectl("exec", "-n", namespace, pod, "--", "python", "-c", code)
    lines = (line.partition(" ") for line in answer.stdout.splitlines())
    return {int(pid): words for pid, _, words in lines}


def launched_ranks(lab, namespace: str, pod: str) -> list[int]:
    """Processes of TensorRT-LLM's ranks in a pod."""
    found = processes_in(lab, namespace, pod)
    return [pid for pid, words in found.items() if words.startswith("python3 -m tensorrt_llm.llmapi.mgmn_")]


def test_ranks_are_started_over_two_pods_and_a_killed_one_ends_them_all(lab, apply, namespace, gpu_nodes):
    """Two pods of nobody in particular, on two nodes: Debian's Open MPI and OpenSSH, the double of the library."""
    service = apply("launched", LAUNCHED)
    ready = service.when(is_serving, timeout_s=120)
    print(f"ready after {time.monotonic() - service.began_at:.1f} s")
    assert ready["status"]["display"] == {"groups": "1/1", "ranks": "4/4", "updated": "1/1"}
    pods = ("launched-a-0-0", "launched-a-0-1")
    found = [lab.client.get("v1", "Pod", pod, namespace) for pod in pods]
    assert {pod["spec"]["nodeName"] for pod in found} == {node.name for node in gpu_nodes}
    assert [len(launched_ranks(lab, namespace, pod)) for pod in pods] == [2, 2]
    assert_nobody_is_root(lab, namespace, pods[1])
    assert_the_library_was_told(lab, namespace, pods[0])
    assert_the_doctor_reaches_all_members(lab, namespace, pods)

    token_ids, _ = service.tokens("To be, or not to be", 32)  # read with the tokenizer that the worker has
    assert len(token_ids) == 32
    assert len(service.tokens_of([5, 6, 7, 8], 32)) == 32

    killed = launched_ranks(lab, namespace, pods[1])[1]
    killed_at = time.monotonic()
    kill = f"import os; os.kill({killed}, 9)"
    lab.kubectl("exec", "-n", namespace, pods[1], "--", "python", "-c", kill)
    service.when(lambda one: group_of(one).get("epoch") == 2)
    print(f"epoch 2 after {time.monotonic() - killed_at:.1f} s")
    back = service.when(lambda one: is_serving(one) and group_of(one)["epoch"] == 2, timeout_s=120)
    print(f"serving again after {time.monotonic() - killed_at:.1f} s")
    group = group_of(back)
    assert group["restarts"] == 1
    assert re.search(r"the ranks: rank [23] ended with exit code 137", group["lastFailure"]["message"])
    assert [len(launched_ranks(lab, namespace, pod)) for pod in pods] == [2, 2]
    of_the_double = [rank_processes_on(node) for node in gpu_nodes]
    assert [len(pids) for pids in of_the_double] == [2, 2], "a rank of the first epoch survives"
    assert service.tokens("To be, or not to be", 32)[0] == token_ids


def assert_nobody_is_root(lab, namespace: str, pod: str) -> None:
    code = (
        "import os, pathlib\n"
        "print({p.stat().st_uid for p in pathlib.Path('/proc').glob('[0-9]*')})\n"
        "for p in pathlib.Path('/tmp').glob('hortator-launch-*'):\n"
        "    print(oct(p.stat().st_mode), sorted((q.name, oct(q.stat().st_mode)) for q in p.iterdir() if q.is_file()))\n"
    )
    said = lab.kubectl("exec", "-n", namespace, pod, "--", "python", "-c", code).stdout.splitlines()
    assert said[0] == "{10001}"
    assert said[1].startswith(("0o40700 ", "0o42700 "))  # the emptyDir hands its group on (fsGroup)
    assert "('host_key', '0o100600')" in said[1]
    assert "('authorized_keys', '0o100600')" in said[1]


def assert_the_library_was_told(lab, namespace: str, pod: str) -> None:
    """What the manifest says under tensorrtLLM, in the arguments that the worker logs as it starts."""
    logged = lab.kubectl("logs", "-n", namespace, pod).stdout
    line = next(line for line in logged.splitlines() if '"event": "starting TensorRT-LLM"' in line)
    told = json.loads(line)["arguments"]
    assert told["kv_cache_config"]["dtype"] == "fp8"
    assert told["kv_cache_config"]["host_cache_size"] == 1 << 30
    assert told["speculative_config"]["num_nextn_predict_layers"] == 1
    assert told["cuda_graph_config"]["batch_sizes"] == [1, 8]


def assert_the_doctor_reaches_all_members(lab, namespace: str, pods: Sequence[str]) -> None:
    command = ("python", "-m", "hortator.cli.main", "doctor", "--group", "--json")
    said = lab.kubectl("exec", "-n", namespace, pods[0], "--", *command, check=False).stdout
    checks = {check["name"]: check for check in json.loads(said)}
    members = {name: check["verdict"] for name, check in checks.items() if name.startswith("member ")}
    assert list(members.values()) == ["ok", "ok"]
    assert any(pods[1] in name for name in members)
    assert checks["tensorrt_llm"]["verdict"] == "ok"
    assert checks["tensorrt_llm"]["found"].endswith("(all 2 members)")
    assert checks["MPI"]["verdict"] == "ok", checks["MPI"]


def rank_processes_on(node: TrueNode) -> list[str]:
    """Those of all containers of a node."""
    found = []
    for line in node.run("ps", "-ww", "-eo", "pid,args").splitlines():
        pid, _, words = line.strip().partition(" ")
        if words.strip().startswith("python3 -m tensorrt_llm.llmapi.mgmn_"):
            found.append(pid)
    return found


def test_a_crash_loop_is_told_and_ends_stalled_with_its_pod_kept(lab, apply, namespace):
    crashes = {"backend": "Simulated", "env": [{"name": "PYTHONHOME", "value": "/nowhere"}]}
    restart = {"baseDelay": "0s", "maxDelay": "0s", "maxRestarts": 1}
    with recording(lab.client, namespace) as record:
        service = apply("loop", MODELLED | {"engine": crashes, "restart": restart})
        assert_told_in_time(record, lambda pod: ended_reason(pod) == "Error", {"ContainerFailed"})
    stalled = service.when(lambda one: condition(one, "Stalled").get("status") == "True")
    ready = condition(stalled)
    assert (ready["status"], ready["reason"]) == ("False", "RestartBudgetExhausted")
    assert "exit code 1" in ready["message"]
    assert "loop-a-0" in ready["message"]
    group = group_of(stalled)
    assert (group["phase"], group["epoch"], group["restarts"]) == ("Stalled", 2, 1)
    before = pod_uids(lab, namespace)
    lab.client.wait(
        "v1", "Pod", "loop-a-0-0", namespace, lambda pod: waiting_reason(pod) == "CrashLoopBackOff"
    )
    assert pod_uids(lab, namespace) == before
    assert "Fatal Python error" in lab.kubectl("logs", "--previous", "-n", namespace, "loop-a-0-0").stdout
    assert condition(service.get())["reason"] == "RestartBudgetExhausted"
    assert "kubectl logs --previous" in service.cli("k8s", "explain", "loop").stdout


def test_what_kubectl_has_installed_it_uninstalls(lab, apply, namespace, operator):
    """Last, and in the order of docs/how-to/uninstall.md."""
    service = apply("last", MODELLED)
    service.when(is_serving)
    lab.kubectl("delete", "llms", "--all", "--all-namespaces")
    ours = ["--selector", "serving.hortator.dev/name", "--all-namespaces"]
    lab.kubectl("wait", "--for=delete", "pods", *ours, "--timeout=60s")
    wait_until(lambda: children_in(lab.client, namespace) == [], what="all children are collected")
    lab.kubectl("delete", "-f", str(INSTALL))
    for one in documents(INSTALL.read_text()):
        assert lab.client.get(one["apiVersion"], one["kind"], one["metadata"]["name"], operator) is None
    kinds = (
        "namespaces,clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,deployments,pods,crds"
    )
    found = lab.kubectl(
        "get", kinds, "--all-namespaces", "--selector", "app.kubernetes.io/name=hortator", "--output", "name"
    )
    assert found.stdout == ""
