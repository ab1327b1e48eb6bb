"""What becomes of groups whose members fail: fenced, started again, and in the end left alone."""

from datetime import timedelta

import pytest

from doubles.kubernetes.kubelets import Wait
from doubles.service_world import NAMESPACE, START, World, a_manifest
from hortator.api.v1alpha1 import RestartSpec
from hortator.operator import names
from hortator.operator.waiting import delay_s, gang_delay_s

NODES = {f"n-{index}": {"gpus": 8} for index in range(6)}
RESTART = {"maxRestarts": 2, "baseDelay": "20s", "maxDelay": "60s", "window": "1h"}
GPUS = {"backend": "TensorRTLLM", "gpus_per_node": 8}


def settled(nodes=NODES, **arguments):
    world = World(a_manifest(**({"aggregated": 2} | arguments)), nodes=nodes)
    world.settle()
    world.actions.clear()
    return world


def group(world, name):
    return next(one for one in world.status()["groups"] if one["name"] == name)


@pytest.fixture
def stalled():
    """Group 1 has crashed whenever it could."""
    world = settled(restart=RESTART)
    world.acts["demo-a-1-1"] = None
    world.crash("demo-a-1-1")
    world.until(lambda: world.condition("Stalled").get("status") == "True")
    return world


def test_a_crash_loop_ends_in_stalled_while_the_other_group_serves(stalled):
    assert stalled.broken == []
    assert stalled.epoch_of("demo-a-1") == 3  # 1 + two restarts
    assert stalled.epoch_of("demo-a-0") == 1
    assert group(stalled, "demo-a-0")["phase"] == "Ready"
    assert group(stalled, "demo-a-1")["phase"] == "Stalled"
    ready = stalled.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "RestartBudgetExhausted")
    assert "demo-a-1-1" in ready["message"]
    assert stalled.condition("Available")["status"] == "True"


def test_the_pods_of_a_stalled_group_stay_for_a_look(stalled):
    uids = {pod["metadata"]["uid"] for pod in stalled.api.find("Pod")}
    stalled.clock += timedelta(hours=3)  # the window is long over: that alone starts nothing
    for _ in range(10):
        stalled.tick()
    assert {pod["metadata"]["uid"] for pod in stalled.api.find("Pod")} == uids
    assert stalled.condition("Stalled")["status"] == "True"


@pytest.mark.parametrize(
    "change", [{"restart": {"requestedAt": "2026-11-26T12:00:00Z"}}, {"engine": {"image": "a/worker:2"}}]
)
def test_a_request_or_a_new_spec_ends_stalled(stalled, change):
    del stalled.acts["demo-a-1-1"]
    stalled.edit(change)
    stalled.settle()
    assert stalled.is_ready()
    assert stalled.condition("Stalled")["status"] == "False"
    assert group(stalled, "demo-a-1")["restarts"] == 0
    assert stalled.broken == []


def test_the_pauses_between_restarts_grow():
    spec = RestartSpec.model_validate({"baseDelay": "10s", "maxDelay": "60s"})
    assert [delay_s(count, spec) for count in range(1, 7)] == [0, 10, 20, 40, 60, 60]
    assert delay_s(10_000, spec) == 60


def test_the_second_restart_waits_and_says_until_when():
    world = settled(aggregated=1, restart=RESTART)
    for _ in range(2):
        world.crash("demo-a-0-1")
        world.until(lambda: world.condition("Ready")["status"] != "True")
        world.until(lambda: world.is_ready() or "nextRestartAt" in group(world, "demo-a-0"))
    told = group(world, "demo-a-0")
    assert told["reason"] == "RestartBackoff"
    assert told["nextRestartAt"] in told["message"]
    assert told["restarts"] == 2
    assert world.plan().wake_after_s == pytest.approx(20, abs=3)
    world.settle()
    assert world.is_ready()


def test_a_restart_policy_of_none_leaves_the_group_broken_and_says_why():
    world = settled(restart={"policy": "None"})
    world.crash("demo-a-1-0")
    for _ in range(10):
        world.tick()
    assert world.epoch_of("demo-a-1") == 1
    assert world.condition("Degraded")["status"] == "True"
    assert "demo-a-1-0" in world.condition("Ready")["message"]


def test_a_group_on_a_lost_node_waits_until_the_node_is_shown_to_be_dead():
    """Its pod may still run: a second one of its rank must not."""
    world = settled(**GPUS)
    node = world._pod("demo-a-1-0")["spec"]["nodeName"]
    world.lose_node(node)
    world.clock += timedelta(seconds=31)
    world.until(lambda: world.condition("Ready").get("reason") == "NodeLost")
    for _ in range(20):
        world.tick()
    assert world.epoch_of("demo-a-1") == 2
    assert [
        pod["metadata"]["name"] for pod in world.api.find("Pod") if "demo-a-1" in pod["metadata"]["name"]
    ] == ["demo-a-1-0"]
    assert node in world.condition("Ready")["message"]
    world.remove_node(node)
    world.settle()
    assert world.is_ready()
    assert world.epoch_of("demo-a-1") == 2
    assert world.broken == []


def test_a_node_object_that_is_made_anew_restarts_nothing():
    """Its pods run on; a list of nodes that lacks one for a moment is no failure either."""
    world = settled(**GPUS)
    name = world._pod("demo-a-1-0")["spec"]["nodeName"]
    node = world.api.get(("v1", "Node", "", name))
    world.api.delete(("v1", "Node", "", name))
    for _ in range(3):
        world.look()
    assert world.epoch_of("demo-a-1") == 1
    world.kubelets.add_node(name, labels=node["metadata"]["labels"])
    world.settle()
    assert world.epoch_of("demo-a-1") == 1


def test_a_node_that_is_tainted_out_of_service_is_as_good_as_gone():
    world = settled(**GPUS)
    node = world._pod("demo-a-1-0")["spec"]["nodeName"]
    world.lose_node(node)
    taint = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}
    world.api.patch(("v1", "Node", "", node), {"spec": {"taints": [taint]}})
    world.settle()
    assert world.is_ready()
    assert world.epoch_of("demo-a-1") == 2


def test_replicas_that_somebody_adds_are_taken_back_and_the_group_serves_on():
    world = settled()
    world.is_traffic_on = True
    world.tick()
    uids = [world._pod(f"demo-a-1-{ordinal}")["metadata"]["uid"] for ordinal in range(2)]
    world.api.patch(("apps/v1", "StatefulSet", NAMESPACE, "demo-a-1"), {"spec": {"replicas": 3}})
    world.settle()
    assert world.statefulsets()["demo-a-1"]["spec"]["replicas"] == 2
    assert world._pod("demo-a-1-2") is None
    assert [world._pod(f"demo-a-1-{ordinal}")["metadata"]["uid"] for ordinal in range(2)] == uids
    assert world.epoch_of("demo-a-1") == 1
    assert "Warning ReplicasChanged" in world.events
    assert world.is_ready()
    assert world.broken == []


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_statefulset_whose_replicas_somebody_takes_away_starts_again_as_a_whole(replicas):
    world = settled()
    world.api.patch(("apps/v1", "StatefulSet", NAMESPACE, "demo-a-1"), {"spec": {"replicas": replicas}})
    world.settle()
    assert world.is_ready()
    assert world.epoch_of("demo-a-1") == 2
    assert group(world, "demo-a-1")["lastFailure"]["reason"] == "ReplicasChanged"
    assert world.broken == []


def test_too_few_gpus_are_told_with_the_arithmetic():
    world = World(a_manifest(aggregated=1, nodes=4, **GPUS), nodes={"n-0": {"gpus": 8}, "n-1": {"gpus": 4}})
    for _ in range(10):
        world.tick()
    ready = world.condition("Ready")
    assert ready["reason"] == "InsufficientGPU"
    assert ready["message"] == "group demo-a-0 needs 4 nodes with 8 nvidia.com/gpu free, has 1 of 2 nodes"
    assert world.api.find("Pod", **{names.LABEL_COMPONENT: "engine"}) == []  # half a group holds no GPUs
    for index in range(3):
        world.kubelets.add_node(f"new-{index}")
    world.settle()
    assert world.is_ready()


def test_too_little_memory_is_told_too():
    role = {"name": "Aggregated", "nodes": 2, "parallelism": {"attentionDP": 16, "expert": 16}}
    manifest = a_manifest(**GPUS)
    manifest["spec"]["roles"] = [role | {"resources": {"memory": "600Gi"}}]
    world = World(manifest, nodes=NODES)
    for _ in range(5):
        world.tick()
    ready = world.condition("Ready")
    assert ready["reason"] == "InsufficientResources"
    assert ready["message"] == "group demo-a-0 needs 2 nodes with 600Gi memory free, has 0 of 6 nodes"


@pytest.mark.parametrize("arguments", [GPUS, {}])
def test_groups_that_start_without_a_look_for_room_say_so(arguments):
    """Until something better is known; for groups without devices nobody looks in any case."""
    world = World(a_manifest(aggregated=1, nodes=4, **arguments), nodes={"n-0": {"gpus": 8}})
    world.is_allowed_to_see_nodes = False
    world.look()
    world.look()
    scheduled = world.condition("Scheduled")
    assert (scheduled["status"], scheduled["reason"]) == (
        "False",
        "NoCapacityCheck" if arguments else "PodsCreating",
    )
    assert ("room for group demo-a-0 was not looked for" in scheduled["message"]) is bool(arguments)
    world.until(lambda: world.api.find("Pod", **{names.LABEL_COMPONENT: "engine"}) != [])
    if arguments:
        world.until(lambda: world.condition("Scheduled")["reason"] == "InsufficientGPU")
    else:
        world.until(lambda: world.condition("Scheduled")["reason"] == "AllPodsScheduled")
        assert "room was not looked for" in world.condition("Scheduled")["message"]


def test_a_group_is_bound_to_one_topology_domain():
    nodes = {f"{block}{index}": {"labels": {"block": block}} for block in "abc" for index in range(2)}
    nodes["a9"] = {"labels": {"block": "a"}}
    world = World(a_manifest(aggregated=2, **GPUS, placement={"topologyKey": "block"}), nodes=nodes)
    world.settle()
    assert world.is_ready()
    blocks = {
        name: {
            pod["spec"]["nodeName"][0]
            for pod in world.api.find("Pod")
            if pod["metadata"]["name"].startswith(name)
        }
        for name in world.statefulsets()
    }
    assert blocks == {
        "demo-a-0": {"b"},
        "demo-a-1": {"c"},
    }  # the tight ones first, a's three nodes stay whole
    assert group(world, "demo-a-0")["domain"] == "b"


def test_no_domain_with_enough_room_is_told_as_such():
    nodes = {f"{block}0": {"labels": {"block": block}} for block in "ab"}
    world = World(a_manifest(aggregated=1, **GPUS, placement={"topologyKey": "block"}), nodes=nodes)
    for _ in range(10):
        world.tick()
    ready = world.condition("Ready")
    assert ready["reason"] == "TopologyUnsatisfied"
    assert (
        "needs 2 nodes with 8 nvidia.com/gpu free in one block; the best has 1, all together 2"
        in ready["message"]
    )


def test_what_cannot_be_placed_as_a_whole_is_given_back():
    """Something took the nodes between the count and the placement."""
    world = World(a_manifest(aggregated=1, **GPUS, placement={"gang": {"timeout": "30s"}}), nodes=NODES)
    world.until(lambda: world.statefulsets() and world.statefulsets()["demo-a-0"]["spec"]["replicas"] == 2)
    for index in range(5):  # one pod finds a node, the other none
        world.cordon(f"n-{index}")
    for pod in world.api.find("Pod"):
        if names.parse_pod_name(pod["metadata"]["name"]):
            world.api.delete(("v1", "Pod", NAMESPACE, pod["metadata"]["name"]), grace_s=0)
    world.until(lambda: world.epoch_of("demo-a-0") == 2, limit=60)
    world.tick()
    assert group(world, "demo-a-0")["lastFailure"]["reason"] == "GangTimeout"
    assert group(world, "demo-a-0")["restarts"] == 0  # nobody's fault
    for index in range(5):
        world.cordon(f"n-{index}", is_cordoned=False)
    world.settle()
    assert world.is_ready()
    assert world.epoch_of("demo-a-0") == 2
    assert "lastFailure" not in group(world, "demo-a-0")


def test_groups_that_collided_try_again_at_different_times():
    delays = {gang_delay_s("uid", f"demo-a-{index}", 1) for index in range(8)}
    assert len(delays) == 8
    assert all(5 <= delay <= 15 for delay in delays)
    assert gang_delay_s("uid", "demo-a-0", 1) == gang_delay_s("uid", "demo-a-0", 1)
    assert all(150 <= gang_delay_s("uid", "demo-a-0", attempt) <= 450 for attempt in (6, 99))


def test_a_drain_ends_when_its_time_is_up_even_if_the_scheduler_is_silent():
    world = settled(drain={"timeout": "30s"})
    world.is_scheduler_answering = False
    world.edit({"restart": {"requestedAt": "2026-11-26T12:00:00Z"}})
    world.until(lambda: world.epoch_of("demo-a-1") == 2, limit=60)
    assert world.clock >= START + timedelta(seconds=30)


@pytest.mark.parametrize("change", [{"replicas": 0}, {"suspend": True}])
def test_a_group_that_takes_requests_before_it_is_recorded_is_drained_too(change):
    """Its engine reports to the scheduler a moment before the operator has seen all members ready."""
    world = World(a_manifest(aggregated=1), nodes=NODES)
    world.is_traffic_on = True
    world.until(lambda: bool(world.loads()))
    assert names.ANNOTATION_MEMBERS not in world.statefulsets()["demo-a-0"]["metadata"]["annotations"]
    world.edit(change)
    world.settle()
    assert world.broken == []
    assert world.draining


def test_a_drain_that_has_begun_is_finished_even_if_the_cause_goes_away():
    """The worker was told to take nothing more; only a new start makes it forget."""
    world = settled()
    world.is_traffic_on = True
    world.tick()
    world.edit({"suspend": True})
    world.until(lambda: len(world.draining) == 2)
    world.edit({"suspend": False})
    world.settle()
    assert world.is_ready()
    assert {world.epoch_of(name) for name in world.statefulsets()} == {2}
    assert world.broken == []


def test_a_pod_of_an_older_epoch_that_turns_up_late_is_removed():
    """The StatefulSet's controller may still have acted on the template before."""
    world = World(a_manifest(aggregated=1), nodes=NODES)
    for _ in range(2):
        world.look()
        world.controllers.stateful_sets()
    world.api.patch(
        ("v1", "Pod", NAMESPACE, "demo-a-0-1"), {"metadata": {"labels": {names.LABEL_EPOCH: "0"}}}
    )
    world.settle()
    assert world.is_ready()
    assert world.epoch_of("demo-a-0") == 1


def test_waiting_for_a_peer_names_the_peer():
    world = World(a_manifest(aggregated=1), nodes=NODES)
    world.acts["demo-a-0-1"] = Wait(reason="ContainerCreating")
    for _ in range(8):
        world.tick()
    ready = world.condition("Ready")
    assert ready["reason"] in {"WaitingForPeers", "PodsCreating"}
    assert "demo-a-0-1" in ready["message"]
