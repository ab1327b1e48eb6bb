"""Services that want more nodes together than there are: one gets all that it needs, and nobody holds a part for ever."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from doubles.kubernetes.api import ApiError, Obj, key_of
from doubles.operator_world import KilledError, OperatorWorld
from doubles.service_world import a_manifest
from hortator.operator.objects import Ref

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


def strangers(world: OperatorWorld) -> list[Obj]:
    return [pod for pod in world.api.find("Pod") if pod["metadata"]["name"].startswith("train-")]


async def until(condition: Callable[[], bool], *, within_s: float) -> None:
    for _ in range(int(within_s / 0.1)):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"still not so after {within_s} s")


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


async def test_a_write_without_an_answer_may_have_been_done() -> None:
    """The group was admitted, nobody has told the operator so, and the next one looks for room."""
    async with OperatorWorld() as world:
        with_nodes(world, NUM_NODES)
        num_lost = 0

        def lose(verb: str, ref: Ref) -> None:
            nonlocal num_lost
            if verb == "apply" and ref.name == "one-a-0" and "one-a-0" in admitted(world) and not num_lost:
                num_lost += 1
                create(world, "two")
                raise ApiError(504, "Timeout", "no answer")

        world.cluster.after_write = lose
        create(world, "one")
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert admitted(world) <= {"one-a-0"}
        assert (num_lost, placed(world)) == (1, {"one": NUM_WANTED})


@pytest.mark.parametrize("seed", range(3))
async def test_an_operator_that_starts_between_write_and_answer_promises_nothing_twice(seed: int) -> None:
    """The first group is admitted, the process that wrote it is gone, and no pod has a node yet."""
    chance = random.Random(seed)
    async with OperatorWorld() as world:
        with_nodes(world, NUM_NODES)
        world.cluster.latency_s = lambda: chance.uniform(0.0, 0.5)
        num_kills = 0

        def kill(verb: str, ref: Ref) -> None:
            nonlocal num_kills
            if verb == "apply" and ref.kind == "StatefulSet" and admitted(world) and not num_kills:
                num_kills += 1
                raise KilledError

        world.cluster.after_write = kill
        create(world, "one")
        create(world, "two")
        await world.killed()
        first = admitted(world)
        assert (len(first), placed(world)) == (1, {})
        await world.restart()
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert admitted(world) == first
        assert (num_kills, sorted(placed(world).values())) == (1, [NUM_WANTED])


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


async def test_two_services_and_somebody_elses_pods_that_are_faster_do_not_block_each_other() -> None:
    """Each wants five of eight nodes. Three times four are taken from under a group that was just admitted."""
    chance = random.Random(1)
    async with OperatorWorld() as world:
        with_nodes(world, NUM_NODES)
        world.cluster.latency_s = lambda: chance.uniform(0.0, 0.3)
        robbed: list[str] = []

        def rob(_verb: str, ref: Ref) -> None:
            if (
                ref.kind == "StatefulSet"
                and ref.name in admitted(world)
                and len(robbed) < 3
                and not strangers(world)
            ):
                robbed.append(ref.name)
                for number in range(4):
                    stranger(world, f"train-{number}", node=f"node-{number}")

        world.cluster.after_write = rob
        create(world, "one", gang_timeout="10s")
        create(world, "two", gang_timeout="10s")
        for count in (1, 2, 3):
            await until(lambda count=count: len(robbed) == count, within_s=120)
            assert sum(placed(world).values()) <= NUM_NODES - 4
            await until(lambda: not admitted(world) and not placed(world), within_s=60)  # all was given back
            for pod in strangers(world):
                world.api.delete(key_of(pod), grace_s=0)
        await until(lambda: NUM_WANTED in placed(world).values(), within_s=120)
        (first,) = placed(world)
        assert len(admitted(world)) == 1
        world.api.delete(("serving.hortator.dev/v1alpha1", "LLMService", "default", first))
        await until(lambda: placed(world) == {"two" if first == "one" else "one": NUM_WANTED}, within_s=60)
