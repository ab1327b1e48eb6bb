"""Each way in which a service does not come up is told in time: why, what is to blame, and what helps."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.kube import Obj
from cluster.recorder import Seen
from cluster.results import record
from cluster.scene import Scene, condition, has_ended, is_ready, reason, waits_for

LIMIT_S = 5.0
"""From the moment at which the API server first shows the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What goes wrong, by what one can see it, and what must be said."""

    script: Obj
    shows: Callable[[Obj], Any]
    """Of a pod: the evidence."""
    reasons: set[str]
    says: tuple[str, ...]
    """In the message of condition Ready."""
    advises: str
    """In the explanation."""
    pods: str = "llm-a-1-1"
    service: Obj = field(default_factory=dict)
    others: dict[str, Obj] = field(default_factory=dict)
    """Scripts of other pods."""


CASES = {
    "an image that cannot be pulled": Case(
        script={"waiting": "ErrImagePull"},
        shows=lambda pod: waits_for(pod, "ErrImagePull", "ImagePullBackOff"),
        reasons={"ErrImagePull", "ImagePullBackOff"},
        says=("llm-a-1-1", "example.invalid/worker:none"),
        advises="Check that the image exists",
        service={"engine": {"backend": "Simulated", "image": "example.invalid/worker:none"}},
    ),
    "an image that is no reference": Case(
        script={"waiting": "InvalidImageName"},
        shows=lambda pod: waits_for(pod, "InvalidImageName"),
        reasons={"InvalidImageName"},
        says=("llm-a-1-1",),
        advises="Correct spec.engine.image",
    ),
    "a missing secret": Case(
        script={"missing_secret": "hf-token"},
        shows=lambda pod: waits_for(pod, "CreateContainerConfigError"),
        reasons={"SecretNotFound"},
        says=("Secret hf-token does not exist", "llm-a-1-1"),
        advises="Create the Secret",
    ),
    "too little memory": Case(
        script={"crash_after_s": 0.3, "oom": True},
        shows=lambda pod: has_ended(pod, "OOMKilled"),
        reasons={"OOMKilled"},
        says=("llm-a-1-1", "ran out of memory"),
        advises="Raise resources.memory",
    ),
    "a member that crashes": Case(
        script={"crash_after_s": 0.3, "exit_code": 3},
        shows=lambda pod: has_ended(pod, "Error"),
        reasons={"ContainerFailed"},
        says=("llm-a-1-1", "exit code 3"),
        advises="kubectl logs --previous",
    ),
    "a crash loop while others cannot start": Case(
        script={"crash_after_s": 0.1, "exit_code": 3, "back_off_s": 60},
        shows=lambda pod: waits_for(pod, "CrashLoopBackOff"),
        reasons={"CrashLoopBackOff"},
        says=("llm-a-1-1", "exit code 3"),
        advises="kubectl logs --previous",
        others={"llm-a-1-0": {"start_after_s": 600}},
    ),
    "a scheduler that crashes again and again": Case(
        script={"crash_after_s": 0.1, "back_off_s": 60},
        shows=lambda pod: waits_for(pod, "CrashLoopBackOff"),
        reasons={"CrashLoopBackOff"},
        says=("llm-scheduler-", "ended 1 times"),
        advises="kubectl logs --previous",
        pods="llm-scheduler-*",
    ),
}


@pytest.fixture(scope="module")
def in_time() -> Iterator[Callable[[Seen, Seen], None]]:
    """`in_time(told, evidence)`: the status told the reason soon after the API showed the evidence."""
    took_s: dict[str, float] = {}

    def check(told: Seen, evidence: Seen) -> None:
        name, after_s = reason(told.obj), told.at - evidence.at
        took_s[name] = max(took_s.get(name, 0.0), round(after_s, 3))
        print(f"{name} after {after_s:.3f} s")
        assert after_s < LIMIT_S

    yield check
    record(
        "reasons",
        settings={"nodes": 8, "groups": 2, "pods_per_group": 2},
        targets=dict.fromkeys(took_s, f"<= {LIMIT_S:g} s"),
        figures=took_s,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_a_pod_waits_for_is_told_within_five_seconds(scene, case, in_time):
    for pods, script in case.others.items():
        scene.nodes.script(scene.namespace, pods, **script)
    scene.nodes.script(scene.namespace, case.pods, **case.script)
    scene.create(**case.service)
    evidence = scene.record.first("Pod", case.shows)
    told = scene.when(lambda service: reason(service) in case.reasons)
    in_time(told, evidence)
    for words in case.says:
        assert words in condition(told.obj)["message"]
    explained = scene.explain()
    assert case.advises in explained
    assert case.pods.rstrip("*") in explained


def test_a_secret_that_is_created_late_is_all_that_is_needed(scene):
    scene.nodes.script(scene.namespace, "llm-a-0-0", missing_secret="hf-token")  # noqa: S106
    scene.create()
    scene.until(
        lambda service: (
            reason(service) == "SecretNotFound"
            and service["status"]["readyReplicas"] == 0
            and service["status"]["display"]["groups"] == "1/2"
        )
    )
    row = scene.kubectl("get", "llms", "llm", "--no-headers").split()
    assert row[:6] == ["llm", "False", "SecretNotFound", "1/2", "16/32", "2/2"]
    scene.nodes.do(scene.namespace, "llm-a-0-0", "go_on")
    service = scene.until(is_ready)
    assert {one["epoch"] for one in service["status"]["groups"]} == {1}


def test_too_few_gpus_are_told_with_the_arithmetic_and_nothing_is_started(scene, in_time):
    scene.create(groups=1, nodes=9, engine={"backend": "TensorRTLLM"})
    created = scene.record.first("LLMService", lambda _: True)
    told = scene.when(lambda service: reason(service) == "InsufficientGPU")
    in_time(told, created)
    said = condition(told.obj)["message"]
    assert said == "group llm-a-0 needs 9 nodes with 8 nvidia.com/gpu free, has 8 of 8 nodes"
    explained = scene.explain()
    assert said in explained
    assert "Add or free nodes" in explained
    assert scene.pods(role="aggregated") == []


def test_groups_that_compete_for_gpus_hold_no_halves(scene):
    """Two groups of five nodes on eight: one starts, the other waits without a pod."""
    scene.create(groups=2, nodes=5, engine={"backend": "TensorRTLLM"})
    told = scene.when(
        lambda service: condition(service, "Available").get("status") == "True" and reason(service) != ""
    )
    assert reason(told.obj) == "InsufficientGPU"
    assert condition(told.obj)["message"] == (
        "group llm-a-1 needs 5 nodes with 8 nvidia.com/gpu free, has 3 of 8 nodes"
    )
    assert len(scene.pods(role="aggregated")) == 5


def test_a_pod_that_no_node_will_have_is_told_with_the_schedulers_words(scene, in_time):
    taint = {"key": "lab/closed", "value": "yes", "effect": "NoSchedule"}
    with _tainted(scene, taint):
        scene.create()
        evidence = scene.record.first("Pod", _is_unplaced)
        told = scene.when(lambda service: reason(service) == "Unschedulable")
        in_time(told, evidence)
        assert "8 node(s) had taint {lab/closed: yes}" in condition(told.obj)["message"]
        assert "add a toleration to the role" in scene.explain()
    scene.until(is_ready, timeout_s=60)


def test_labels_that_no_node_has_are_told(scene, in_time):
    scene.create(role={"nodeSelector": {"rack": "rack-9"}})
    evidence = scene.record.first("Pod", _is_unplaced)
    told = scene.when(lambda service: reason(service) == "TopologyUnsatisfied")
    in_time(told, evidence)
    assert "llm-a-0-0" in condition(told.obj)["message"]
    assert "correct nodeSelector" in scene.explain()


def test_a_quota_that_refuses_pods_is_told(scene, in_time):
    scene.lab.client.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "three", "namespace": scene.namespace},
            "spec": {"hard": {"pods": "3"}},
        }
    )
    scene.lab.client.wait(
        "v1", "ResourceQuota", "three", scene.namespace, lambda quota: quota.get("status", {}).get("hard")
    )
    scene.create()
    evidence = scene.record.first(
        "Event", lambda event: event["reason"] == "FailedCreate" and "llm-a-" in event["message"]
    )
    told = scene.when(lambda service: reason(service) == "QuotaExceeded")
    in_time(told, evidence)
    assert "exceeded quota: three" in condition(told.obj)["message"]
    assert "Raise the quota" in scene.explain()


def test_what_keeps_the_download_of_the_model_from_running_is_told(scene, in_time):
    """Its claim finds no volume, then its pod no secret; then it runs, and the groups start."""
    scene.nodes.script(
        scene.namespace,
        "llm-prefetch-*",
        missing_secret="hf-token",  # noqa: S106
        succeed_after_s=0.5,
    )
    cache = {"create": {"size": "1Gi", "storageClassName": scene.namespace}}
    scene.create(model={"uri": "hf://deepseek-ai/DeepSeek-V3", "cache": cache})
    evidence = scene.record.first("Pod", lambda pod: _is_of_download(pod) and _is_unplaced(pod))
    told = scene.when(lambda service: reason(service) == "PVCNotBound")
    in_time(told, evidence)
    assert "unbound immediate PersistentVolumeClaims" in condition(told.obj)["message"]
    assert "Check the claim's storage class" in scene.explain()
    with _volume(scene, storage_class=scene.namespace):
        evidence = scene.record.first(
            "Pod", lambda pod: _is_of_download(pod) and waits_for(pod, "CreateContainerConfigError")
        )
        told = scene.when(lambda service: reason(service) == "SecretNotFound")
        in_time(told, evidence)
        said = condition(told.obj, "ModelReady")["message"]
        assert "Secret hf-token does not exist" in said
        assert "llm-prefetch-" in said
        assert "Create the Secret" in scene.explain()
        assert scene.pods(role="aggregated") == []
        scene.nodes.do(scene.namespace, evidence.name, "go_on")
        scene.until(is_ready)


def _is_of_download(pod: Obj) -> bool:
    name: str = pod["metadata"]["name"]
    return name.startswith("llm-prefetch-")


@contextlib.contextmanager
def _volume(scene: Scene, *, storage_class: str) -> Iterator[None]:
    """A volume for the one claim that asks for this class, within the block."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": scene.namespace},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "storageClassName": storage_class,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/weights"},
        },
    }
    made = scene.lab.client.create(volume)
    try:
        yield
    finally:
        scene.lab.client.delete(made)


def _is_unplaced(pod: Obj) -> bool:
    return any(
        one["type"] == "PodScheduled" and one["status"] == "False"
        for one in pod.get("status", {}).get("conditions", [])
    )


@contextlib.contextmanager
def _tainted(scene: Scene, taint: Obj) -> Iterator[None]:
    """All nodes, within the block."""
    nodes = [scene.lab.direct.get("v1", "Node", name) for name in scene.nodes.names]
    for node in nodes:
        scene.lab.direct.patch(node, {"spec": {"taints": [taint]}})
    try:
        yield
    finally:
        for node in nodes:
            scene.lab.direct.patch(node, {"spec": {"taints": None}})
