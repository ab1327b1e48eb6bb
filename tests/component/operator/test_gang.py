"""Services that want more nodes together than there are: one gets all that it needs, and nobody holds a part for ever."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from doubles.kubernetes.api import ApiError, Obj, key_of
from doubles.operator_world import OperatorWorld
from doubles.service_world import a_manifest

pytestmark = pytest.mark.looptime

NUM_NODES = 8
NUM_WANTED = 5
GPU = "nvidia.com/gpu"


def with_nodes(world: OperatorWorld, num: int) -> None:
    for number in range(num, 12):
        world.api.delete(("v1", "Node", "", f"node-{number}"))


def create(world: OperatorWorld, name: str, *, gang_timeout: str = "30s") -> None:
    manifest = a_manifest(
        backend="TensorRTLLM",
        aggregated=1,
        nodes=NUM_WANTED,
        gpus_per_node=8,
        placement={"gang": {"timeout": gang_timeout}},
    )
    manifest["metadata"]["name"] = name
    world.api.create(manifest)


def stranger(world: OperatorWorld, name: str, *, node: str = "") -> None:
    """A pod of somebody else that takes all GPUs of a node."""
    container = {"name": "train", "image": "a/trainer:1", "resources": {"limits": {GPU: "8"}}}
    spec: dict[str, Any] = {"containers": [container]} | ({"nodeName": node} if node else {})
    metadata = {"name": name, "namespace": "default"}
    world.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def placed(world: OperatorWorld) -> Counter[str]:
    """Engine pods on nodes, by service."""
    return Counter(
        pod["metadata"]["name"].partition("-")[0]
        for pod in world.api.find("Pod")
        if pod["metadata"]["name"].count("-") == 3
        and "-a-" in pod["metadata"]["name"]
        and pod["spec"].get("nodeName")
    )


def reason(world: OperatorWorld, name: str) -> str:
    found = world.api.get(("serving.hortator.dev/v1alpha1", "LLMService", "default", name))
    conditions: list[Obj] = found.get("status", {}).get("conditions", [])
    return next((str(one["reason"]) for one in conditions if one["type"] == "Ready"), "")


def admitted(world: OperatorWorld) -> set[str]:
    """Groups that have been asked for any pods."""
    return {one["metadata"]["name"] for one in world.api.find("StatefulSet") if one["spec"]["replicas"] > 0}


@pytest.mark.parametrize("seed", [3, 5])
async def test_two_services_are_never_promised_the_same_nodes(seed: int) -> None:
    """Both are looked at at once, and each write takes a while."""
    chance = random.Random(seed)
    async with OperatorWorld() as world:
        with_nodes(world, NUM_NODES)
        world.cluster.latency_s = lambda: chance.uniform(0.0, 0.5)
        create(world, "one")
        create(world, "two")
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert len(admitted(world)) <= 1
        assert sorted(placed(world).values()) == [NUM_WANTED]
        assert sorted((reason(world, "one"), reason(world, "two"))) != ["InsufficientGPU", "InsufficientGPU"]


async def test_a_promise_whose_write_failed_is_given_back() -> None:
    """The first service may never start: the second does not wait for it for ever."""
    async with OperatorWorld() as world:
        with_nodes(world, NUM_NODES)
        world.cluster.fault = lambda verb, ref: (
            ApiError(422, "Invalid", "no") if (verb, ref.name) == ("apply", "one-a-0") else None
        )
        create(world, "one")
        await asyncio.sleep(2)
        create(world, "two")
        await asyncio.sleep(30)
        assert admitted(world) == {"two-a-0"}


async def test_room_that_becomes_free_is_taken_though_no_node_changes() -> None:
    """Somebody else's pod goes: no object of the service, and no node, says so."""
    async with OperatorWorld() as world:
        with_nodes(world, NUM_NODES)
        for number in range(4):
            stranger(world, f"train-{number}", node=f"node-{number}")
        create(world, "one")
        await asyncio.sleep(60)
        assert (admitted(world), reason(world, "one")) == (set(), "InsufficientGPU")
        world.api.delete(("v1", "Pod", "default", "train-0"), grace_s=0)
        await asyncio.sleep(20)
        assert placed(world) == {"one": NUM_WANTED}


async def test_two_services_of_five_of_eight_nodes_and_somebody_elses_pods_do_not_block_each_other() -> None:
    """They race for GPUs: in the end one service has all it needs, and when it goes the other has."""
    chance = random.Random(1)
    async with OperatorWorld() as world:
        with_nodes(world, NUM_NODES)
        world.cluster.latency_s = lambda: chance.uniform(0.0, 0.3)
        create(world, "one", gang_timeout="10s")
        create(world, "two", gang_timeout="10s")
        for number in range(20):
            await asyncio.sleep(chance.uniform(0.1, 1.5))
            stranger(world, f"train-{number}")
            pods = [pod for pod in world.api.find("Pod") if pod["metadata"]["name"].startswith("train-")]
            if len(pods) > 4:
                world.api.delete(key_of(chance.choice(pods)), grace_s=0)
        for pod in list(world.api.find("Pod")):
            if pod["metadata"]["name"].startswith("train-"):
                world.api.delete(key_of(pod), grace_s=0)
        for _ in range(90):  # at most 15 min: the pauses between tries grow
            await asyncio.sleep(10)
            if NUM_WANTED in placed(world).values():
                break
        assert sorted(placed(world).values()) == [NUM_WANTED]
        (first,) = placed(world)
        assert "GangTimeout" in {event["reason"] for event in world.api.find("Event")}  # it was a true race
        assert len(admitted(world)) == 1
        world.api.delete(("serving.hortator.dev/v1alpha1", "LLMService", "default", first))
        await asyncio.sleep(60)
        assert placed(world) == {"two" if first == "one" else "one": NUM_WANTED}
