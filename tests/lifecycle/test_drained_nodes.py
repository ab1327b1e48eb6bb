"""Nodes of several groups are drained at once, in every order: no more groups are away than is allowed.

An eviction is what `kubectl drain` sends again every few seconds: refused while the group's disruption budget is
closed, unless the pod is not ready anyway.
"""

import random

import pytest

from doubles.kubernetes.api import key_of
from doubles.kubernetes.controllers import is_ready
from doubles.service_world import NAMESPACE, World, a_manifest
from hortator.operator import names

NUM_GROUPS = 3
NUM_NODES = 12
GPUS = {"backend": "TensorRTLLM", "gpus_per_node": 8, "nodes": 2, "drain": {"timeout": "10s"}}


def a_world(limit, **spec):
    manifest = a_manifest(aggregated=NUM_GROUPS, **GPUS, disruption={"maxUnavailableGroups": limit}, **spec)
    world = World(manifest, nodes={f"n-{index:02}": {"gpus": 8} for index in range(NUM_NODES)})
    world.settle()
    world.is_traffic_on = True
    world.tick()
    return world


def members(world, node):
    return [
        pod
        for pod in list(world.api.find("Pod"))
        if pod["spec"].get("nodeName") == node and names.parse_pod_name(pod["metadata"]["name"])
    ]


def evict(world, pod):
    """Whether the API server takes the eviction."""
    group = pod["metadata"]["name"].rpartition("-")[0]
    budget = world.api.get(("policy/v1", "PodDisruptionBudget", NAMESPACE, group))
    if is_ready(pod) and budget["spec"]["maxUnavailable"] == 0:
        return False
    if "deletionTimestamp" not in pod["metadata"]:
        world.api.delete(key_of(pod))
    return True


def num_away(world):
    """Groups that serve nobody: a member is missing, not ready or going."""
    return NUM_GROUPS - sum(
        world.is_truly_up(f"demo-a-{index}")
        and all(
            is_ready(pod)
            for pod in world.api.find("Pod")
            if pod["metadata"]["name"].startswith(f"demo-a-{index}-")
        )
        for index in range(NUM_GROUPS)
    )


def drained(world, chosen, chance, *, limit, kills=False, ticks=300):
    """`kubectl drain` of these nodes beside each other until nothing of the service is on any."""
    refused = 0
    begins = {node: chance.randrange(4) for node in chosen}
    for tick in range(ticks):
        for node in chance.sample(sorted(chosen), len(chosen)):
            if tick < begins[node]:
                continue
            world.cordon(node)
            for pod in members(world, node):
                if chance.random() < 0.5:
                    refused += not evict(world, pod)
        world.kills_always = kills and chance.random() < 0.5
        world.tick(with_operator=chance.random() < 0.8)
        assert num_away(world) <= limit, world.explain()
        assert world.broken == []
        if tick > 4 and not any(members(world, node) for node in chosen):
            world.kills_always = False
            return refused
    raise AssertionError(world.explain())


def nodes_of(world, group):
    return sorted({world._pod(f"{group}-{ordinal}")["spec"]["nodeName"] for ordinal in range(2)})


@pytest.mark.parametrize("kills", [False, True])
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_two_nodes_of_different_groups_are_drained_within_what_is_allowed(seed, limit, kills):
    chance = random.Random(f"{seed}/{limit}/{kills}")
    world = a_world(limit)
    chosen = {chance.choice(nodes_of(world, group)) for group in ("demo-a-0", "demo-a-2")}
    assert drained(world, chosen, chance, limit=limit, kills=kills) > 0
    world.is_traffic_on = False
    world.settle()
    assert world.is_ready(), world.explain()
    moved = {name for name in world.statefulsets() if world.epoch_of(name) == 2}
    assert moved == {"demo-a-0", "demo-a-2"}  # once each, and the third not at all


@pytest.mark.parametrize("seed", range(4))
def test_a_rollout_and_drained_nodes_share_what_may_be_away(seed):
    chance = random.Random(seed)
    world = a_world(1, rollout={"maxUnavailable": 1})
    chosen = {chance.choice(nodes_of(world, group)) for group in ("demo-a-0", "demo-a-1")}
    for _ in range(chance.randrange(6)):
        world.tick()
    world.edit({"engine": {"image": "a/worker:2"}})
    drained(world, chosen, chance, limit=1)
    world.is_traffic_on = False
    for _ in range(200):
        assert num_away(world) <= 1
        if world.is_ready() and world.is_truly_ready():
            break
        world.tick()
    assert world.is_ready(), world.explain()
    assert not any(members(world, node) for node in chosen)
