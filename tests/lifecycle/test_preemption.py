"""The cluster takes a member away: for a pod of higher priority, or because its node is short or tainted.

Its group restarts once, when there is room again. That is no failure of the group: `spec.restart.maxRestarts` is not
used up by it, though each such restart waits longer than the one before, as after failures.
"""

from datetime import timedelta

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


def disrupt(world, member, *, by, message, is_deleted=True, **status):
    """Say in the pod's conditions that it has to go, and delete it; a kubelet ends it instead."""
    pod = world._pod(member)
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": by,
        "message": message,
        "lastTransitionTime": world.api.timestamp(),
    }
    status = pod["status"] | {"conditions": [*pod["status"]["conditions"], condition], **status}
    pod = world.api.replace(pod | {"status": status}, manager="scheduler", subresource="status")
    if is_deleted:
        world.api.delete(key_of(pod))
    return pod


def preempt(world, member):
    """As kube-scheduler does, for a pod that then takes the node."""
    pod = disrupt(
        world,
        member,
        by="PreemptionByScheduler",
        message="default-scheduler: preempting to accommodate a higher priority pod",
    )
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
    found = group(world, "demo-a-1")
    assert found["restarts"] == 0
    assert found["lastFailure"]["reason"] == "PodPreempted"
    assert found["lastFailure"]["message"] == f"pod {member} had to go for one of higher priority"
    assert world.epoch_of("demo-a-0") == 1
    assert {pod["metadata"]["uid"] for pod in pods_of(world, "demo-a-0")} == other
    assert world.broken == []


def under_pressure(world, member):
    message = "The node was low on resource: memory."
    disrupt(
        world,
        member,
        by="TerminationByKubelet",
        message=message,
        is_deleted=False,
        phase="Failed",
        reason="Evicted",
    )


def on_a_tainted_node(world, member):
    disrupt(
        world, member, by="DeletionByTaintManager", message="Taint manager: deleting due to NoExecute taint"
    )


def by_the_eviction_api(world, member):
    disrupt(world, member, by="EvictionByEvictionAPI", message="Eviction API: evicting")


def of_higher_priority(world, member):
    disrupt(world, member, by="PreemptionByScheduler", message="default-scheduler: preempting")


def without_a_cause(world, member):
    world.delete_pod(member)


def has_ended(world, member):
    world.crash(member)


def a_world(**restart):
    """One group that has room at any time."""
    manifest = a_manifest(aggregated=1, **GPUS, restart={"maxRestarts": 1} | restart)
    world = World(manifest, nodes={f"n-{index}": {"gpus": 8} for index in range(6)})
    world.settle()
    return world


def restarted(world, act):
    """How long the group was closed, in seconds."""
    epoch = world.epoch_of("demo-a-0")
    act(world, "demo-a-0-1")
    world.until(lambda: world.epoch_of("demo-a-0") == epoch + 1)
    closed_at = world.clock
    world.until(lambda: world.statefulsets()["demo-a-0"]["spec"]["replicas"] > 0)
    waited = (world.clock - closed_at).total_seconds()
    world.until(world.is_ready)
    return waited


DISRUPTIONS = [
    (of_higher_priority, "PodPreempted"),
    (under_pressure, "PodEvicted"),
    (on_a_tainted_node, "PodEvicted"),
    (by_the_eviction_api, "PodDeleted"),
]


@pytest.mark.parametrize(("act", "reason"), DISRUPTIONS, ids=[one[0].__name__ for one in DISRUPTIONS])
def test_what_the_cluster_takes_away_does_not_use_up_the_restarts(act, reason):
    world = a_world(baseDelay="1s", maxDelay="1s")
    for _ in range(3):
        restarted(world, act)
    found = group(world, "demo-a-0")
    assert (found["restarts"], found["lastFailure"]["reason"]) == (0, reason)
    restarted(world, has_ended)
    assert group(world, "demo-a-0")["restarts"] == 1
    restarted(world, act)
    world.crash("demo-a-0-0")
    world.until(lambda: group(world, "demo-a-0")["phase"] == "Stalled")
    assert world.broken == []


def test_a_pod_that_somebody_deletes_does():
    world = a_world()
    restarted(world, without_a_cause)
    world.delete_pod("demo-a-0-0")
    world.until(lambda: group(world, "demo-a-0")["phase"] == "Stalled")


def test_each_such_restart_waits_longer_within_the_window():
    world = a_world(baseDelay="20s", maxDelay="60s")
    waits = [restarted(world, of_higher_priority) for _ in range(4)]
    assert waits[0] < 10
    assert 18 < waits[1] < 30
    assert 38 < waits[2] < 50
    assert 58 < waits[3] < 70
    world.clock += timedelta(hours=2)
    assert restarted(world, of_higher_priority) < 10


def test_a_condition_that_has_passed_is_no_excuse():
    """Nobody took the pod after all: kube-controller-manager says so after two minutes."""
    world = a_world()
    pod = world._pod("demo-a-0-1")
    passed = {"type": "DisruptionTarget", "status": "False", "reason": "PreemptionByScheduler"}
    status = pod["status"] | {"conditions": [*pod["status"]["conditions"], passed]}
    world.api.replace(pod | {"status": status}, manager="scheduler", subresource="status")
    restarted(world, without_a_cause)
    assert group(world, "demo-a-0")["restarts"] == 1
