"""A group that is deleted and made again counts its epochs from 1: nobody of the former one may be taken for it."""

import pytest

from doubles.service_world import NAMESPACE, World, a_manifest
from hortator.worker.group.assembly import Assembly, AssemblyState, Joined, Refuse, Welcome
from hortator.worker.group.member import GroupLimits, Member
from hortator.worker.settings import WorkerSettings

NODES = {f"n-{index}": {"gpus": 8} for index in range(6)}
GROUP = "demo-a-1"


def place_of(world, name, monkeypatch):
    """What the worker in a pod makes of what it is told."""
    pod = world._pod(name)
    told = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"] if "value" in one}
    told["HORTATOR_WORKER_POD_NAME"] = name
    told["HORTATOR_WORKER_EPOCH"] = str(world.epoch_of(GROUP))
    with monkeypatch.context() as context:
        for variable, value in told.items():
            if variable.startswith("HORTATOR_WORKER_"):
                context.setenv(variable, value)
        return WorkerSettings.load().group_place()


def scale_down_and_up(world):
    world.edit({"replicas": 1})
    world.until(lambda: GROUP not in world.statefulsets())
    world.settle()
    world.edit({"replicas": 2})


def delete_the_statefulset(world):
    world.api.delete(("apps/v1", "StatefulSet", NAMESPACE, GROUP))


@pytest.mark.parametrize("make_again", [scale_down_and_up, delete_the_statefulset])
@pytest.mark.parametrize("num_crashes", [0, 1])
def test_a_process_of_the_former_group_is_refused_whatever_its_epoch(make_again, num_crashes, monkeypatch):
    """It may have lived on, on a node that nobody reached. The new group is none the worse for it."""
    world = World(a_manifest(aggregated=1, replicas=2), nodes=NODES)
    world.settle()
    for _ in range(num_crashes):
        world.crash(f"{GROUP}-0")
        world.settle()
    former = place_of(world, f"{GROUP}-1", monkeypatch)
    former_load = world.loads()["aggregated-1"]
    make_again(world)
    world.settle()
    assert world.broken == []
    assert world.is_ready()
    assert world.num_refused <= num_crashes

    leader, member = (place_of(world, f"{GROUP}-{ordinal}", monkeypatch) for ordinal in range(2))
    assert (former.epoch, leader.epoch) == (1 + num_crashes, 1)
    assert leader.incarnation == member.incarnation != former.incarnation
    assert leader.incarnation
    assembly = Assembly(Member(place=leader, boot_id="a"), GroupLimits(), now=0.0)
    (said,) = assembly.handle(Joined(link=1, member=Member(place=former, boot_id="b")), 1.0)
    assert isinstance(said, Refuse)
    assert assembly.handle(Joined(link=2, member=Member(place=member, boot_id="c")), 2.0)[0] == Welcome(
        link=2
    )
    assert assembly.state is AssemblyState.COMPLETE

    monkeypatch.setattr(world, "loads", lambda: {"aggregated-1": former_load})
    assert world._seen()[-1].groups[GROUP].load is None
