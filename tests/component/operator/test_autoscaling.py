"""The operator's own scaler over the in-memory API: what it writes, and whom it leaves alone."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from doubles.kubernetes.api import Obj
from doubles.operator_world import NAME, SERVICE, OperatorWorld
from hortator.operator.observed import SchedulerView
from hortator.operator.schedulers import SchedulerAt

pytestmark = pytest.mark.looptime

SCALING = {"minReplicas": 1, "maxReplicas": 2, "scaleUpWindow": "20s", "scaleDownWindow": "1m"}


class Asked:
    """A scheduler: so much is asked of a service, in role sets of two prefill groups and a decode group."""

    def __init__(self, world: OperatorWorld) -> None:
        self.world = world
        self.num_sets: float | None = 0.0
        world.schedulers.answer = self.view

    def view(self, _schedulers: Sequence[SchedulerAt]) -> SchedulerView | None:
        if self.num_sets is None:
            return None
        workers = self.world.ready_workers()
        counts = {
            phase: sum(one.phase == phase for one in workers.values()) for phase in ("prefill", "decode")
        }
        if not all(counts.values()):
            return SchedulerView(epoch=1, workers=workers)
        prefill = 0.7 * self.num_sets * 2 / counts["prefill"]
        return SchedulerView(epoch=1, workers=workers, saturation={"prefill": prefill, "decode": 0.1})


def in_world(test: Callable[[OperatorWorld, Asked], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """The world must be made in the test itself: loop time begins there."""

    async def run() -> None:
        async with OperatorWorld() as world:
            await test(world, Asked(world))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def replicas(world: OperatorWorld) -> int:
    return int(world.api.get(SERVICE)["spec"].get("replicas", 1))


def scaled(world: OperatorWorld) -> list[Obj]:
    return [event for event in world.api.find("Event") if event["reason"] == "Scaled" and NAME in str(event)]


@in_world
async def test_a_second_set_comes_with_the_demand_and_goes_with_it(
    world: OperatorWorld, asked: Asked
) -> None:
    world.create(autoscaling=SCALING, replicas=1)
    await world.until("AllGroupsReady")
    await asyncio.sleep(25)
    assert (replicas(world), world.condition("Autoscaling")["status"]) == (1, "True")
    asked.num_sets = 1.5
    await asyncio.sleep(15)
    assert replicas(world) == 1  # not all through the window yet
    await asyncio.sleep(20)
    assert replicas(world) == 2
    await world.until("AllGroupsReady")
    assert world.api.get(SERVICE)["status"]["display"]["groups"] == "6/6"
    asked.num_sets = 0.5
    await asyncio.sleep(50)
    assert replicas(world) == 2
    await asyncio.sleep(30)
    assert replicas(world) == 1
    assert len(scaled(world)) == 2


@in_world
async def test_at_rest_nothing_is_written(world: OperatorWorld, asked: Asked) -> None:
    """Though it looks every ten seconds, and the figures change."""
    world.create(autoscaling=SCALING, replicas=1)
    await world.until("AllGroupsReady")
    await asyncio.sleep(15)
    since = len(world.api.writes)
    for step in range(8):
        asked.num_sets = 0.3 + 0.05 * step
        await asyncio.sleep(10)
    assert world.api.writes[since:] == []


@in_world
async def test_a_person_who_scales_is_left_alone_until_the_number_is_set_back(
    world: OperatorWorld, asked: Asked
) -> None:
    world.create(autoscaling=SCALING, replicas=1)
    await world.until("AllGroupsReady")
    await asyncio.sleep(15)
    world.edit(replicas=2)
    await asyncio.sleep(90)
    assert replicas(world) == 2
    condition = world.condition("Autoscaling")
    assert (condition["status"], condition["reason"]) == ("False", "ScaledByOthers")
    world.edit(replicas=1)
    asked.num_sets = 1.5
    await asyncio.sleep(50)
    assert (replicas(world), world.condition("Autoscaling")["reason"]) == (2, "Scaling")


@in_world
async def test_without_a_word_from_a_scheduler_only_the_bounds_hold(
    world: OperatorWorld, asked: Asked
) -> None:
    asked.num_sets = None
    world.create(autoscaling=SCALING | {"minReplicas": 2}, replicas=1)
    await world.until("AllGroupsReady")
    await asyncio.sleep(20)
    assert replicas(world) == 2
    assert world.condition("Autoscaling")["reason"] == "LoadUnknown"


@in_world
async def test_a_restarted_operator_knows_its_own_write(world: OperatorWorld, asked: Asked) -> None:
    """Killed right after it has scaled, before the status says so."""
    world.create(autoscaling=SCALING, replicas=1)
    await world.until("AllGroupsReady")
    asked.num_sets = 1.5
    is_written = asyncio.Event()
    world.cluster.after_write = lambda verb, _ref: is_written.set() if verb == "scale" else None
    async with asyncio.timeout(120):
        await is_written.wait()
    await world.restart()
    await asyncio.sleep(30)
    assert replicas(world) == 2
    assert world.condition("Autoscaling")["reason"] in {"Scaling", "LoadUnknown"}
    assert world.api.get(SERVICE)["status"]["autoscaling"]["replicas"] == 2
