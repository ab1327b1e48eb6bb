"""What people do to an LLMService that serves: look at it, suspend it, scale it, break its spec."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.controlplane import Lab
from cluster.kube import Obj
from cluster.operators import CRD, SERVICES
from cluster.processes import wait_until
from cluster.scene import PREFIX, Scene, condition, epochs, group, is_ready, reason

SAMPLE = Path(__file__).resolve().parents[2] / "manifests" / "samples" / "llmservice-simulated.yaml"
COLUMNS = ["NAME", "READY", "REASON", "GROUPS", "RANKS", "UPDATED", "MODEL", "AGE"]


def test_kubectl_get_shows_the_sample_at_a_glance(scene):
    scene.kubectl("apply", "-f", str(SAMPLE))
    scene.until(is_ready, name="simulated")
    head, row = (line.split() for line in scene.kubectl("get", "llms").splitlines())
    assert head == COLUMNS
    *told, age = row
    model = "hf://deepseek-ai/DeepSeek-V3"
    assert told == ["simulated", "True", "AllGroupsReady", "2/2", "32/32", "2/2", model]
    assert re.fullmatch(r"\d+[sm]", age)


def test_the_status_goes_down_to_the_rank(scene):
    service = scene.serving()
    head, row = (line.split() for line in scene.kubectl("get", "llms", "llm").splitlines())
    assert head == COLUMNS
    assert row[:6] == ["llm", "True", "AllGroupsReady", "2/2", "32/32", "2/2"]
    assert service["status"]["observedGeneration"] == service["metadata"]["generation"]
    assert [one["name"] for one in service["status"]["groups"]] == ["llm-a-0", "llm-a-1"]
    for one in service["status"]["groups"]:
        assert (one["phase"], one["epoch"], one["workerId"]) == ("Ready", 1, f"aggregated-{one['index']}")
        assert [member["ranks"] for member in one["members"]] == ["0-7", "8-15"]
        for member in one["members"]:
            pod = scene.pod(member["pod"])
            assert member["pod"] == f"{one['name']}-{member['index']}"
            assert member["node"] == pod["spec"]["nodeName"]
            assert member["ready"]
        steps = ("admitted", "created", "scheduled", "imagesPulled", "ready")
        times = [datetime.fromisoformat(one["timeline"][step]) for step in steps]
        assert times == sorted(times)


def test_suspending_gives_back_every_pod_of_a_group_and_resuming_starts_the_next_epoch(scene):
    scene.serving()
    scene.patch({"suspend": True})
    service = scene.until(lambda service: condition(service, "Suspended").get("status") == "True")
    assert reason(service) == "Suspended"
    assert scene.pods(role="aggregated") == []
    assert service["status"]["display"]["groups"] == "0/2"
    scene.patch({"suspend": False})
    service = scene.until(is_ready)
    assert epochs(service) == {"llm-a-0": 2, "llm-a-1": 2}
    assert [one.get("restarts", 0) for one in service["status"]["groups"]] == [0, 0]


def test_scaling_by_the_subresource_adds_and_takes_whole_role_sets(scene):
    scene.serving()
    first = _uids(scene)

    scene.kubectl("scale", "llms", "llm", "--replicas=2")
    service = scene.until(lambda service: is_ready(service) and service["status"]["readyReplicas"] == 2)
    assert service["status"]["display"] == {"groups": "4/4", "ranks": "64/64", "updated": "4/4"}
    assert _scale(scene) == (2, 2)
    assert _selected(scene) == ["llm-a-0-0", "llm-a-2-0"]

    scene.nodes.do(scene.namespace, "llm-a-2-0", "crash")
    scene.until(lambda service: is_ready(service) and group(service, 2)["epoch"] == 2)
    scene.at_rest()
    assert _selected(scene) == ["llm-a-0-0", "llm-a-2-0"]

    scene.kubectl("scale", "llms", "llm", "--replicas=1")
    scene.until(lambda service: is_ready(service) and service["status"]["replicas"] == 1)
    assert _scale(scene) == (1, 1)
    wait_until(lambda: _uids(scene) == first, what="only the pods of the first role set are left")
    names = {one["metadata"]["name"] for one in _children(scene, "apps/v1", "StatefulSet")}
    assert names == {"llm-a-0", "llm-a-1"}
    scene.lab.client.wait(
        "policy/v1", "PodDisruptionBudget", "llm-a-3", scene.namespace, lambda found: found is None
    )

    scene.kubectl("scale", "llms", "llm", "--replicas=0")
    scene.until(lambda service: reason(service) == "ScaledToZero" and service["status"]["replicas"] == 0)
    wait_until(lambda: _uids(scene) == set(), what="no pod is left")


def test_a_role_set_of_single_pods_is_one_pod_for_an_autoscaler(scene):
    scene.serving(nodes=1, replicas=2)
    assert _selected(scene) == ["llm-a-0-0", "llm-a-2-0"]
    assert len(scene.pods(role="aggregated")) == 4


def test_an_invalid_spec_that_got_in_is_told_and_what_runs_stays(scene):
    before = scene.serving()
    uids = {pod["metadata"]["uid"] for pod in scene.pods()}
    sets = {one["metadata"]["uid"]: one["spec"] for one in _children(scene, "apps/v1", "StatefulSet")}
    with _without_rules(scene.lab):
        scene.patch({"restart": {"baseDelay": "10s", "maxDelay": "5s"}, "suspend": True})
    service = scene.until(lambda service: condition(service, "Accepted").get("status") == "False")
    assert reason(service) == "InvalidSpec"
    for kind in ("Ready", "Accepted"):
        said = condition(service, kind)
        assert (said["status"], said["reason"]) == ("False", "InvalidSpec")
        assert "spec.restart.baseDelay" in said["message"]
        assert said["observedGeneration"] == service["metadata"]["generation"] == 2
    assert [one["phase"] for one in service["status"]["groups"]] == ["Ready", "Ready"]
    explained = scene.explain()
    assert "spec.restart.baseDelay" in explained
    assert "hortator validate" in explained

    scene.at_rest()
    assert {pod["metadata"]["uid"] for pod in scene.pods()} == uids
    assert {one["metadata"]["uid"]: one["spec"] for one in _children(scene, "apps/v1", "StatefulSet")} == sets

    scene.patch({"restart": before["spec"]["restart"], "suspend": False})
    service = scene.until(is_ready)
    assert condition(service, "Accepted")["status"] == "True"
    assert {pod["metadata"]["uid"] for pod in scene.pods()} == uids


@pytest.mark.timeout(180)
def test_deleting_services_in_any_state_leaves_nothing(scene):
    scene.nodes.script(scene.namespace, "starting-a-0-1", waiting="ErrImagePull")
    scene.nodes.script(scene.namespace, "stalled-a-0-0", crash_after_s=0.1, back_off_s=0.2)
    scene.nodes.script(scene.namespace, "restarting-a-0-0", crash_after_s=0.1, back_off_s=0.2)
    options: dict[str, Obj] = {
        "serving": {},
        "starting": {},
        "stalled": {},
        "suspended": {"suspend": True},
        "draining": {"drain": {"timeout": "600s"}},
        "restarting": {"restart": {"baseDelay": "600s", "maxDelay": "600s"}},
        "lost": {},
    }
    for name, spec in options.items():
        scene.create(name, groups=1, **spec)
    for name in ("serving", "draining", "lost"):
        scene.until(is_ready, name=name)
    scene.until(lambda service: reason(service) in {"ErrImagePull", "ImagePullBackOff"}, name="starting")
    scene.until(lambda service: reason(service) == "RestartBudgetExhausted", name="stalled")
    scene.until(lambda service: reason(service) == "RestartBackoff", name="restarting")
    scene.until(lambda service: reason(service) == "Suspended", name="suspended")

    scene.drain("draining-a-0")
    scene.until(lambda service: reason(service) == "Draining", name="draining")
    node = scene.pod("lost-a-0-1")["spec"]["nodeName"]
    scene.nodes.lose_node(node, how="crash")
    try:
        scene.until(lambda service: reason(service) == "NodeLost", name="lost", timeout_s=90)
        made = scene.everything()
        assert [one["metadata"]["name"] for one in made if one["metadata"].get("finalizers")] == []
        assert len(made) > 70
        scene.lab.client.delete_all(*SERVICES, scene.namespace)
        wait_until(
            lambda: {one["spec"].get("nodeName") for one in scene.everything() if "spec" in one} <= {node},
            what="all goes but what a lost node must confirm",
            timeout_s=60,
        )
        assert {one["kind"] for one in scene.everything()} <= {"Pod"}
    finally:
        scene.nodes.return_node(node)
    wait_until(lambda: scene.everything() == [], what="garbage collection", timeout_s=60)
    for seen in (one for name in options for one in scene.record.all("LLMService", name)):
        assert "finalizers" not in seen.obj["metadata"]


def _children(scene: Scene, api_version: str, kind: str) -> list[Obj]:
    return scene.lab.client.list(api_version, kind, scene.namespace, labels=f"{PREFIX}name=llm")


def _uids(scene: Scene) -> set[str]:
    return {pod["metadata"]["uid"] for pod in scene.pods(role="aggregated")}


def _scale(scene: Scene) -> tuple[int, int]:
    path = scene.lab.client.path(*SERVICES, scene.namespace, "llm")
    scale = scene.lab.client.request("GET", f"{path}/scale")
    return scale["spec"]["replicas"], scale["status"]["replicas"]


def _selected(scene: Scene) -> list[str]:
    """The pods that an autoscaler counts: by the selector of the scale subresource."""
    path = scene.lab.client.path(*SERVICES, scene.namespace, "llm")
    selector = scene.lab.client.request("GET", f"{path}/scale")["status"]["selector"]
    found = scene.lab.client.list("v1", "Pod", scene.namespace, labels=selector)
    return sorted(pod["metadata"]["name"] for pod in found)


@contextmanager
def _without_rules(lab: Lab) -> Iterator[None]:
    """The CRD refuses nothing that CEL would, within the block: as one of an older version would not."""
    relaxed = lab.folder / "relaxed-crd.yaml"
    relaxed.write_text(yaml.safe_dump(_stripped(copy.deepcopy(yaml.safe_load(CRD.read_text())))))
    lab.apply_crd(relaxed)
    try:
        yield
    finally:
        lab.apply_crd(CRD)


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stripped(entry) for key, entry in value.items() if key != "x-kubernetes-validations"}
    return [_stripped(entry) for entry in value] if isinstance(value, list) else value
