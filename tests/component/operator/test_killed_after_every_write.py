"""The real reconciler and executor die right after a write, before they hear of it; the next ones go on from there.

`tests/lifecycle` does this to the pure core with many scenarios; here it is the process around it: what it
keeps in its inventory, its queue and its executor is gone with it.
"""

import asyncio

import pytest

from doubles.kubernetes.api import ApiServer, Obj
from doubles.operator_world import KilledError, OperatorWorld
from hortator.operator.objects import Ref

pytestmark = [pytest.mark.looptime, pytest.mark.timeout(300)]

EPOCH = "serving.hortator.dev/epoch"
LIMIT_S = 300.0


async def create(world: OperatorWorld) -> None:
    role = {"name": "Aggregated", "replicas": 2, "nodes": 2, "gpusPerNode": 4}
    role |= {"parallelism": {"attentionDP": 8, "expert": 8}}
    world.create(drain={"timeout": "0s"}, topology="Aggregated", roles=[role])


async def a_member_fails(world: OperatorWorld) -> None:
    world.kubelets.end("default", "simulated-a-1-1")


async def scale_down(world: OperatorWorld) -> None:
    roles = world.api.get(("serving.hortator.dev/v1alpha1", "LLMService", "default", "simulated"))["spec"][
        "roles"
    ]
    world.edit(roles=[roles[0] | {"replicas": 1}, *roles[1:]])


async def suspend(world: OperatorWorld) -> None:
    world.edit(suspend=True)


async def resume(world: OperatorWorld) -> None:
    world.edit(suspend=False)


STORY = (create, a_member_fails, scale_down, suspend, resume)


def end_of(world: OperatorWorld) -> dict[str, object]:
    """What there is, without what each life of it has anew."""
    sets = {
        one["metadata"]["name"]: (
            one["spec"]["replicas"],
            one["spec"]["template"]["metadata"]["labels"][EPOCH],
            sorted(one["metadata"].get("annotations", {})),
        )
        for one in world.api.find("StatefulSet")
    }
    others = (
        "Service",
        "PodDisruptionBudget",
        "Deployment",
        "Secret",
        "ControllerRevision",
        "ServiceAccount",
    )
    names = {kind: sorted(_name(obj) for obj in world.api.find(kind)) for kind in others}
    pods = sorted(_name(pod) for pod in world.api.find("Pod") if "-a-" in _name(pod))
    return {"sets": sets, "pods": pods, "reason": world.reason()} | names


def _name(obj: Obj) -> str:
    """Hashes of uids differ from world to world."""
    name: str = obj["metadata"]["name"]
    has_uid = obj["kind"] == "Secret" or "-accepted-" in name
    return name.rpartition("-")[0] if has_uid else name


async def at_rest(world: OperatorWorld) -> None:
    """Return once nothing has been written for some seconds, whoever writes."""
    seen, still_s = -1, 0
    end = asyncio.get_running_loop().time() + LIMIT_S
    while still_s < 3:
        assert asyncio.get_running_loop().time() < end, f"not at rest after {LIMIT_S:g} s"
        await asyncio.sleep(1.0)
        still_s = still_s + 1 if world.api.version == seen else 0
        seen = world.api.version


async def played(world: OperatorWorld) -> None:
    """The story, each part to its end."""
    for part in STORY:
        await part(world)
        await at_rest(world)


async def started_again_and_again(world: OperatorWorld) -> None:
    while True:
        await world.killed()
        await world.restart()


async def test_an_operator_that_dies_after_each_of_its_writes_plays_the_whole_story() -> None:
    async with OperatorWorld() as undisturbed:
        await played(undisturbed)
        expected = end_of(undisturbed)
    async with OperatorWorld() as world:
        writes: list[Ref] = []

        def die(_verb: str, ref: Ref) -> None:
            writes.append(ref)
            raise KilledError

        world.cluster.after_write = die
        keeper = asyncio.create_task(started_again_and_again(world))
        await played(world)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        assert end_of(world) == expected
        assert world.num_starts == len(writes) + 1
        assert len(writes) > 40


async def test_whatever_write_the_operator_dies_after_the_next_one_ends_where_it_would_have() -> None:
    deaths: list[tuple[str, ApiServer]] = []
    ends: dict[str, dict[str, object]] = {}
    async with OperatorWorld() as undisturbed:
        for part in STORY:
            _remember_deaths(undisturbed, part.__name__, deaths)
            await part(undisturbed)
            await at_rest(undisturbed)
            ends[part.__name__] = end_of(undisturbed)
    assert {name for name, _ in deaths} == set(ends)
    for number, (name, past) in enumerate(deaths, 1):
        async with OperatorWorld(past=past, at=undisturbed.began_at) as world:
            await at_rest(world)
            assert end_of(world) == ends[name], f"{name}: killed after write {number}"


def _remember_deaths(world: OperatorWorld, name: str, deaths: list[tuple[str, ApiServer]]) -> None:
    """Copy the cluster as it is after each write, but those of events, which nothing is read from."""

    def remember(_verb: str, ref: Ref) -> None:
        if ref.kind != "Event":
            deaths.append((name, world.copy()))

    world.cluster.after_write = remember
