"""What went wrong in other operators, as their users told it: each case is set up here as it was there."""

import math

import pytest

from doubles.kubernetes.kubelets import Wait
from doubles.service_world import World, a_manifest
from hortator.operator import names

NODES = {f"n-{index}": {"gpus": 8} for index in range(10)}
NEW = "registry.example/worker:2"
NEW_IMAGE = {"engine": {"image": NEW}}


def settled(**manifest):
    world = World(a_manifest(**({"nodes": 1} | manifest)), nodes=NODES)
    world.settle()
    world.is_traffic_on = True
    world.tick()
    return world


def revisions(world):
    """Of the pods of each group."""
    found = {}
    for pod in world.api.find("Pod", **{names.LABEL_COMPONENT: names.COMPONENT_ENGINE}):
        group = pod["metadata"]["name"].rpartition("-")[0]
        found.setdefault(group, set()).add(pod["metadata"]["labels"][names.LABEL_REVISION])
    return found


def uids(world):
    pods = world.api.find("Pod", **{names.LABEL_COMPONENT: names.COMPONENT_ENGINE})
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def is_rolled(world, *, generation):
    """The status says so of this generation."""
    ready, rollout = world.condition("Ready"), world.status()["rollout"]
    is_said = ready["observedGeneration"] == generation and ready["status"] == "True"
    return is_said and rollout["phase"] == "Complete"


def test_lws_567_a_rollout_is_not_stuck_on_old_groups_that_are_not_ready():
    """Two of three are broken, more than may be unavailable, and only the new image cures them."""
    world = settled(aggregated=3, restart={"policy": "None"}, rollout={"maxUnavailable": 1})
    broken = {"demo-a-0": "demo-a-0-0", "demo-a-1": "demo-a-1-0"}
    for pod in broken.values():
        world.acts[pod] = Wait(reason="CrashLoopBackOff")
    for _ in range(5):
        world.tick()
    assert world.condition("Degraded")["status"] == "True"
    world.edit(NEW_IMAGE)
    order = []
    for _ in range(200):
        world.tick()
        for name, one in world.statefulsets().items():
            if one["spec"]["template"]["spec"]["containers"][0]["image"] == NEW and name not in order:
                order.append(name)
                world.acts.pop(broken.get(name, ""), None)
        if is_rolled(world, generation=2):
            break
    assert is_rolled(world, generation=2)
    assert sorted(order[:2]) == ["demo-a-0", "demo-a-1"]
    assert world.broken == []


@pytest.mark.parametrize("max_unavailable", [1, 2])
def test_dynamo_3567_old_groups_that_serve_are_no_success_of_the_new_revision(max_unavailable):
    """All groups are ready all the time but those that move: Ready and Complete wait for the last of them."""
    world = settled(aggregated=3, rollout={"maxUnavailable": max_unavailable})
    (old,) = revisions(world)["demo-a-0"]
    world.edit(NEW_IMAGE)
    num_mixed = 0
    for _ in range(200):
        world.tick()
        is_mixed = any(old in found for found in revisions(world).values())
        num_mixed += is_mixed
        ready = world.condition("Ready")
        says_so = ready["status"] == "True" and ready["observedGeneration"] == 2
        assert not (is_mixed and (says_so or world.status()["rollout"]["phase"] == "Complete"))
        if says_so:
            break
    assert num_mixed > 3
    assert says_so
    assert world.status()["rollout"]["updatedGroups"] == 3


@pytest.mark.parametrize("max_skew", [1, 2])
@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (4, 1), (1, 4), (3, 2)])
def test_rbg_307_roles_of_one_group_do_not_hold_each_other_up(prefill, decode, max_skew):
    """A share of less than one group is no share of none."""
    rollout = {"maxSkew": max_skew, "allowOutage": True}
    world = settled(prefill=prefill, decode=decode, rollout=rollout)
    world.edit(NEW_IMAGE)
    world.until(lambda: is_rolled(world, generation=2))
    assert {world.epoch_of(name) for name in world.statefulsets()} == {2}
    assert world.broken == []


def test_grove_565_scale_patches_in_quick_succession_replace_no_pod():
    """Six within 30 s, up and down: what was there before is what is there at the end, in its first epoch."""
    world = settled(aggregated=1, nodes=2)
    first = uids(world)
    revision = revisions(world)["demo-a-0"]
    for replicas in (2, 3, 1, 4, 2, 3):
        world.edit({"replicas": replicas})
        for _ in range(5):
            world.tick()
            assert first.items() <= uids(world).items()
    world.is_traffic_on = False
    world.settle()
    assert world.is_ready()
    assert first.items() <= uids(world).items()
    assert set(world.statefulsets()) == {"demo-a-0", "demo-a-1", "demo-a-2"}
    assert {frozenset(found) for found in revisions(world).values()} == {frozenset(revision)}
    assert world.epoch_of("demo-a-0") == 1
    assert world.broken == []


@pytest.mark.parametrize(
    ("roles", "num_pods"),
    [
        ({"aggregated": 1, "nodes": 1}, 1),
        ({"aggregated": 2, "nodes": 2}, 4),
        ({"prefill": 2, "decode": 1}, 6),
    ],
)
@pytest.mark.parametrize(("ratio", "wanted"), [(1.2, 2), (0.9, 1), (2.5, 3)])
def test_an_autoscaler_at_one_role_set_counts_one_pod(roles, num_pods, ratio, wanted):
    """It multiplies the ratio of its metric by the ready pods that the selector of the scale finds."""
    world = settled(**({"nodes": 2} | roles))
    labels = dict(part.split("=") for part in world.status()["selector"].split(","))
    counted = world.api.find("Pod", **labels)
    assert (len(uids(world)), len(counted), world.status()["replicas"]) == (num_pods, 1, 1)
    assert math.ceil(ratio * len(counted)) == wanted
