"""The status as a whole: when it is written, what stays in it, what people read."""

import re
from datetime import timedelta

import pytest

from doubles.kubernetes.kubelets import Wait
from doubles.service_world import World, a_manifest
from hortator.api.v1alpha1.status import LLMServiceStatus
from hortator.operator.status.report import is_same

NODES = {f"n-{index}": {"gpus": 8} for index in range(6)}


@pytest.fixture
def world():
    made = World(a_manifest(prefill=2, decode=1), nodes=NODES)
    made.settle()
    return made


def test_the_status_is_one_that_the_types_allow(world):
    LLMServiceStatus.model_validate(world.status(), by_alias=True, by_name=False)


def test_a_ready_service_tells_all_of_it(world):
    status = world.status()
    assert status["display"] == {"groups": "3/3", "ranks": "24/24", "updated": "3/3"}
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    assert [role["ready"] for role in status["roles"]] == [2, 1]
    member = status["groups"][0]["members"][1]
    assert (member["pod"], member["ready"], member["ranks"]) == ("demo-p-0-1", True, "4-7")
    assert status["groups"][0]["members"][0]["bootId"].startswith("1-")
    assert set(status["groups"][0]["timeline"]) == {
        "created",
        "admitted",
        "scheduled",
        "imagesPulled",
        "ready",
    }


STEPS = ["admitted", "created", "scheduled", "imagesPulled", "ready"]


def test_the_timeline_is_that_of_the_present_epoch(world):
    """Of a second epoch no step is from the first, and each is told only once it is reached."""
    world.clock += timedelta(hours=1)
    crashed_at = world.api.timestamp()
    world.acts["demo-d-0-1"] = Wait(reason="ImagePullBackOff", message="no such image")
    world.crash("demo-d-0-0")
    world.until(lambda: world.epoch_of("demo-d-0") == 2)
    world.until(lambda: world._pod("demo-d-0-1") is None)
    for _ in range(6):
        world.tick()

    def timeline():
        return next(one for one in world.status()["groups"] if one["name"] == "demo-d-0")["timeline"]

    assert set(timeline()) == {"admitted", "created", "scheduled"}
    world.acts.clear()
    world.settle()
    times = [timeline()[step] for step in STEPS]
    assert times == sorted(times)
    assert times[0] >= crashed_at
    assert times[3] > times[2]
    pods = [world._pod(f"demo-d-0-{ordinal}") for ordinal in range(2)]
    assert timeline()["created"] == max(pod["metadata"]["creationTimestamp"] for pod in pods)


def test_the_selector_matches_one_pod_per_role_set(world):
    """An autoscaler multiplies by ready selected pods."""
    world.edit({"replicas": 2})
    world.settle()
    labels = dict(part.split("=") for part in world.status()["selector"].split(","))
    assert [pod["metadata"]["name"] for pod in world.api.find("Pod", **labels)] == [
        "demo-p-0-0",
        "demo-p-2-0",
    ]
    assert world.status()["replicas"] == 2


def test_the_time_of_a_condition_is_when_its_status_changed(world):
    before = world.condition("Ready")["lastTransitionTime"]
    accepted = world.condition("Accepted")["lastTransitionTime"]
    world.clock += timedelta(hours=1)
    world.acts["scheduler"] = Wait(reason="ImagePullBackOff", message="no such image")
    world.until(lambda: not world.is_ready())
    assert world.condition("Ready")["lastTransitionTime"] > before
    assert world.condition("Ready")["reason"] == "ImagePullBackOff"
    assert world.condition("Accepted")["lastTransitionTime"] == accepted


def test_ready_copies_the_condition_that_is_to_blame(world):
    world.acts["demo-d-0-0"] = Wait(reason="CreateContainerConfigError", message='secret "hf" not found')
    world.until(lambda: world.condition("Ready").get("reason") == "SecretNotFound")
    workers = world.condition("WorkersReady")
    ready = world.condition("Ready")
    assert (workers["reason"], workers["message"]) == (ready["reason"], ready["message"])
    assert world.condition("Available")["status"] == "False"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1}, {"a": 1, "b": "", "c": [], "d": {}, "e": 0}, True),  # what a server may drop or fill in
        ({"a": {"b": 0}}, {}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
    ],
)
def test_what_is_empty_says_nothing(one, other, same):
    assert is_same(one, other) is same


def test_events_tell_of_transitions(world):
    world.events.clear()
    world.crash("demo-d-0-0")
    world.settle()
    assert "Warning GroupRestarting" in world.events
    assert world.events[-1] == "Normal AllGroupsReady"


def test_explain_names_the_pod_and_the_fix(world, golden):
    world.acts["demo-d-0-1"] = Wait(reason="ImagePullBackOff", message='Back-off pulling image "r/x:1"')
    world.delete_pod("demo-d-0-1")
    for _ in range(5):
        world.tick()
    golden("operator/explain-image.txt", re.sub(r"n-\d", "n-X", world.explain()))


def test_explain_says_that_all_is_well(world):
    assert world.explain() == "demo is ready: 3 of 3 groups ready\n"


def test_explain_counts_what_is_missing(golden):
    few = World(a_manifest(backend="TensorRTLLM", gpus_per_node=8), nodes={"n-0": {}, "n-1": {}})
    for _ in range(10):
        few.tick()
    golden("operator/explain-gpus.txt", few.explain())
