"""The operator dies after every single write of every scenario, and the next one ends up in the same place.

A scenario is played once to the end to count the operator's writes, then once per write: the operator dies
right after it and starts again, at once or only after the cluster has moved on without it. The end must be the
same, no group may have been started more often, and no invariant of the world may have been broken on the way.
"""

import copy
import functools
import json
import re
from datetime import timedelta

import pytest

from doubles.kubernetes.kubelets import Wait
from doubles.service_world import World, a_manifest
from hortator.operator import names

pytestmark = pytest.mark.timeout(600)  # a scenario is played some forty times

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
MADE = re.compile(r"('name': 'HORTATOR_WORKER_INCARNATION', 'value': )'[a-z0-9]+'")
NODES = {f"n-{index}": {"gpus": 8} for index in range(6)}
DOWN_TICKS = 4
SMALL = {"aggregated": 2, "nodes": 2}


def create(world):
    """Nothing is prepared: the service is new."""


def scale_up(world):
    world.edit({"replicas": 2})


def scale_down_under_load(world):
    world.is_traffic_on = True
    world.tick()
    world.edit({"replicas": 0})


def one_member_is_killed(world):
    world.crash("demo-a-1-1")


def one_pod_is_deleted(world):
    world.delete_pod("demo-a-0-0")


def node_is_removed(world):
    pod = world._pod("demo-a-1-0")
    world.remove_node(pod["spec"]["nodeName"])


def restart_on_request(world):
    world.is_traffic_on = True
    world.tick()
    world.edit({"restart": {"requestedAt": "2026-11-26T11:00:00Z"}})


def new_image(world):
    world.is_traffic_on = True
    world.tick()
    world.edit({"engine": {"image": "registry.example/worker:2"}})


def rollout_is_paused_half_way(world):
    new_image(world)
    world.until(lambda: num_moved(world) == 1)
    world.edit({"rollout": {"paused": True}})
    world.crash("demo-a-0-0")


def rollout_is_taken_back(world):
    """The first group has moved and never gets ready."""
    world.acts_of_images["registry.example/worker:2"] = Wait(reason="ImagePullBackOff")
    new_image(world)
    world.until(lambda: num_moved(world) == 1)
    world.edit({"engine": {"image": None}})


def a_node_cannot_pull_the_image(world):
    """No group is touched, and nothing is left of the attempt when the image is taken back."""
    world.acts_of_images["registry.example/worker:2"] = Wait(reason="ImagePullBackOff")
    new_image(world)
    world.until(lambda: world.condition("Progressing")["reason"] == "PrePullFailed")
    world.edit({"engine": {"image": None}})


def num_moved(world):
    images = [
        one["spec"]["template"]["spec"]["containers"][0]["image"] for one in world.statefulsets().values()
    ]
    return images.count("registry.example/worker:2")


def suspend(world):
    world.is_traffic_on = True
    world.tick()
    world.edit({"suspend": True})


def resume(world):
    world.edit({"suspend": True})
    world.settle()
    world.edit({"suspend": False})


def resume_with_other_nodes(world):
    """What cannot change while serving changes while nothing serves."""
    world.edit({"suspend": True})
    world.until(lambda: world.condition("Suspended")["status"] == "True")
    role = {"name": "Aggregated", "replicas": 2, "nodes": 3, "gpusPerNode": 4}
    world.edit({"suspend": False, "roles": [role | {"parallelism": {"attentionDP": 12, "expert": 12}}]})


def cordon(world):
    world.is_traffic_on = True
    world.tick()
    world.cordon(world._pod("demo-a-0-0")["spec"]["nodeName"])


def drain_on_request(world):
    world.is_traffic_on = True
    world.tick()
    world.request_drain("demo-a-0")


def a_scaler_takes_over(world):
    """It has no number of its own yet, and a second one is in its way."""
    world.add_scaler("decode", "Decode")
    world.clock += timedelta(seconds=1)
    world.add_scaler("decode-again", "Decode", replicas=4)


def a_role_is_scaled_up(world):
    world.add_scaler("decode", "Decode", replicas=2)


def a_role_is_scaled_down_under_load(world):
    world.is_traffic_on = True
    world.tick()
    world.add_scaler("prefill", "Prefill", replicas=1)


def another_model(world):
    """The Job of the model before goes, and one for the new model is made."""
    world.edit({"model": MODEL | {"revision": "v2"}})


def a_member_is_killed_beside_an_invalid_spec(world):
    world.edit({"drain": {"timeout": "soon"}})
    world.crash("demo-a-1-1")


def an_invalid_spec_after_a_good_one(world):
    """The good one has been begun, and is finished."""
    world.edit({"replicas": 2})
    world.look()
    world.edit({"replicas": 1, "drain": {"timeout": "soon"}})


MODEL = {"uri": "hf://deepseek-ai/DeepSeek-V3", "cache": {"create": {"size": "1Ti"}}}
SCENARIOS = {
    "create": (create, a_manifest(**SMALL)),
    "create with prefill and decode on GPUs": (
        create,
        a_manifest(backend="TensorRTLLM", prefill=1, decode=1, nodes=2, gpus_per_node=8),
    ),
    "scale up": (scale_up, a_manifest(aggregated=1, nodes=2)),
    "scale down under load": (scale_down_under_load, a_manifest(**SMALL)),
    "one member is killed": (one_member_is_killed, a_manifest(**SMALL)),
    "one pod is deleted": (one_pod_is_deleted, a_manifest(**SMALL)),
    "a node is removed": (node_is_removed, a_manifest(backend="TensorRTLLM", gpus_per_node=8, **SMALL)),
    "restart on request": (restart_on_request, a_manifest(**SMALL)),
    "new image": (new_image, a_manifest(**SMALL)),
    "new image with a group beside": (
        new_image,
        a_manifest(aggregated=1, nodes=2, rollout={"maxUnavailable": 0, "maxSurge": 1}),
    ),
    "a rollout is paused half way": (rollout_is_paused_half_way, a_manifest(**SMALL)),
    "a rollout is taken back": (rollout_is_taken_back, a_manifest(**SMALL, rollout={"prePull": "Off"})),
    "a node cannot pull the image": (a_node_cannot_pull_the_image, a_manifest(**SMALL)),
    "suspend": (suspend, a_manifest(**SMALL)),
    "resume": (resume, a_manifest(**SMALL)),
    "resume with other nodes": (resume_with_other_nodes, a_manifest(**SMALL)),
    "cordon": (cordon, a_manifest(backend="TensorRTLLM", gpus_per_node=8, **SMALL)),
    "drain on request": (drain_on_request, a_manifest(**SMALL)),
    "a scaler takes over": (a_scaler_takes_over, a_manifest(prefill=1, decode=2, nodes=1)),
    "a role is scaled up": (a_role_is_scaled_up, a_manifest(prefill=1, decode=1, nodes=1)),
    "a role is scaled down under load": (
        a_role_is_scaled_down_under_load,
        a_manifest(prefill=2, decode=1, nodes=1),
    ),
    "create with a model cache": (create, a_manifest(aggregated=1, nodes=2, model=MODEL)),
    "another model": (another_model, a_manifest(aggregated=1, nodes=2, model=MODEL)),
    "a member is killed beside an invalid spec": (
        a_member_is_killed_beside_an_invalid_spec,
        a_manifest(**SMALL),
    ),
    "an invalid spec after a good one": (
        an_invalid_spec_after_a_good_one,
        a_manifest(aggregated=1, nodes=2),
    ),
}


@functools.cache
def _settled(name):
    act, manifest = SCENARIOS[name]
    world = World(manifest, nodes=NODES)
    if act is not create:
        world.settle()
    return world


def prepared(name):
    """The world right after what the scenario does, before the operator has seen it."""
    world = _settled(name).clone()
    SCENARIOS[name][0](world)
    world.num_writes = 0
    return world


def end_of(world):
    """Everything there is at the end, without what depends on the moment."""
    objects = [
        one
        for kind in (
            "StatefulSet",
            "Service",
            "PodDisruptionBudget",
            "Deployment",
            "Secret",
            "ControllerRevision",
            "Job",
            "PersistentVolumeClaim",
        )
        for one in world.api.find(kind)
    ]
    told = {}
    for one in objects:
        metadata = one["metadata"]
        annotations = sorted(metadata.get("annotations", {}))
        data = one.get("data") if one["kind"] == "ControllerRevision" else None
        told[one["kind"], metadata["name"]] = (one.get("spec"), metadata["labels"], annotations, data)
    # (an object's fields have no order: they stand as they were merged, one after the other)
    scalers = [(one["spec"], one.get("status")) for one in world.api.find("LLMServiceScaler")]
    said = [without_volatile(world.status()), scalers]
    status = TIME.sub("TIME", json.dumps(said, sort_keys=True))
    return MADE.sub(r"\1'MADE'", TIME.sub("TIME", str(told))), status


def without_volatile(status):
    status = copy.deepcopy(status)
    for group in status.get("groups", []):
        for member in group.get("members", []):
            member.pop("bootId", None)
            member.pop("node", None)
    return status


def assert_sound(world):
    assert world.broken == []
    for name, statefulset in world.statefulsets().items():
        assert names.ANNOTATION_DRAIN_STARTED_AT not in statefulset["metadata"].get("annotations", {}), name
    for condition in world.status()["conditions"]:
        assert condition["status"] != "Unknown", condition


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_next_operator_ends_where_the_first_would_have(name):
    """Whatever write the operator dies after, and whether the cluster moves on meanwhile or not."""
    undisturbed = prepared(name)
    clones = undisturbed.clones = []
    undisturbed.settle()
    assert_sound(undisturbed)
    expected = end_of(undisturbed)
    assert len(clones) == undisturbed.num_writes >= 4, "a scenario that writes nothing tests nothing"
    for num_done, at_once in enumerate(clones, 1):
        later = at_once.clone()
        for _ in range(DOWN_TICKS):
            later.tick(with_operator=False)
        for world, when in ((at_once, "at once"), (later, "later")):
            world.settle()
            assert_sound(world)
            assert end_of(world) == expected, f"killed after write {num_done}, started again {when}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_operator_that_dies_after_each_of_its_writes_still_gets_there(name):
    """No progress depends on two writes of the same process."""
    undisturbed = prepared(name)
    undisturbed.settle()
    world = prepared(name)
    world.kills_always = True
    world.settle()
    assert_sound(world)
    assert end_of(world) == end_of(undisturbed)


@pytest.mark.parametrize("name", SCENARIOS)
def test_at_rest_nothing_is_written(name):
    """A hundred looks at a service that is as wanted are a hundred looks."""
    world = prepared(name)
    world.settle()
    before = world.api.version
    for _ in range(100):
        world.look()
    assert world.api.version == before


@pytest.mark.parametrize(
    "name",
    [
        "one member is killed",
        "one pod is deleted",
        "a node is removed",
        "a member is killed beside an invalid spec",
    ],
)
def test_one_failure_is_one_restart(name):
    """The group of the failed member has the next epoch, the other group the one it had."""
    world = prepared(name)
    world.settle()
    epochs = sorted(world.epoch_of(group) for group in world.statefulsets())
    assert epochs == [1, 2]
    assert world.num_refused <= 1
