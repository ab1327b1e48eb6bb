"""An invalid spec changes nothing: the last one that was accepted is carried out, whoever accepted it.

The operator of this world remembers nothing from one look to the next: each of its looks is that of a process
that has just started.
"""

import pytest

from doubles.service_world import World, a_manifest
from hortator.operator import names
from hortator.operator.accepted import is_record
from hortator.operator.objects import ref_of
from hortator.operator.plan import Create, Delete
from hortator.operator.status.conditions import OBSERVED

NODES = {f"n-{index}": {"gpus": 8} for index in range(6)}
INVALID = {"drain": {"timeout": "soon"}}


@pytest.fixture
def world():
    made = World(a_manifest(aggregated=2), nodes=NODES)
    made.settle()
    made.actions.clear()
    return made


def records(world):
    return [obj for obj in world.api.find("ControllerRevision") if is_record(obj)]


def test_it_touches_nothing_and_names_the_field(world):
    world.edit(INVALID)
    world.settle()
    assert world.actions == []
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert "spec.drain.timeout" in accepted["message"]
    assert world.condition("Available")["status"] == "True"
    world.edit({"drain": {"timeout": "60s"}})
    world.settle()
    assert world.is_ready()


def test_a_group_that_fails_beside_it_starts_again_by_the_spec_that_was_accepted(world):
    world.edit(INVALID | {"engine": {"image": "a/worker:2"}})
    world.crash("demo-a-0-0")
    world.until(lambda: world.epoch_of("demo-a-0") == 2)
    world.until(lambda: world.condition("WorkersReady")["status"] == "False")
    world.until(lambda: world.is_truly_up("demo-a-0"))
    for _ in range(3):
        world.tick()
    assert world.condition("Ready")["reason"] == "InvalidSpec"
    assert world.condition("WorkersReady")["status"] == "True"
    images = {pod["spec"]["containers"][0]["image"] for pod in world.api.find("Pod")}
    assert "a/worker:2" not in images
    assert world.broken == []


def test_what_is_said_beside_it_is_what_is_observed(world):
    world.edit(INVALID)
    for index in range(2):
        world.acts[f"demo-a-{index}-1"] = None
        world.crash(f"demo-a-{index}-1")
    world.until(lambda: world.condition("Available")["status"] == "False")
    explained = world.explain()
    assert "demo is not accepted: InvalidSpec" in explained
    assert "the spec of generation 1, accepted last, is carried out" in explained
    assert "group demo-a-0" in explained


def test_a_scale_down_that_came_before_it_is_finished(world):
    world.edit({"replicas": 0})
    world.look()  # accepted, and begun
    world.edit(INVALID)
    world.until(lambda: world.statefulsets() == {})


def test_the_record_comes_before_anything_that_is_done_for_the_spec(world):
    """Every kind of change: the first write of all is the record, and what it keeps is the whole spec."""
    for number, change in enumerate(({"replicas": 2}, {"engine": {"image": "a/b:1"}}, {"suspend": True}), 2):
        world.edit(change)
        world.settle()
        first = world.actions[0]
        assert isinstance(first, Create)
        assert is_record(first.obj)
        assert first.obj["revision"] == number
        assert first.obj["data"]["spec"] == world.api.get(world.service_key)["spec"]
        world.actions.clear()


def test_earlier_records_go_once_the_present_one_is_there(world):
    (before,) = records(world)
    world.edit({"suspend": True})
    world.look()
    assert len(records(world)) == 2
    world.look()
    assert before not in records(world)
    assert [obj["revision"] for obj in records(world)] == [2]
    deleted = [action.ref for action in world.actions if isinstance(action, Delete)]
    assert deleted == [ref_of(before)]


def test_the_newest_record_that_can_be_read_counts(world):
    """One that this version of the operator does not understand is no spec to act on."""
    (first,) = records(world)
    newer = first | {"revision": 7, "data": {"spec": {"roles": "from the future"}}}
    newer["metadata"] = {name: first["metadata"][name] for name in ("labels", "namespace", "ownerReferences")}
    world.api.create(newer | {"metadata": newer["metadata"] | {"name": "demo-accepted-7-x"}})
    world.edit(INVALID)
    world.delete_pod("demo-a-0-0")
    world.until(lambda: world.epoch_of("demo-a-0") == 2)


def nothing_was_accepted():
    manifest = a_manifest(aggregated=2)
    manifest["spec"] |= INVALID
    return World(manifest, nodes=NODES)


def all_records_were_deleted():
    world = World(a_manifest(aggregated=2), nodes=NODES)
    world.settle()
    world.edit(INVALID)
    world.settle()
    for obj in records(world):
        world.api.delete((obj["apiVersion"], obj["kind"], "default", obj["metadata"]["name"]))
    return world


@pytest.mark.parametrize("make", [nothing_was_accepted, all_records_were_deleted])
def test_without_a_spec_that_was_accepted_nothing_is_done_or_said_to_be_known(make):
    world = make()
    world.actions.clear()
    world.settle()
    assert world.actions == []
    for kind in ("Ready", "Accepted"):
        assert (world.condition(kind)["status"], world.condition(kind)["reason"]) == ("False", "InvalidSpec")
    for kind in OBSERVED:
        assert world.condition(kind)["status"] == "Unknown", kind
    assert not {"groups", "roles", "display", "replicas", "readyReplicas"} & set(world.status())
    assert "what runs is not looked after" in world.explain()
    world.edit({"drain": {"timeout": "60s"}})
    world.settle()
    assert world.is_ready()
    assert {world.epoch_of(name) for name in world.statefulsets()} == {1}


def test_a_record_of_a_former_service_of_that_name_is_not_taken_for_one_of_this(world):
    (record,) = records(world)
    world.api.delete(world.service_key)
    for _ in range(40):
        world.controllers.step()
        world.kubelets.step()
    manifest = a_manifest(aggregated=2)
    manifest["spec"] |= INVALID
    world.api.create(manifest)
    former = {
        name: value for name, value in record["metadata"].items() if name not in {"uid", "resourceVersion"}
    }
    world.api.create(record | {"metadata": former})
    world.look()
    assert world.condition("Available")["status"] == "Unknown"
    assert world.api.find("StatefulSet", **{names.LABEL_SERVICE: "demo"}) == []
