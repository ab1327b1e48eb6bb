"""`kubectl drain` as kubectl does it: each pod that it found is evicted by name, again every five seconds.

By name alone: who comes back under that name on another node before kubectl asks again is evicted there if it is not
ready yet, which ends a group that has just begun to start, and else asked for in vain until kubectl gives up.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from doubles.kubernetes.api import key_of
from doubles.kubernetes.controllers import is_ready
from doubles.kubernetes.kubelets import Wait
from doubles.service_world import NAMESPACE, World, a_manifest
from hortator.operator import names

GPUS = {"backend": "TensorRTLLM", "gpus_per_node": 8, "nodes": 2}
ASKS_EVERY_S = 5


@dataclass
class Kubectl:
    """One `kubectl drain NODE`."""

    world: World
    node: str
    late_s: float = 0.0
    """Its first eviction after the cordon."""
    wanted: dict[str, str] = field(default_factory=dict)
    """Pods that it found on the node: name and uid."""
    next_at: datetime | None = None
    victims: list[str] = field(default_factory=list)
    """Pods of other uids that it has evicted."""

    def begin(self) -> None:
        self.world.cordon(self.node)
        for pod in self.world.api.find("Pod"):
            if pod["spec"].get("nodeName") == self.node and names.parse_pod_name(pod["metadata"]["name"]):
                self.wanted[pod["metadata"]["name"]] = pod["metadata"]["uid"]
        self.next_at = self.world.clock + timedelta(seconds=self.late_s)

    def step(self) -> None:
        if self.next_at is None or self.world.clock < self.next_at:
            return
        self.next_at = self.world.clock + timedelta(seconds=ASKS_EVERY_S)
        for name, uid in list(self.wanted.items()):
            pod = self.world._pod(name)
            if pod is not None and not self._is_taken(pod):
                continue  # 429: it asks again
            if pod is not None and pod["metadata"]["uid"] != uid:
                self.victims.append(name)
            if pod is not None and "deletionTimestamp" not in pod["metadata"]:
                self.world.api.delete(key_of(pod))
            del self.wanted[name]

    def _is_taken(self, pod) -> bool:
        group, _, _ = pod["metadata"]["name"].rpartition("-")
        budget = self.world.api.get(("policy/v1", "PodDisruptionBudget", NAMESPACE, group))
        is_over = "deletionTimestamp" in pod["metadata"] or not is_ready(pod)
        return is_over or budget["spec"]["maxUnavailable"] > 0


def a_world(*, groups=2, num_nodes=8):
    manifest = a_manifest(aggregated=groups, **GPUS, drain={"timeout": "20s"})
    world = World(manifest, nodes={f"n-{index}": {"gpus": 8} for index in range(num_nodes)})
    world.settle()
    return world


def node_of(world, pod):
    return world._pod(pod)["spec"]["nodeName"]


def drained(world, *drains, ticks=200):
    for one in drains:
        one.begin()
    for _ in range(ticks):
        for one in drains:
            one.step()
        world.tick()
        if not any(one.wanted for one in drains) and world.is_ready():
            break
    assert [one.wanted for one in drains] == [{}] * len(drains), world.explain()
    assert [one.victims for one in drains] == [[]] * len(drains)
    assert world.is_ready(), world.explain()
    assert world.broken == []


def restarts(world):
    return {one["name"]: one["restarts"] for one in world.status()["groups"]}


@pytest.mark.parametrize("late_s", [0, 1, 2, 3, 4])
def test_it_ends_and_evicts_nobody_who_has_come_back_elsewhere(late_s):
    world = a_world()
    drained(world, Kubectl(world, node_of(world, "demo-a-1-0"), late_s=late_s))
    assert (world.epoch_of("demo-a-0"), world.epoch_of("demo-a-1")) == (1, 2)
    assert restarts(world) == {"demo-a-0": 0, "demo-a-1": 0}


@pytest.mark.parametrize("late_s", [0, 2, 4])
def test_two_nodes_of_one_group_are_one_move(late_s):
    world = a_world()
    drained(
        world,
        Kubectl(world, node_of(world, "demo-a-1-0")),
        Kubectl(world, node_of(world, "demo-a-1-1"), late_s=late_s),
    )
    assert (world.epoch_of("demo-a-0"), world.epoch_of("demo-a-1")) == (1, 2)
    assert restarts(world) == {"demo-a-0": 0, "demo-a-1": 0}


@pytest.mark.parametrize("late_s", [0, 2, 4])
def test_nodes_of_two_groups_are_two_moves(late_s):
    world = a_world(groups=3, num_nodes=10)
    drained(
        world,
        Kubectl(world, node_of(world, "demo-a-2-0")),
        Kubectl(world, node_of(world, "demo-a-0-1"), late_s=late_s),
    )
    assert {name: world.epoch_of(name) for name in world.statefulsets()} == {
        "demo-a-0": 2,
        "demo-a-1": 1,
        "demo-a-2": 2,
    }
    assert set(restarts(world).values()) == {0}


@pytest.mark.parametrize("late_s", [0, 2, 4])
def test_a_group_that_takes_long_to_start_elsewhere_is_left_alone(late_s):
    """Its new pods pull their image for a minute: they are not ready, so an eviction would be taken."""
    world = a_world()
    drain = Kubectl(world, node_of(world, "demo-a-1-0"), late_s=late_s)
    drain.begin()
    for _ in range(60):
        drain.step()
        world.tick()
        if world.epoch_of("demo-a-1") == 2:
            world.acts["demo-a-1-0"] = Wait(reason="ContainerCreating")
    assert (drain.wanted, drain.victims) == ({}, [])
    world.acts.clear()
    world.until(world.is_ready)
    assert world.epoch_of("demo-a-1") == 2
    assert restarts(world)["demo-a-1"] == 0


@pytest.mark.parametrize("late_s", [0, 2, 4])
def test_a_group_that_fails_before_its_turn_to_drain_has_come_is_not_met_elsewhere_either(late_s):
    """Its evictions are refused while another group is away; then a container of it ends."""
    world = a_world(groups=3, num_nodes=10)
    world.cordon(node_of(world, "demo-a-2-0"))
    world.until(lambda: world.epoch_of("demo-a-2") == 2)
    drain = Kubectl(world, node_of(world, "demo-a-0-0"), late_s=late_s)
    drain.begin()
    world.tick()
    drain.step()
    world.crash("demo-a-0-1")
    for _ in range(60):
        drain.step()
        world.tick()
    assert (drain.wanted, drain.victims) == ({}, [])
    world.settle()
    assert world.is_ready()
    assert restarts(world) == {"demo-a-0": 1, "demo-a-1": 0, "demo-a-2": 0}


def test_a_rollout_that_came_before_the_cordon_ends_the_drain_as_well():
    world = a_world()
    world.is_traffic_on = True
    world.tick()
    world.edit({"engine": {"image": "a/worker:2"}})
    world.until(lambda: any(one.get("drainDeadline") for one in world.status()["groups"]))
    moving = next(one["name"] for one in world.status()["groups"] if one.get("drainDeadline"))
    drain = Kubectl(world, node_of(world, f"{moving}-0"))
    drain.begin()
    world.is_traffic_on = False
    for _ in range(60):
        drain.step()
        world.tick()
    assert (drain.wanted, drain.victims) == ({}, [])
    world.settle()
    assert world.is_ready()
    assert world.epoch_of(moving) == 2


def test_a_group_that_somebody_drains_because_a_cordon_moves_none_lets_go_of_the_node():
    manifest = a_manifest(aggregated=2, **GPUS, disruption={"maxUnavailableGroups": 0})
    world = World(manifest, nodes={f"n-{index}": {"gpus": 8} for index in range(8)})
    world.settle()
    drain = Kubectl(world, node_of(world, "demo-a-1-0"))
    drain.begin()
    for _ in range(12):
        drain.step()
        world.tick()
    assert drain.wanted
    assert world.epoch_of("demo-a-1") == 1
    world.request_drain("demo-a-1")
    drained(world, drain)
    assert world.epoch_of("demo-a-1") == 2


def began_elsewhere(world, group):
    """How long it takes from now until the group has been asked for pods in its second epoch, in seconds."""
    began_at = world.clock
    world.until(lambda: world.epoch_of(group) == 2 and world.statefulsets()[group]["spec"]["replicas"] > 0)
    return (world.clock - began_at).total_seconds()


def test_after_a_cordon_alone_a_group_is_away_for_some_seconds_and_says_why():
    world = a_world()
    world.cordon(node_of(world, "demo-a-1-0"))
    world.until(lambda: world.epoch_of("demo-a-1") == 2)
    world.tick()
    world.tick()
    ready = world.condition("Ready")
    assert ready["reason"] == "NodeCordoned"
    assert "group demo-a-1 has left a cordoned node, and starts elsewhere at 2026-" in ready["message"]
    assert began_elsewhere(world, "demo-a-1") <= 7
    world.settle()
    assert world.is_ready()
    assert names.ANNOTATION_VACATED_AT not in world.statefulsets()["demo-a-1"]["metadata"]["annotations"]


def test_a_group_that_stood_on_no_cordoned_node_starts_at_once():
    world = a_world()
    world.request_drain("demo-a-1")
    world.until(lambda: world.epoch_of("demo-a-1") == 2)
    assert began_elsewhere(world, "demo-a-1") <= 4


def test_a_change_of_the_spec_does_not_shorten_it():
    world = a_world()
    world.cordon(node_of(world, "demo-a-1-0"))
    world.until(lambda: world.epoch_of("demo-a-1") == 2)
    world.edit({"engine": {"image": "a/worker:2"}})
    assert began_elsewhere(world, "demo-a-1") >= 5
    world.settle()
    assert world.is_ready()
