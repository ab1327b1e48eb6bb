"""Rollouts: which groups move when, what stays as it is, and what is said meanwhile."""

import pytest

from doubles.kubernetes.kubelets import Finish, Run, Wait
from doubles.service_world import OPTIONS, World, a_manifest
from hortator.operator import names
from hortator.operator.options import Images, Options
from hortator.operator.plan import Apply

NODES = {f"n-{index}": {"gpus": 8} for index in range(10)}
NEW, BAD = "registry.example/worker:2", "registry.example/worker:none"
NEW_IMAGE = {"engine": {"image": NEW}}
BAD_IMAGE = {"engine": {"image": BAD}}
UNPULLED = {"prePull": "Off"}
"""Groups move before anybody knows whether their nodes can pull the image."""
_SETTLED: dict[str, World] = {}
NO_IMAGE = {"engine": {"image": None}}


def settled(*, on=NODES, **manifest):
    """A service at rest, with requests in flight from now on."""
    key = repr((on, manifest))
    if key not in _SETTLED:
        world = World(a_manifest(**({"nodes": 1} | manifest)), nodes=on)
        world.acts_of_images[BAD] = Wait(reason="ImagePullBackOff")
        world.settle()
        world.is_traffic_on = True
        world.tick()
        world.actions.clear()
        world.events.clear()
        _SETTLED[key] = world
    return _SETTLED[key].clone()


def available(world):
    """Groups that serve: their engine reports and is not told to drain."""
    return {
        name
        for name in world.statefulsets()
        if (load := world.loads().get(worker_id(name))) is not None and not load.is_draining
    }


def worker_id(name):
    parsed = names.parse_group_name(name)
    return names.worker_id(parsed.role, parsed.index)


def image_of(statefulset):
    return statefulset["spec"]["template"]["spec"]["containers"][0]["image"]


def moved(world):
    """Groups whose pods are of the new image, whether they are ready or not."""
    return {name for name, one in world.statefulsets().items() if image_of(one) in {NEW, BAD}}


def epochs(world):
    return {name: world.epoch_of(name) for name in world.statefulsets()}


def rolled(world, *, limit=400):
    """Tick until at rest; the least number of groups that served at a time, and the order in which they moved."""
    least, order = len(available(world)), []
    for _ in range(limit):
        is_still = world.tick()
        least = min(least, len(available(world)))
        order += sorted(moved(world) - set(order))
        if is_still and world.is_ready():
            break
    assert world.broken == []
    return least, order


def stuck(world, *, ticks=25):
    """The world some time later, with a rollout that does not end."""
    for _ in range(ticks):
        world.tick()
    assert world.broken == []
    return world


def written(world, name):
    """The replicas and the epoch of each write to a group."""
    found = [
        (
            action.obj["spec"]["replicas"],
            action.obj["spec"]["template"]["metadata"]["labels"][names.LABEL_EPOCH],
        )
        for action in world.actions
        if isinstance(action, Apply)
        and (action.obj["kind"], action.obj["metadata"]["name"]) == ("StatefulSet", name)
    ]
    return [one for index, one in enumerate(found) if index == 0 or found[index - 1] != one]


def test_groups_move_one_by_one_and_the_rest_serves():
    world = settled(aggregated=4)
    world.edit(NEW_IMAGE)
    least, order = rolled(world)
    assert least == 3
    assert order == ["demo-a-3", "demo-a-2", "demo-a-1", "demo-a-0"]
    assert set(epochs(world).values()) == {2}, "each group was started once"
    assert world.status()["rollout"] == {
        "phase": "Complete",
        "updatedGroups": 4,
        "totalGroups": 4,
        "moving": [],
        "message": "4 of 4 groups run what spec asks for",
    }


def test_as_many_move_at_once_as_may_be_away():
    world = settled(aggregated=5, rollout={"maxUnavailable": 2})
    world.edit(NEW_IMAGE)
    least, _ = rolled(world)
    assert least == 3
    assert world.status()["display"]["updated"] == "5/5"


def test_what_no_pod_sees_moves_no_group():
    world = settled(aggregated=2)
    rollout = {"maxUnavailable": 2, "partition": 1, "paused": True, "revisionHistoryLimit": 1}
    world.edit({"gateway": {"replicas": 3}, "drain": {"timeout": "10s"}, "rollout": rollout})
    stuck(world)
    assert epochs(world) == {"demo-a-0": 1, "demo-a-1": 1}
    assert world.condition("Ready")["status"] == "True"


def test_the_status_names_the_group_that_is_rolled_and_what_it_waits_for():
    world = settled(aggregated=3)
    world.in_flight["aggregated-2"] = 2
    world.edit(NEW_IMAGE)
    world.until(lambda: world.status()["rollout"]["moving"])
    world.tick()
    rollout = world.status()["rollout"]
    assert (rollout["phase"], rollout["moving"]) == ("Rolling", ["demo-a-2"])
    assert rollout["message"].startswith(
        "0 of 3 groups run what spec asks for; demo-a-2 moves: group demo-a-2 "
    )
    assert "drains (RollingUpdate)" in rollout["message"]
    progressing = world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "RollingUpdate")
    assert progressing["message"] == rollout["message"]
    (role,) = world.status()["roles"]
    assert role["updated"] == 0
    assert role["currentRevision"] != role["updateRevision"]
    rolled(world)
    (role,) = world.status()["roles"]
    assert role["currentRevision"] == role["updateRevision"]


def test_a_bad_image_stops_at_the_first_group_and_going_back_restores_it():
    world = settled(aggregated=3, rollout=UNPULLED)
    world.edit(BAD_IMAGE)
    stuck(world)
    assert moved(world) == {"demo-a-2"}
    assert available(world) == {"demo-a-0", "demo-a-1"}
    assert world.condition("Ready")["reason"] == "ImagePullBackOff"
    assert world.condition("Available")["status"] == "True"
    assert "demo-a-2 moves: " in world.condition("Progressing")["message"]
    world.edit(NO_IMAGE)
    least, _ = rolled(world)
    assert least == 2
    assert moved(world) == set()
    assert epochs(world) == {"demo-a-0": 1, "demo-a-1": 1, "demo-a-2": 3}, "the others were not touched"


def test_a_bad_image_takes_as_many_groups_as_may_be_away_and_no_more():
    world = settled(aggregated=4, rollout={"maxUnavailable": 2} | UNPULLED)
    world.edit(BAD_IMAGE)
    stuck(world)
    assert moved(world) == {"demo-a-2", "demo-a-3"}


def test_a_group_that_fails_beside_a_bad_revision_starts_again_as_it_was():
    world = settled(aggregated=3, rollout=UNPULLED)
    world.edit(BAD_IMAGE)
    stuck(world)
    world.crash("demo-a-0-0")
    stuck(world)
    assert moved(world) == {"demo-a-2"}
    assert available(world) == {"demo-a-0", "demo-a-1"}
    assert world.epoch_of("demo-a-0") == 2


def test_a_service_that_never_served_is_repaired_as_a_whole():
    """Nothing is lost by it, so nobody waits for the first group to prove the new image."""
    engine = {"backend": "Simulated", "image": BAD}
    world = World(a_manifest(aggregated=3, nodes=1, engine=engine), nodes=NODES)
    world.acts_of_images[BAD] = Wait(reason="ImagePullBackOff")
    stuck(world, ticks=10)
    world.edit(NEW_IMAGE)
    world.look()
    world.look()
    assert [image_of(one) for one in world.statefulsets().values()] == [NEW] * 3
    rolled(world)


def test_a_broken_group_is_replaced_before_those_that_serve():
    world = settled(aggregated=3, restart={"policy": "None"})
    world.acts["demo-a-0-0"] = None
    world.crash("demo-a-0-0")
    stuck(world, ticks=5)
    del world.acts["demo-a-0-0"]
    world.edit(NEW_IMAGE)
    _, order = rolled(world)
    assert order == ["demo-a-0", "demo-a-2", "demo-a-1"]


def test_a_rollout_without_a_step_is_told_once_and_goes_on():
    world = settled(aggregated=2, rollout={"progressDeadline": "5m"} | UNPULLED)
    world.edit(BAD_IMAGE)
    since = world.clock
    world.until(lambda: world.condition("Progressing")["reason"] == "ProgressDeadlineExceeded")
    assert 300 <= (world.clock - since).total_seconds() < 330
    progressing = world.condition("Progressing")
    assert progressing["status"] == "False"
    assert progressing["message"].startswith(
        "no step for 300 s: 1 of 2 groups run what spec asks for; demo-a-1"
    )
    assert "hortator k8s rollout undo" in world.explain()
    stuck(world)
    assert world.events.count("Warning ProgressDeadlineExceeded") == 1
    world.edit(NO_IMAGE)
    rolled(world)
    assert world.condition("Progressing")["reason"] == "AllGroupsReady"


def test_the_deadline_counts_from_the_last_step():
    """Ten groups that take a minute each are no reason to worry about a deadline of two."""
    world = settled(aggregated=4, rollout={"progressDeadline": "2m"}, drain={"timeout": "60s"})
    world.is_scheduler_answering = False  # nobody acknowledges: each drain takes its whole time
    world.edit(NEW_IMAGE)
    said = set()
    for _ in range(400):
        world.tick()
        said.add(world.condition("Progressing").get("reason"))
        if len(moved(world)) == 4:
            break
    assert len(moved(world)) == 4
    assert "ProgressDeadlineExceeded" not in said


def test_a_failure_long_after_a_rollout_is_not_taken_for_one():
    world = settled(aggregated=2, rollout={"progressDeadline": "1m"})
    world.edit(NEW_IMAGE)
    rolled(world)
    world.clock = world.clock.replace(hour=23)
    world.acts["demo-a-1-0"] = Wait(reason="ImagePullBackOff")
    world.delete_pod("demo-a-1-0")
    stuck(world)
    assert world.condition("Progressing")["reason"] == "ImagePullBackOff"
    assert world.status()["rollout"]["phase"] == "Complete"


def test_nothing_moves_while_it_is_paused_and_everything_after():
    world = settled(aggregated=3, rollout={"paused": True})
    world.edit(NEW_IMAGE)
    stuck(world)
    assert moved(world) == set()
    assert epochs(world) == {"demo-a-0": 1, "demo-a-1": 1, "demo-a-2": 1}
    assert world.condition("Ready")["reason"] == "RolloutPaused"
    assert (world.condition("Progressing")["status"], world.condition("Progressing")["reason"]) == (
        "False",
        "RolloutPaused",
    )
    assert world.status()["display"] == {"groups": "3/3", "ranks": "12/12", "updated": "0/3"}
    assert world.status()["rollout"]["phase"] == "Paused"
    assert "Normal RolloutPaused" in world.events
    world.edit({"rollout": {"paused": False}})
    assert rolled(world)[1] == ["demo-a-2", "demo-a-1", "demo-a-0"]


def test_a_pause_half_way_leaves_what_has_moved_and_what_has_not():
    world = settled(aggregated=3)
    world.edit(NEW_IMAGE)
    world.until(lambda: "demo-a-2" in moved(world))
    world.edit({"rollout": {"paused": True}})
    stuck(world)
    assert moved(world) == {"demo-a-2"}
    assert available(world) == {"demo-a-0", "demo-a-1", "demo-a-2"}


def test_a_group_that_drains_when_it_is_paused_starts_again_as_it_was():
    """It was told to take nothing more, which only a new start undoes; but it does not move."""
    world = settled(aggregated=2)
    world.in_flight["aggregated-1"] = 2
    world.edit(NEW_IMAGE)
    world.until(lambda: world.draining != {})
    world.edit({"rollout": {"paused": True}})
    stuck(world)
    assert moved(world) == set()
    assert epochs(world) == {"demo-a-0": 1, "demo-a-1": 2}
    assert available(world) == {"demo-a-0", "demo-a-1"}


def test_a_group_that_fails_or_is_added_while_it_is_paused_is_as_the_others():
    world = settled(aggregated=1, replicas=2, rollout={"paused": True})
    world.edit(NEW_IMAGE | {"replicas": 3})
    world.tick()
    world.crash("demo-a-0-0")
    stuck(world)
    assert moved(world) == set()
    assert available(world) == {"demo-a-0", "demo-a-1", "demo-a-2"}
    assert epochs(world) == {"demo-a-0": 2, "demo-a-1": 1, "demo-a-2": 1}


def test_members_that_somebody_takes_from_a_held_group_are_missed():
    world = settled(nodes=2, rollout={"paused": True})
    world.edit(NEW_IMAGE)
    world.tick()
    world.acts["demo-a-0-1"] = Wait(reason="ImagePullBackOff")
    world.crash("demo-a-0-0")
    world.until(lambda: world.statefulsets()["demo-a-0"]["spec"]["replicas"] == 0)
    world.until(lambda: world.statefulsets()["demo-a-0"]["spec"]["replicas"] == 2)
    del world.acts["demo-a-0-1"]
    world.api.patch(("apps/v1", "StatefulSet", "default", "demo-a-0"), {"spec": {"replicas": 1}})
    stuck(world)
    assert moved(world) == set()
    assert available(world) == {"demo-a-0", "demo-a-1"}
    assert world.statefulsets()["demo-a-0"]["spec"]["replicas"] == 2


def test_a_service_that_is_created_paused_starts():
    """There is no earlier revision to stay at."""
    world = World(a_manifest(nodes=1, rollout={"paused": True}), nodes=NODES)
    world.settle()
    assert world.is_ready()


def test_a_partition_tries_the_revision_on_the_highest_groups():
    world = settled(aggregated=4, rollout={"partition": 3})
    world.edit(NEW_IMAGE)
    stuck(world)
    assert moved(world) == {"demo-a-3"}
    assert world.status()["rollout"]["phase"] == "Partition"
    assert world.condition("Ready")["reason"] == "RolloutPartition"
    world.crash("demo-a-1-0")
    stuck(world)
    assert moved(world) == {"demo-a-3"}, "a group below it starts again as it was"
    world.edit({"rollout": {"partition": 2}})
    stuck(world)
    assert moved(world) == {"demo-a-2", "demo-a-3"}
    world.edit({"rollout": {"partition": 0}})
    rolled(world)
    assert len(moved(world)) == 4


def test_a_trial_that_is_taken_back_touches_the_trial_alone():
    world = settled(aggregated=3, rollout={"partition": 2})
    world.edit(NEW_IMAGE)
    stuck(world)
    world.edit(NO_IMAGE)
    rolled(world)
    assert epochs(world) == {"demo-a-0": 1, "demo-a-1": 1, "demo-a-2": 3}


def test_the_only_group_of_a_role_is_not_taken_without_leave():
    world = settled(prefill=2, decode=1)
    world.edit(NEW_IMAGE)
    stuck(world)
    assert moved(world) == {"demo-p-1"}, "prefill is one group ahead, and waits"
    assert len(available(world)) == 3
    assert world.condition("Ready")["reason"] == "LastAvailableGroup"
    assert world.condition("Progressing")["status"] == "False"
    assert world.status()["rollout"]["phase"] == "Waiting"
    assert "spec.rollout.allowOutage" in world.explain()
    assert "Normal LastAvailableGroup" in world.events
    world.edit({"rollout": {"allowOutage": True}})
    rolled(world)
    assert len(moved(world)) == 3


def test_a_restart_on_request_needs_no_leave():
    """Whoever asks for it by name means this group."""
    world = settled(aggregated=1)
    world.edit({"restart": {"requestedAt": "2026-11-26T11:00:00Z"}})
    world.settle()
    assert epochs(world) == {"demo-a-0": 2}


def test_roles_keep_pace():
    """Two of four and one of two: neither role is more than a group ahead of its share at any time."""
    world = settled(prefill=4, decode=2)
    world.edit(NEW_IMAGE)
    _, order = rolled(world)
    assert [name[5] for name in order] == ["p", "d", "p", "p", "d", "p"]


def test_a_surge_group_keeps_a_role_of_one_group_serving():
    world = settled(aggregated=1, rollout={"maxUnavailable": 0, "maxSurge": 1})
    world.edit(NEW_IMAGE)
    world.until(lambda: "demo-a-1" in world.statefulsets())
    rollout = world.status()["rollout"]
    assert (rollout["phase"], rollout["moving"]) == ("Rolling", ["demo-a-1"])
    least, order = rolled(world)
    assert least == 1
    assert order == ["demo-a-1", "demo-a-0"]
    world.settle()
    assert epochs(world) == {"demo-a-0": 2}, "the group beside it is gone"
    assert world.api.find("PodDisruptionBudget")[0]["metadata"]["name"] == "demo-a-0"
    assert len(world.api.find("PodDisruptionBudget")) == 1


def test_with_surge_as_many_groups_serve_as_are_wanted():
    world = settled(aggregated=3, rollout={"maxUnavailable": 0, "maxSurge": 1})
    world.edit(NEW_IMAGE)
    least, _ = rolled(world)
    assert least == 3
    world.settle()
    assert set(world.statefulsets()) == {"demo-a-0", "demo-a-1", "demo-a-2"}
    assert world.status()["replicas"] == 1


def test_a_surge_group_is_no_role_set():
    """An autoscaler counts role sets, by the mark on a pod and by status.replicas."""
    world = settled(aggregated=1, rollout={"maxUnavailable": 0, "maxSurge": 1})
    world.edit(NEW_IMAGE)
    seen, counted = set(), set()
    for _ in range(40):
        world.tick()
        counted.add(world.status()["replicas"])
        seen |= {one["metadata"]["name"] for one in world.api.find("Pod", **{names.LABEL_SCALE_UNIT: "true"})}
    assert seen == {"demo-a-0-0"}
    assert counted == {1}


TWO_NODES = {f"n-{index}": {"gpus": 8} for index in range(2)}
ON_GPUS = {"backend": "TensorRTLLM", "gpus_per_node": 8}


def test_without_room_for_a_surge_group_it_goes_on_with_what_may_be_away():
    world = settled(on=TWO_NODES, **ON_GPUS, rollout={"maxSurge": 1})
    world.edit(NEW_IMAGE)
    least, _ = rolled(world)
    assert least == 1
    assert moved(world) >= {"demo-a-0", "demo-a-1"}


def test_without_room_for_a_surge_group_and_none_to_spare_it_says_so():
    world = settled(on=TWO_NODES, **ON_GPUS, rollout={"maxUnavailable": 0, "maxSurge": 1})
    world.edit(NEW_IMAGE)
    stuck(world)
    assert moved(world) == {"demo-a-2"}
    assert available(world) == {"demo-a-0", "demo-a-1"}
    message = world.condition("Progressing")["message"]
    assert "demo-a-2 moves: group demo-a-2 needs 1 nodes with 8 nvidia.com/gpu free" in message


def test_a_change_of_mind_during_a_rollout_leads_to_the_last_thing_said():
    world = settled(aggregated=3)
    world.edit(NEW_IMAGE)
    world.until(lambda: "demo-a-2" in moved(world))
    world.edit({"engine": {"image": "registry.example/worker:3"}})
    world.settle()
    assert {image_of(one) for one in world.statefulsets().values()} == {"registry.example/worker:3"}
    assert world.is_ready()


def test_revisions_that_nothing_runs_are_kept_up_to_the_limit():
    world = settled(aggregated=2, rollout={"revisionHistoryLimit": 2})
    for number in range(5):
        world.edit({"engine": {"image": f"registry.example/worker:{number}"}})
        world.settle()
    kept = [
        one
        for one in world.api.find("ControllerRevision")
        if one["metadata"]["labels"].get(names.LABEL_ROLE) == "aggregated"
    ]
    assert sorted(one["revision"] for one in kept) == [4, 5, 6]


def test_a_held_group_whose_revision_somebody_deleted_runs_on_and_starts_next_as_spec_asks():
    world = settled(aggregated=2, rollout={"paused": True})
    old = world.statefulsets()["demo-a-0"]["spec"]["template"]["metadata"]["labels"][names.LABEL_REVISION]
    world.edit(NEW_IMAGE)
    world.tick()
    world.api.delete(("apps/v1", "ControllerRevision", "default", f"demo-a-{old}"))
    stuck(world)
    assert moved(world) == set()
    world.crash("demo-a-0-0")
    stuck(world)
    assert moved(world) == {"demo-a-0"}
    assert available(world) == {"demo-a-0", "demo-a-1"}


def test_a_shape_that_changed_while_suspended_is_not_held_back():
    world = settled(aggregated=2, nodes=2)
    world.is_traffic_on = False
    world.edit({"suspend": True})
    world.until(lambda: world.condition("Suspended")["status"] == "True")
    role = {"name": "Aggregated", "replicas": 2, "nodes": 3, "gpusPerNode": 4}
    role |= {"parallelism": {"attentionDP": 12, "expert": 12}}
    world.edit({"suspend": False, "rollout": {"paused": True}, "roles": [role]})
    world.until(lambda: len(available(world)) == 2)
    assert {one["spec"]["replicas"] for one in world.statefulsets().values()} == {3}


def test_an_operator_of_another_version_moves_no_group_and_goes_on_with_a_rollout_as_it_was_begun():
    world = settled(aggregated=3)
    world.options = Options(images=Images.of_version("9.9.9"), log_level="DEBUG")
    stuck(world)
    assert set(epochs(world).values()) == {1}
    world.crash("demo-a-0-0")
    rolled(world)
    assert templates(world) == {"hortator-worker:1.2.3 INFO"}
    world.options = OPTIONS
    world.edit(NEW_IMAGE)
    world.until(lambda: len(moved(world)) == 1)
    world.options = Options(images=Images.of_version("9.9.9"), log_level="DEBUG")
    rolled(world)
    assert templates(world) == {f"{NEW} INFO"}, "the revision is as it was first rendered"


MODEL = {"uri": "hf://deepseek-ai/DeepSeek-V3", "cache": {"create": {"size": "1Ti"}}}


def test_no_group_that_serves_is_taken_before_the_new_model_is_there():
    world = settled(model=MODEL, rollout={"progressDeadline": "1m"})
    world.acts[names.COMPONENT_CACHE] = Run()
    world.edit({"model": MODEL | {"revision": "v2"}})
    stuck(world, ticks=90)
    assert epochs(world) == {"demo-a-0": 1, "demo-a-1": 1}
    assert world.condition("Ready")["reason"] == "ModelDownloading"
    assert world.condition("Available")["status"] == "True"
    progressing = world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "RollingUpdate")
    assert "it waits until the model is in the cache" in progressing["message"]
    world.crash("demo-a-0-0")
    stuck(world)
    assert available(world) == {"demo-a-0", "demo-a-1"}, "its own model is still there"
    assert epochs(world) == {"demo-a-0": 2, "demo-a-1": 1}
    del world.acts[names.COMPONENT_CACHE]
    least, _ = rolled(world)
    assert least == 1
    assert epochs(world) == {"demo-a-0": 3, "demo-a-1": 2}
    assert "Warning ProgressDeadlineExceeded" not in world.events


def test_a_service_whose_model_never_came_moves_to_the_right_one_at_once():
    world = World(a_manifest(nodes=1, model=MODEL), nodes=NODES)
    world.acts[names.COMPONENT_CACHE] = Finish(exit_code=1)
    world.until(lambda: world.condition("Ready").get("reason") == "ModelDownloadFailed")
    del world.acts[names.COMPONENT_CACHE]
    world.edit({"model": MODEL | {"revision": "v2"}})
    rolled(world)
    assert world.is_ready()


def templates(world):
    """Image and log level of every group's pods."""
    containers = [one["spec"]["template"]["spec"]["containers"][0] for one in world.statefulsets().values()]
    return {
        f"{one['image']} {next(env['value'] for env in one['env'] if env['name'].endswith('LOG_LEVEL'))}"
        for one in containers
    }


@pytest.mark.parametrize("rollout", [{"maxUnavailable": 2}, {"maxUnavailable": 0, "maxSurge": 2}], ids=str)
def test_each_group_is_closed_and_started_once(rollout):
    world = settled(aggregated=3, nodes=2, rollout=rollout)
    world.edit(NEW_IMAGE)
    rolled(world)
    world.settle()
    for name in ("demo-a-0", "demo-a-1", "demo-a-2"):
        assert written(world, name) == [(2, "1"), (0, "2"), (2, "2")]
