"""LLMServiceScalers over the in-memory API: what the operator writes to them, and whom it leaves alone."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from doubles.kubernetes.api import Obj
from doubles.operator_world import SERVICE, OperatorWorld
from hortator.api.v1alpha1 import SCALER_KIND
from hortator.operator.observed import SchedulerView
from hortator.operator.schedulers import SchedulerAt

pytestmark = pytest.mark.looptime

SCALING = {"minReplicas": 1, "maxReplicas": 3, "scaleUpWindow": "20s", "scaleDownWindow": "1m"}
DECODE = (SERVICE[0], SCALER_KIND, "default", "decode")


class Asked:
    """A scheduler: so much is asked of each role, in groups that are as full as they should be."""

    def __init__(self, world: OperatorWorld) -> None:
        self.world = world
        self.num_groups: dict[str, float] | None = {"prefill": 1.0, "decode": 0.5}
        world.schedulers.answer = self.view

    def view(self, _schedulers: Sequence[SchedulerAt]) -> SchedulerView | None:
        if self.num_groups is None:
            return None
        workers = self.world.ready_workers()
        counts = {phase: sum(one.phase == phase for one in workers.values()) for phase in self.num_groups}
        saturation = {
            phase: 0.7 * asked / counts[phase] for phase, asked in self.num_groups.items() if counts[phase]
        }
        return SchedulerView(epoch=1, workers=workers, saturation=saturation)


def in_world(test: Callable[[OperatorWorld, Asked], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """The world must be made in the test itself: loop time begins there."""

    async def run() -> None:
        async with OperatorWorld() as world:
            await test(world, Asked(world))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def replicas(world: OperatorWorld) -> int:
    return int(world.api.get(DECODE)["spec"]["replicas"])


def condition(world: OperatorWorld, kind: str) -> Obj:
    conditions = world.api.get(DECODE).get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def num_groups(world: OperatorWorld) -> dict[str, int]:
    return {one["name"]: one["ready"] for one in world.api.get(SERVICE)["status"]["roles"]}


@in_world
async def test_a_decode_group_comes_with_the_demand_and_goes_with_it(
    world: OperatorWorld, asked: Asked
) -> None:
    """A role set is two prefill groups and a decode group: prefill stays as it is."""
    world.create()
    world.create_scaler("Decode", autoscaling=SCALING)
    await world.until("AllGroupsReady")
    await asyncio.sleep(25)
    assert (replicas(world), condition(world, "Autoscaling")["status"]) == (1, "True")
    assert condition(world, "Autoscaling")["message"] == "between 1 and 3 Decode groups per role set"
    asked.num_groups = {"prefill": 9.0, "decode": 1.5}
    await asyncio.sleep(35)
    assert replicas(world) == 2
    await asyncio.sleep(5)
    assert num_groups(world) == {"Prefill": 2, "Decode": 2}
    asked.num_groups = {"prefill": 9.0, "decode": 0.4}
    await asyncio.sleep(50)
    assert replicas(world) == 2
    await asyncio.sleep(40)
    assert (replicas(world), num_groups(world)) == (1, {"Prefill": 2, "Decode": 1})
    told = [event for event in world.api.find("Event") if event["reason"] == "Scaled"]
    assert [event["involvedObject"]["kind"] for event in told] == [SCALER_KIND] * 2


@in_world
async def test_at_rest_nothing_is_written(world: OperatorWorld, asked: Asked) -> None:
    world.create()
    world.create_scaler("Decode", autoscaling=SCALING)
    await world.until("AllGroupsReady")
    await asyncio.sleep(30)
    since = len(world.api.writes)
    for step in range(8):
        asked.num_groups = {"prefill": 1.0, "decode": 0.3 + 0.05 * step}
        await asyncio.sleep(10)
    assert world.api.writes[since:] == []


@in_world
async def test_who_else_scales_is_left_alone(world: OperatorWorld, asked: Asked) -> None:
    """And the groups follow whoever it was."""
    world.create()
    world.create_scaler("Decode", autoscaling=SCALING)
    await world.until("AllGroupsReady")
    await asyncio.sleep(25)
    world.api.patch(DECODE, {"spec": {"replicas": 2}}, subresource="scale")
    await asyncio.sleep(100)
    assert (replicas(world), num_groups(world)["Decode"]) == (2, 2)
    assert condition(world, "Autoscaling")["reason"] == "ScaledByOthers"
    assert condition(world, "Active")["reason"] == "RoleScaled"


@in_world
async def test_the_scaler_of_a_service_does_not_count_a_role_that_has_its_own(
    world: OperatorWorld, asked: Asked
) -> None:
    """Two sets' worth is asked of decode, which takes two groups in the one set."""
    world.create(autoscaling=SCALING, replicas=1)
    world.create_scaler("Decode", autoscaling=SCALING)
    await world.until("AllGroupsReady")
    asked.num_groups = {"prefill": 1.8, "decode": 2.0}
    await asyncio.sleep(60)
    assert world.api.get(SERVICE)["spec"]["replicas"] == 1
    assert num_groups(world) == {"Prefill": 2, "Decode": 2}
    world.create_scaler("Prefill")
    await asyncio.sleep(15)
    assert world.condition("Autoscaling")["reason"] == "ScalingHeld"


@in_world
async def test_a_restarted_operator_knows_its_own_write(world: OperatorWorld, asked: Asked) -> None:
    """Killed right after it has scaled, before the status says so."""
    world.create()
    world.create_scaler("Decode", replicas=1, autoscaling=SCALING)
    await world.until("AllGroupsReady")
    asked.num_groups = {"prefill": 1.0, "decode": 2.0}
    is_written = asyncio.Event()
    world.cluster.after_write = lambda verb, _ref: is_written.set() if verb == "scale" else None
    async with asyncio.timeout(120):
        await is_written.wait()
    await world.restart()
    await asyncio.sleep(10)
    assert replicas(world) == 2
    assert condition(world, "Autoscaling")["reason"] in {"Scaling", "LoadUnknown"}
    assert world.api.get(DECODE)["status"]["autoscaling"]["replicas"] == 2


@in_world
async def test_a_scaler_waits_for_its_service_and_outlives_it(world: OperatorWorld, asked: Asked) -> None:
    world.create_scaler("Decode", replicas=2)
    await asyncio.sleep(5)
    said = condition(world, "Active")
    assert (said["status"], said["reason"]) == ("False", "ServiceNotFound")
    assert said["message"] == "namespace default has no LLMService simulated"
    since = len(world.api.writes)
    await asyncio.sleep(30)
    await world.restart()
    await asyncio.sleep(5)
    assert world.api.writes[since:] == []
    world.create()
    await world.until("AllGroupsReady")
    assert num_groups(world) == {"Prefill": 2, "Decode": 2}
    await asyncio.sleep(2)
    assert condition(world, "Active")["status"] == "True"
    world.api.delete(SERVICE)
    await asyncio.sleep(5)
    assert condition(world, "Active")["reason"] == "ServiceNotFound"


async def test_a_cluster_without_the_crd_is_served_as_ever_and_learns_of_it() -> None:
    world = OperatorWorld()
    world.cluster.unserved.add(SCALER_KIND)
    async with world:
        world.create()
        await world.until("AllGroupsReady")
        world.cluster.unserved.clear()
        world.create_scaler("Decode", replicas=2)
        await asyncio.sleep(10)
        assert num_groups(world) == {"Prefill": 2, "Decode": 2}
        world.cluster.unserved.add(SCALER_KIND)  # an API server that starts may say so for a while
        await asyncio.sleep(10)
        assert num_groups(world) == {"Prefill": 2, "Decode": 2}
        world.edit(replicas=2)
        await asyncio.sleep(10)
        assert num_groups(world) == {"Prefill": 4, "Decode": 4}  # everything else is listed as ever
