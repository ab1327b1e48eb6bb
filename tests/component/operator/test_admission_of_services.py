"""Several services that want the same nodes at the same moment: what is free is promised once."""

import asyncio

import pytest

from doubles.operator_world import OperatorWorld

pytestmark = pytest.mark.looptime

NODES_PER_GROUP = 7
"""Of the twelve that there are: one service fits, two do not."""


def started(api):
    """Services with a group that has pods, or is to have some."""
    return {
        one["metadata"]["labels"]["serving.hortator.dev/name"]
        for one in api.find("StatefulSet")
        if one["spec"]["replicas"]
    }


def a_service(world, name):
    ranks = NODES_PER_GROUP * 8
    role = {
        "name": "Aggregated",
        "replicas": 1,
        "nodes": NODES_PER_GROUP,
        "gpusPerNode": 8,
        "parallelism": {"attentionDP": ranks, "expert": ranks},
        "chunkedPrefill": False,
    }
    return world.api.create(
        {
            "apiVersion": "serving.hortator.dev/v1alpha1",
            "kind": "LLMService",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "model": {"uri": "pvc://weights/model"},
                "engine": {"backend": "TensorRTLLM"},
                "topology": "Aggregated",
                "roles": [role],
            },
        }
    )


def cordon(world, *, cordoned):
    """Or uncordon every node."""
    for node in list(world.api.find("Node")):
        key = ("v1", "Node", "", node["metadata"]["name"])
        world.api.patch(key, {"spec": {"unschedulable": cordoned}})


def ready(world, name):
    found = world.api.get(("serving.hortator.dev/v1alpha1", "LLMService", "default", name))
    conditions = found.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == "Ready"), {})


def write_slowly(world):
    """A start takes a while to be written: the other service is looked at meanwhile."""
    call = world.cluster._call

    async def late(verb, ref, do):
        if verb == "apply" and ref.kind == "StatefulSet":
            await asyncio.sleep(0.1)
        return await call(verb, ref, do)

    world.cluster._call = late


@pytest.mark.safety
async def test_nodes_that_become_free_are_promised_to_one_of_two_services_that_wait_for_them():
    async with OperatorWorld() as world:
        write_slowly(world)
        cordon(world, cordoned=True)
        for name in ("left", "right"):
            a_service(world, name)
        await asyncio.sleep(5)
        assert started(world.api) == set()
        cordon(world, cordoned=False)
        for _ in range(200):
            await asyncio.sleep(0.1)
            assert len(started(world.api)) <= 1, "both hold nodes, and neither can have all of its own"
        (winner,) = started(world.api)
        (loser,) = {"left", "right"} - {winner}
        assert ready(world, winner)["status"] == "True"
        assert ready(world, loser)["reason"] == "InsufficientResources"
        pods = [pod for pod in world.api.find("Pod") if pod["metadata"]["name"].startswith(f"{winner}-a-0-")]
        assert len({pod["spec"].get("nodeName") for pod in pods}) == NODES_PER_GROUP
