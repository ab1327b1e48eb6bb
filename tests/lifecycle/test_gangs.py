"""Gangs that another scheduler sees to: what it is told of a group, from when until when, and who decides meanwhile."""

from datetime import timedelta

import pytest

from doubles.service_world import World, a_manifest, gang_of
from hortator.operator import names
from hortator.operator.manifests.gang import PROVIDERS
from hortator.operator.plan import Apply

NODES = {f"n-{index}": {"gpus": 8} for index in range(6)}
VOLCANO = {"provider": "Volcano", "queue": "serving"}
COSCHEDULING = {"provider": "Coscheduling"}
KUEUE = {"provider": "Kueue", "queue": "serving"}
WITH_OBJECTS = [pytest.param(VOLCANO, id="volcano"), pytest.param(COSCHEDULING, id="coscheduling")]
EVERY = [*WITH_OBJECTS, pytest.param(KUEUE, id="kueue")]
_SETTLED: dict[str, World] = {}


def world_of(gang, *, on=NODES, is_installed=True, **manifest):
    given = {"backend": "TensorRTLLM", "nodes": 2, "gpus_per_node": 8, "placement": {"gang": gang}} | manifest
    world = World(a_manifest(**given), nodes=on)
    if is_installed:
        install(world, gang["provider"])
    return world


def install(world, provider):
    world.api.installed.update(PROVIDERS[provider].needs if provider in PROVIDERS else ())


def settled(gang, **manifest):
    key = repr((gang, manifest))
    if key not in _SETTLED:
        world = world_of(gang, **manifest)
        world.settle()
        _SETTLED[key] = world
    return _SETTLED[key].clone()


def is_engine(pod):
    return pod["metadata"]["labels"].get(names.LABEL_COMPONENT) == names.COMPONENT_ENGINE


def hold(world, which=is_engine):
    """The other scheduler places no pod of these."""
    world.controllers.held_by_a_scheduler = which


def release(world):
    hold(world, lambda _: False)


def gangs(world):
    return {one["metadata"]["name"]: one for one in world.api.find("PodGroup")}


def engines(world):
    return world.api.find("Pod", **{names.LABEL_COMPONENT: names.COMPONENT_ENGINE})


def at_rest(world):
    world.settle()
    assert world.is_ready(), world.explain()
    assert world.broken == []
    return world


@pytest.mark.parametrize("gang", WITH_OBJECTS)
def test_each_group_has_one_gang_of_all_its_pods_made_before_them(gang):
    """Before: an invariant of the world, seen when a StatefulSet gets its pods."""
    world = at_rest(settled(gang))
    assert len(gangs(world)) == 2
    assert {gang_of(pod) for pod in engines(world)} == gangs(world).keys()
    assert [one["spec"]["minMember"] for one in gangs(world).values()] == [2, 2]
    started = [one.obj["metadata"]["name"] for one in world.actions if isinstance(one, Apply)]
    for name, one in world.statefulsets().items():
        named = gang_of(one["spec"]["template"])
        assert started.index(named) == len(started) - 1 - started[::-1].index(named)  # once
        assert started.index(named) > started.index(name)  # the StatefulSet is there without pods


def test_kueue_is_told_by_the_pods_alone():
    world = at_rest(settled(KUEUE))
    assert gangs(world) == {}
    for pod in engines(world):
        labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
        assert labels["kueue.x-k8s.io/queue-name"] == "serving"
        assert annotations["kueue.x-k8s.io/pod-group-total-count"] == "2"
    by_gang = {}
    for pod in engines(world):
        name = pod["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"]
        by_gang.setdefault(name, set()).add(pod["metadata"]["labels"][names.LABEL_GROUP])
    assert sorted(map(sorted, by_gang.values())) == [["0"], ["1"]]


@pytest.mark.parametrize("gang", EVERY)
def test_all_groups_start_at_once_because_the_other_scheduler_decides(gang):
    world = world_of(gang, aggregated=3, on={"n-0": {"gpus": 8}})
    hold(world)
    world.until(lambda: len(engines(world)) == 6, limit=20)
    assert world.broken == []


@pytest.mark.parametrize("gang", WITH_OBJECTS)
def test_a_restart_is_another_gang_and_the_earlier_one_goes(gang):
    world = settled(gang)
    before = set(gangs(world))
    world.crash("demo-a-1-1")
    at_rest(world)
    assert len(before & gangs(world).keys()) == 1
    assert {gang_of(pod) for pod in engines(world)} == gangs(world).keys()
    assert len(gangs(world)) == 2


@pytest.mark.parametrize("gang", WITH_OBJECTS)
@pytest.mark.parametrize("gone", [{"roles": 1}, {"suspend": True}, {"replicas": 0}], ids=str)
def test_the_gang_of_a_group_that_goes_goes_after_its_pods_and_none_is_made(gang, gone):
    world = settled(gang)
    roles = [world.api.get(world.service_key)["spec"]["roles"][0] | {"replicas": 1}]
    world.actions.clear()
    world.edit({"roles": roles} if "roles" in gone else gone)
    world.settle()
    assert world.broken == []
    assert len(gangs(world)) == ("roles" in gone)
    assert {gang_of(pod) for pod in engines(world)} == gangs(world).keys()
    assert not [one for one in world.actions if isinstance(one, Apply) and one.obj["kind"] == "PodGroup"]


@pytest.mark.parametrize("gang", WITH_OBJECTS)
def test_a_deleted_service_leaves_no_gang(gang):
    world = settled(gang)
    world.api.delete(world.service_key)
    for _ in range(10):
        world.controllers.step()
        world.kubelets.step()
    assert gangs(world) == {}


@pytest.mark.parametrize("gang", WITH_OBJECTS)
def test_groups_move_one_by_one_when_another_is_to_see_to_gangs(gang):
    world = settled(gang)
    world.edit({"placement": {"gang": {"provider": "Builtin", "queue": None}}})
    seen = set()
    for _ in range(200):
        if world.tick() and world.is_ready():
            break
        seen.add(frozenset(gangs(world)))
    at_rest(world)
    assert gangs(world) == {}
    assert {len(one) for one in seen} >= {2, 1}  # one group at a time
    assert not any(gang_of(pod) for pod in engines(world))


def test_a_group_that_stays_at_its_revision_starts_again_in_the_gang_of_that():
    world = settled(VOLCANO)
    world.edit({"rollout": {"paused": True}, "placement": {"gang": {"provider": "Builtin", "queue": None}}})
    world.crash("demo-a-0-0")
    world.settle()
    assert world.broken == []
    assert world.condition("Available")["status"] == "True"
    assert {gang_of(pod) for pod in engines(world)} == gangs(world).keys()
    assert len(gangs(world)) == 2
    assert {one["spec"]["queue"] for one in gangs(world).values()} == {"serving"}


@pytest.mark.parametrize("gang", EVERY)
def test_without_its_api_no_group_starts_and_what_is_missing_is_said(gang):
    world = world_of(gang, is_installed=False)
    world.settle()
    assert engines(world) == []
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "GangProviderMissing")
    needs = PROVIDERS[gang["provider"]].needs
    assert gang["provider"] in ready["message"]
    assert all(f"{version} {kind}" in ready["message"] for version, kind in needs)
    assert "gang.providers" in ready["message"]
    install(world, gang["provider"])
    at_rest(world)


@pytest.mark.parametrize("gang", EVERY)
def test_groups_that_serve_go_on_when_its_api_goes(gang):
    world = settled(gang)
    before = {pod["metadata"]["uid"] for pod in engines(world)}
    for key in [one for one in world.api._records if one[1] == "PodGroup"]:
        world.api.delete(key)
    world.api.installed.clear()
    at_rest(world)
    assert {pod["metadata"]["uid"] for pod in engines(world)} == before


def test_the_queue_of_another_scheduler_may_be_longer_than_the_gang_timeout():
    world = world_of(VOLCANO | {"timeout": "30s"}, aggregated=1)
    hold(world)
    world.until(lambda: len(engines(world)) == 2)
    world.clock += timedelta(minutes=10)
    world.tick()
    assert world.epoch_of("demo-a-0") == 1
    release(world)
    at_rest(world)
    assert world.epoch_of("demo-a-0") == 1


def test_a_gang_that_another_scheduler_placed_in_part_gives_its_nodes_back():
    world = world_of(VOLCANO | {"timeout": "30s"}, aggregated=1)
    hold(world)
    world.until(lambda: len(engines(world)) == 2)
    world.clock += timedelta(minutes=10)
    world.tick()
    hold(world, lambda pod: pod["metadata"]["name"] == "demo-a-0-1")
    world.until(lambda: any(pod["spec"].get("nodeName") for pod in engines(world)))
    placed_at = world.clock
    world.until(lambda: world.epoch_of("demo-a-0") == 2)
    assert timedelta(seconds=28) <= world.clock - placed_at <= timedelta(seconds=40)
    release(world)
    at_rest(world)
    assert len(gangs(world)) == 1


@pytest.mark.parametrize("gang", EVERY)
def test_what_waits_in_another_queue_holds_no_room_of_groups_that_the_operator_starts(gang):
    world = world_of(gang, aggregated=1)
    hold(world)
    world.until(lambda: len(engines(world)) == 2)
    *_, observed = world._seen()
    assert observed.claims == ()
    own = world_of({"provider": "None"}, aggregated=1, on={"n-0": {"gpus": 0}})
    own.until(lambda: len(engines(own)) == 2)
    assert len(own._seen()[-1].claims) == 1


def test_a_pod_in_a_queue_is_no_pod_without_room():
    world = world_of(KUEUE, aggregated=1)
    hold(world)
    world.until(lambda: len(engines(world)) == 2)
    for pod in engines(world):
        gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}
        status = pod.get("status", {}) | {"conditions": [gated]}
        world.api.replace(pod | {"status": status}, manager="api-server", subresource="status")
    world.look()
    assert world.condition("Ready")["reason"] == "GangPending"
    assert "gated" in world.condition("Ready")["message"]


def test_nobody_looks_for_room_with_provider_none():
    """For a pool of nodes that grows when pods wait: there is none to begin with."""
    world = world_of({"provider": "None", "timeout": "60s"}, aggregated=2, on={"n-0": {"gpus": 0}})
    world.until(lambda: len(engines(world)) == 4, limit=20)
    for index in range(1, 5):
        world.kubelets.add_node(f"n-{index}", gpus=8)
    at_rest(world)


def test_with_provider_none_the_gang_timeout_gives_back_what_is_not_complete():
    world = world_of({"provider": "None", "timeout": "60s"}, aggregated=1, on={"n-0": {"gpus": 8}})
    world.until(lambda: len(engines(world)) == 2)
    world.until(lambda: world.epoch_of("demo-a-0") == 2, limit=100)
    assert "Warning GangTimeout" in world.events


@pytest.mark.parametrize(
    "change", [None, {"gang": {"provider": "Builtin", "queue": None}}], ids=["start", "end"]
)
def test_an_operator_that_dies_after_any_write_leaves_nothing_behind(change):
    world = world_of(VOLCANO, aggregated=1, rollout={"allowOutage": True})
    if change is not None:
        world.settle()
        world.edit({"placement": change})
    world.clones = []
    world.settle()
    clones = world.clones
    assert len(clones) > 5
    for clone in clones:
        at_rest(clone)
        assert {gang_of(pod) for pod in engines(clone)} - {""} == gangs(clone).keys()
        assert len(gangs(clone)) == (change is None)


@pytest.mark.parametrize("gang", WITH_OBJECTS)
def test_a_gang_stays_as_long_as_a_pod_of_it_may_be_there(gang):
    world = settled(gang)
    pod = world._pod("demo-a-1-0")
    node, named = pod["spec"]["nodeName"], gang_of(pod)
    world.lose_node(node)
    world.until(lambda: world.statefulsets()["demo-a-1"]["spec"]["replicas"] == 0)
    for _ in range(10):
        world.tick()
        assert world._pod("demo-a-1-0") is not None
        assert named in gangs(world)
    world.remove_node(node)
    at_rest(world)
    assert named not in gangs(world)
