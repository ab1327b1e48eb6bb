"""Roles scaled apart from each other: groups come and go as an LLMServiceScaler says, and none is rolled."""

import math
from datetime import timedelta

import pytest

from doubles.service_world import World, a_manifest, scaler_key
from hortator.operator import names

NODES = {f"n-{index}": {"gpus": 8} for index in range(12)}


def settled(**manifest):
    world = World(a_manifest(**({"prefill": 1, "decode": 1, "nodes": 1} | manifest)), nodes=NODES)
    world.settle()
    return world


def groups(world):
    return sorted(world.statefulsets())


def uids(world):
    pods = world.api.find("Pod", **{names.LABEL_COMPONENT: names.COMPONENT_ENGINE})
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def active(world, name):
    (found,) = [one for one in world.scaler(name)["status"]["conditions"] if one["type"] == "Active"]
    return found["status"], found["reason"]


def counted(world, name):
    """The pods that an autoscaler multiplies its ratio by."""
    label, _, listed = world.scaler(name)["status"]["selector"].partition(" in ")
    wanted = listed.strip("()").split(",")
    return [pod for pod in uids(world) if pod in wanted and label == names.LABEL_POD_NAME]


def test_a_scaler_without_a_number_takes_that_of_the_role_and_changes_nothing():
    world = settled(decode=2)
    before, revision = uids(world), world.api.find("ControllerRevision")
    world.add_scaler("decode", "Decode")
    world.settle()
    assert world.scaler("decode")["spec"]["replicas"] == 2
    assert (uids(world), world.api.find("ControllerRevision")) == (before, revision)
    assert active(world, "decode") == ("True", "RoleScaled")
    status = world.scaler("decode")["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)
    assert [role["scaler"] for role in world.status()["roles"]] == ["", "decode"]


def test_one_role_is_scaled_and_the_other_and_the_service_stay_as_they_are():
    world = settled()
    before = uids(world)
    generation = world.api.get(world.service_key)["metadata"]["generation"]
    world.add_scaler("decode", "Decode", replicas=3)
    world.settle()
    assert groups(world) == ["demo-d-0", "demo-d-1", "demo-d-2", "demo-p-0"]
    assert before.items() <= uids(world).items()
    assert world.is_ready()
    assert world.status()["display"]["groups"] == "4/4"
    world.is_traffic_on = True
    world.tick()
    world.scale("decode", 1)
    world.settle()
    assert (groups(world), uids(world)) == (["demo-d-0", "demo-p-0"], before)
    assert world.api.get(world.service_key)["metadata"]["generation"] == generation
    assert world.broken == []


def test_six_scales_in_30_s_replace_no_pod_and_roll_nothing():
    world = settled()
    world.add_scaler("decode", "Decode", replicas=1)
    world.settle()
    world.is_traffic_on = True
    world.tick()
    first, revisions = uids(world), world.api.find("ControllerRevision")
    for replicas in (2, 3, 1, 4, 2, 3):
        world.scale("decode", replicas)
        for _ in range(5):
            world.tick()
            assert first.items() <= uids(world).items()
            assert world.status()["rollout"]["phase"] == "Complete"
    world.is_traffic_on = False
    world.settle()
    assert first.items() <= uids(world).items()
    assert groups(world) == ["demo-d-0", "demo-d-1", "demo-d-2", "demo-p-0"]
    assert {world.epoch_of(name) for name in ("demo-d-0", "demo-p-0")} == {1}
    assert world.api.find("ControllerRevision") == revisions
    assert world.broken == []


def test_without_its_scaler_a_role_has_as_many_groups_as_it_says():
    world = settled()
    world.add_scaler("decode", "Decode", replicas=3)
    world.settle()
    world.is_traffic_on = True
    world.tick()
    world.api.delete(scaler_key("decode"))
    world.settle()
    assert groups(world) == ["demo-d-0", "demo-p-0"]
    assert [role["scaler"] for role in world.status()["roles"]] == ["", ""]
    assert world.broken == []


def test_what_the_role_says_is_only_where_it_begins():
    """A manifest that is applied again does not take the number from whoever scales."""
    world = settled()
    world.add_scaler("decode", "Decode", replicas=2)
    world.settle()
    before = uids(world)
    roles = world.api.get(world.service_key)["spec"]["roles"]
    world.edit({"roles": [role | {"replicas": 4} if role["name"] == "Decode" else role for role in roles]})
    world.settle()
    assert uids(world) == before
    assert world.scaler("decode")["spec"]["replicas"] == 2


def test_of_two_scalers_of_a_role_the_older_one_wins_and_the_other_says_so():
    world = settled()
    world.add_scaler("second-by-name", "Decode", replicas=2)
    world.clock += timedelta(seconds=1)
    world.add_scaler("first-by-name", "Decode", replicas=3)
    world.settle()
    assert groups(world) == ["demo-d-0", "demo-d-1", "demo-p-0"]
    assert active(world, "first-by-name") == ("False", "Conflict")
    status = world.scaler("first-by-name")["status"]
    assert status["selector"] == ""
    assert "second-by-name, which is older" in status["conditions"][0]["message"]
    world.api.delete(scaler_key("second-by-name"))
    world.settle()
    assert active(world, "first-by-name") == ("True", "RoleScaled")
    assert len(groups(world)) == 4


def test_a_role_that_is_not_there_is_named():
    world = settled()
    world.add_scaler("all", "Aggregated", replicas=3)
    before = uids(world)
    world.settle()
    assert uids(world) == before
    assert active(world, "all") == ("False", "RoleNotFound")
    assert world.scaler("all")["status"]["conditions"][0]["message"] == (
        "LLMService demo has no role Aggregated, but Prefill and Decode"
    )


def test_a_rollout_and_a_scale_at_once():
    """The new groups are made at the new revision, the old ones move one after the other."""
    world = settled(prefill=2, decode=2)
    world.add_scaler("decode", "Decode", replicas=2)
    world.settle()
    world.is_traffic_on = True
    world.tick()
    world.edit({"engine": {"image": "registry.example/worker:2"}})
    world.tick()
    world.scale("decode", 3)
    world.settle()
    images = {
        one["spec"]["template"]["spec"]["containers"][0]["image"] for one in world.statefulsets().values()
    }
    assert images == {"registry.example/worker:2"}
    assert len(groups(world)) == 5
    assert world.is_ready()
    assert world.broken == []


def test_a_role_of_an_invalid_spec_is_scaled_as_ever():
    """The last spec that was accepted is carried out, with the number of the scaler; its record stays as it was."""
    world = settled()
    world.add_scaler("decode", "Decode", replicas=2)
    world.settle()
    world.edit({"drain": {"timeout": "soon"}})
    world.scale("decode", 3)
    world.settle()
    assert len(groups(world)) == 4
    records = [one for one in world.api.find("ControllerRevision") if "spec" in one["data"]]
    assert [[role["replicas"] for role in one["data"]["spec"]["roles"]] for one in records] == [[1, 1]]


class TestAutoscalers:
    """What a HorizontalPodAutoscaler makes of the selector: ratio x ready selected pods."""

    @pytest.mark.parametrize("nodes", [1, 2])
    @pytest.mark.parametrize(("ratio", "wanted"), [(1.2, 2), (0.9, 1), (2.5, 3)])
    def test_at_one_group_it_counts_one_pod(self, nodes, ratio, wanted):
        world = settled(nodes=nodes)
        world.add_scaler("decode", "Decode", replicas=1)
        world.settle()
        assert counted(world, "decode") == ["demo-d-0-0"]
        assert math.ceil(ratio * len(counted(world, "decode"))) == wanted

    def test_of_several_role_sets_it_counts_the_groups_of_one(self):
        """Two groups per set, at 1.2: three per set, and not five."""
        world = settled(replicas=2)
        world.add_scaler("decode", "Decode", replicas=2)
        world.settle()
        assert len(groups(world)) == 2 + 4
        assert counted(world, "decode") == ["demo-d-0-0", "demo-d-1-0"]
        assert world.scaler("decode")["status"]["replicas"] == 2
        world.scale("decode", 1)
        world.settle()
        assert counted(world, "decode") == ["demo-d-0-0"]

    def test_with_no_group_it_counts_none(self):
        world = settled()
        world.add_scaler("decode", "Decode", replicas=0)
        world.settle()
        assert groups(world) == ["demo-p-0"]
        assert counted(world, "decode") == []
        assert world.scaler("decode")["status"]["replicas"] == 0

    @pytest.mark.parametrize("nodes", [1, 2])
    def test_the_role_sets_are_still_counted_one_pod_each(self, nodes):
        """The groups that stand for them change with the groups that a set has."""
        world = settled(replicas=2, nodes=nodes)
        world.add_scaler("prefill", "Prefill", replicas=1)
        for replicas, expected in ((2, ["demo-p-0-0", "demo-p-2-0"]), (1, ["demo-p-0-0", "demo-p-1-0"])):
            world.scale("prefill", replicas)
            world.settle()
            labels = dict(part.split("=") for part in world.status()["selector"].split(","))
            assert [pod["metadata"]["name"] for pod in world.api.find("Pod", **labels)] == expected
        world.scale("prefill", 0)
        world.settle()
        found = [pod["metadata"]["name"] for pod in world.api.find("Pod", **labels)]
        assert found == ["demo-d-0-0", "demo-d-1-0"]
