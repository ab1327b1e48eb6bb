"""A node on which groups have failed again and again: others are taken while there are others."""

from datetime import timedelta

import pytest

from doubles.service_world import NAMESPACE, World, a_manifest
from hortator.operator import names
from hortator.operator.avoidance import NUM_FAILURES

GPUS = {"backend": "TensorRTLLM", "gpus_per_node": 8, "nodes": 2}
RESTART = {"maxRestarts": 5, "baseDelay": "1s", "maxDelay": "1s", "window": "1h"}
BAD = "n-0"


def a_world(num_nodes, *, labels=lambda _index: {}, **manifest):
    nodes = {f"n-{index}": {"gpus": 8, "labels": labels(index)} for index in range(num_nodes)}
    world = World(a_manifest(**({"aggregated": 1, "restart": RESTART} | GPUS | manifest)), nodes=nodes)
    world.settle()
    return world


def nodes_of(world, group="demo-a-0"):
    return {world._pod(f"{group}-{ordinal}")["spec"]["nodeName"] for ordinal in range(2)}


def member_on(world, node):
    return next(
        pod["metadata"]["name"]
        for pod in world.api.find("Pod")
        if pod["spec"].get("nodeName") == node and names.parse_pod_name(pod["metadata"]["name"])
    )


def fail_on(world, node, times=NUM_FAILURES):
    """The member on a node crashes, and its group starts again, so many times."""
    for _ in range(times):
        member = member_on(world, node)
        group = member.rpartition("-")[0]
        epoch = world.epoch_of(group)
        world.crash(member)
        world.until(lambda group=group, epoch=epoch: world.epoch_of(group) == epoch + 1)
        world.until(world.is_ready)
    assert world.broken == []


def avoided(world):
    world.tick()
    return {one["node"]: one["failures"] for one in world.status()["avoidedNodes"]}


def test_one_failure_is_no_reason_to_avoid_a_node():
    world = a_world(4)
    fail_on(world, BAD, times=NUM_FAILURES - 1)
    assert BAD in nodes_of(world)
    assert avoided(world) == {}


def test_a_group_that_failed_repeatedly_on_a_node_starts_elsewhere_and_the_status_says_so():
    world = a_world(4)
    assert BAD in nodes_of(world)
    fail_on(world, BAD)
    assert nodes_of(world) == {"n-1", "n-2"}
    assert avoided(world) == {BAD: NUM_FAILURES}


def test_a_group_starts_on_an_avoided_node_where_there_is_no_other():
    world = a_world(2)
    fail_on(world, BAD, times=NUM_FAILURES + 1)
    assert nodes_of(world) == {BAD, "n-1"}
    assert avoided(world) == {BAD: NUM_FAILURES + 1}


def test_a_domain_that_holds_the_group_only_with_an_avoided_node_is_taken_in_the_end():
    """n-0 and n-1 are one rack, n-2 another: a group of two fits into the first alone."""
    world = a_world(
        3,
        labels=lambda index: {"rack": f"r{index // 2}"},
        placement={"topologyKey": "rack", "mode": "Required"},
    )
    fail_on(world, BAD)
    assert nodes_of(world) == {BAD, "n-1"}


def test_other_groups_of_the_service_avoid_it_as_well():
    world = a_world(6)
    fail_on(world, BAD)
    world.edit({"replicas": 2})
    world.settle()
    assert nodes_of(world, "demo-a-1") == {"n-3", "n-4"}


def test_a_node_that_is_needed_again_is_the_first_to_be_taken_by_nobody_else():
    """Two groups, four nodes, one of them avoided: the second group takes it rather than wait."""
    world = a_world(4)
    fail_on(world, BAD)
    world.edit({"replicas": 2})
    world.settle()
    assert world.is_ready()
    assert nodes_of(world, "demo-a-1") == {BAD, "n-3"}


def test_it_is_forgotten_when_the_failures_are_older_than_the_window():
    world = a_world(4)
    fail_on(world, BAD)
    assert avoided(world)
    world.clock += timedelta(hours=1, minutes=1)
    assert avoided(world) == {}
    world.delete_pod("demo-a-0-0")
    world.until(lambda: world.epoch_of("demo-a-0") == NUM_FAILURES + 2)
    world.settle()
    assert BAD in nodes_of(world)


def test_the_operator_looks_again_when_a_node_is_forgotten():
    world = a_world(4)
    fail_on(world, BAD)
    world.settle()  # runs into the time when nothing is waited for any more
    assert world.status()["avoidedNodes"] == []


def test_a_restart_on_request_forgets_it():
    world = a_world(4)
    fail_on(world, BAD)
    world.edit({"restart": RESTART | {"requestedAt": "2026-11-26T12:00:00Z"}})
    world.until(lambda: world.epoch_of("demo-a-0") == NUM_FAILURES + 2)
    world.until(world.is_ready)
    assert avoided(world) == {}
    assert BAD in nodes_of(world)


def test_a_pod_that_somebody_deletes_is_not_its_nodes_fault():
    world = a_world(4)
    for epoch in range(2, NUM_FAILURES + 3):
        world.delete_pod(member_on(world, BAD))
        world.until(lambda epoch=epoch: world.epoch_of("demo-a-0") == epoch)
        world.until(world.is_ready)
    assert BAD in nodes_of(world)
    assert avoided(world) == {}


def test_a_cordon_between_failures_does_not_wash_a_node_clean():
    world = a_world(4)
    fail_on(world, BAD, times=NUM_FAILURES - 1)
    world.cordon("n-1")
    world.until(lambda: world.epoch_of("demo-a-0") == NUM_FAILURES + 1)
    world.until(world.is_ready)
    world.cordon("n-1", is_cordoned=False)
    fail_on(world, BAD, times=1)
    assert BAD not in nodes_of(world)


def test_without_sight_of_nodes_nothing_is_avoided_and_the_group_starts():
    world = a_world(4)
    world.is_allowed_to_see_nodes = False
    fail_on(world, BAD, times=NUM_FAILURES + 1)
    assert BAD in nodes_of(world)


@pytest.mark.parametrize("times", [3, 5])
def test_what_is_remembered_is_bounded(times):
    """Restarts without a limit, on one node after the other."""
    world = a_world(8, restart=RESTART | {"maxRestarts": 100})
    for _ in range(times):
        fail_on(world, min(nodes_of(world)))
    statefulset = world.api.get(("apps/v1", "StatefulSet", NAMESPACE, "demo-a-0"))
    assert len(statefulset["metadata"]["annotations"][names.ANNOTATION_NODE_FAILURES]) < 2000
    assert len(avoided(world)) == min(times, 8)
    assert world.is_ready()
