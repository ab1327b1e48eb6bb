"""A pod of higher priority takes the place of a member: its group restarts once, when there is room again."""

import pytest

from doubles.kubernetes.api import key_of
from doubles.service_world import NAMESPACE, World, a_manifest

GPUS = {"backend": "TensorRTLLM", "gpus_per_node": 8, "nodes": 2}
PRIORITY = "research-first"


@pytest.fixture
def world():
    """Two groups on four nodes: none is free."""
    world = World(a_manifest(aggregated=2, **GPUS), nodes={f"n-{index}": {"gpus": 8} for index in range(4)})
    world.settle()
    world.is_traffic_on = True
    world.tick()
    return world


def preempt(world, member):
    """As kube-scheduler does: it says so in the pod's conditions, deletes it, and its node is taken."""
    pod = world._pod(member)
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "default-scheduler: preempting to accommodate a higher priority pod",
        "lastTransitionTime": world.api.timestamp(),
    }
    status = pod["status"] | {"conditions": [*pod["status"]["conditions"], condition]}
    pod = world.api.replace(pod | {"status": status}, manager="scheduler", subresource="status")
    world.api.delete(key_of(pod))
    container = {"name": "train", "image": "a/trainer:1", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    winner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "train",
            "namespace": NAMESPACE,
            "labels": {"hortator.test/of": "somebody-else"},
        },
        "spec": {
            "containers": [container],
            "nodeName": pod["spec"]["nodeName"],
            "priorityClassName": PRIORITY,
        },
    }
    world.api.create(winner)


def pods_of(world, group):
    return [pod for pod in world.api.find("Pod") if pod["metadata"]["name"].startswith(f"{group}-")]


def group(world, name):
    return next(one for one in world.status()["groups"] if one["name"] == name)


@pytest.mark.parametrize("member", ["demo-a-1-0", "demo-a-1-1"])
def test_a_preempted_member_restarts_its_whole_group_once(world, member):
    other = {pod["metadata"]["uid"] for pod in pods_of(world, "demo-a-0")}
    preempt(world, member)
    for _ in range(20):
        world.tick()
    assert pods_of(world, "demo-a-1") == []  # its other node is given back: half a group serves nobody
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "InsufficientGPU")
    assert "has 1 of 4 nodes" in ready["message"]
    assert world.condition("Available")["status"] == "True"
    world.api.delete(("v1", "Pod", NAMESPACE, "train"), grace_s=0)
    world.until(world.is_ready, limit=40)
    assert world.epoch_of("demo-a-1") == 2
    assert group(world, "demo-a-1")["restarts"] == 1
    assert world.epoch_of("demo-a-0") == 1
    assert {pod["metadata"]["uid"] for pod in pods_of(world, "demo-a-0")} == other
    assert world.broken == []
