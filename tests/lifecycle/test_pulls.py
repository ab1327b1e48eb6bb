"""Nodes pull an image before the groups on them are drained for it: when, how many at once, and what if they cannot."""

from datetime import timedelta

import pytest

from doubles.kubernetes.kubelets import Wait
from doubles.service_world import NAMESPACE, World, a_manifest
from hortator.operator import names
from hortator.operator.plan import Apply, Create, Delete
from hortator.operator.plan.pulls import MAX_AT_ONCE
from hortator.operator.pulls import LIMIT_S, REFUSED_LIMIT_S, REFUSED_RETRY_S

NODES = {f"n-{index}": {"gpus": 8} for index in range(10)}
NEW = "registry.example/worker:2"
NEW_IMAGE = {"engine": {"image": NEW}}
NO_IMAGE = {"engine": {"image": None}}
PULLING = Wait(reason="ContainerCreating")
FAILING = Wait(reason="ErrImagePull", message="manifest unknown")
_SETTLED: dict[str, World] = {}


def settled(*, on=NODES, backend="TensorRTLLM", **manifest):
    """A service at rest, with requests in flight: every member has a node of its own."""
    key = repr((on, backend, manifest))
    if key not in _SETTLED:
        given = {"nodes": 1, "gpus_per_node": 8} | manifest
        world = World(a_manifest(backend=backend, **given), nodes=on)
        world.settle()
        world.is_traffic_on = True
        world.tick()
        world.actions.clear()
        world.events.clear()
        _SETTLED[key] = world
    return _SETTLED[key].clone()


def ticked(world, ticks=12):
    """So many seconds later, even if nothing happens in them."""
    for _ in range(ticks):
        before = world.clock
        world.tick()
        world.clock = before + timedelta(seconds=1)
    assert world.broken == []
    return world


def jobs(world):
    return world.api.find("Job", **{names.LABEL_COMPONENT: names.COMPONENT_PULL})


def pods_of_jobs(world):
    return world.api.find("Pod", **{names.LABEL_COMPONENT: names.COMPONENT_PULL})


def node_of(job):
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return term["matchFields"][0]["values"][0]


def node_of_group(world, name):
    return world._pod(f"{name}-0")["spec"]["nodeName"]


def moved(world):
    return {
        name
        for name, one in world.statefulsets().items()
        if one["spec"]["template"]["spec"]["containers"][0]["image"] == NEW
    }


def draining(world):
    return {
        name
        for name, one in world.statefulsets().items()
        if names.ANNOTATION_DRAIN_STARTED_AT in one["metadata"].get("annotations", {})
    }


def hold(world, act, nodes=NODES):
    """What the pull pods on these nodes do."""
    world.acts |= dict.fromkeys(nodes, act)


def rolled(world):
    world.settle()
    assert world.is_ready()
    assert moved(world) == set(world.statefulsets())
    assert world.broken == []
    return world


def test_no_group_is_drained_before_its_nodes_have_the_image():
    world = settled(aggregated=2, nodes=2)
    hold(world, PULLING)
    world.edit(NEW_IMAGE)
    ticked(world)
    assert {node_of(job) for job in jobs(world)} == {pod["spec"]["nodeName"] for pod in engines(world)}
    assert (draining(world), moved(world)) == (set(), set())
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PrePulling")
    assert f"and 1 more has pulled image {NEW}" in ready["message"]
    assert world.condition("Available")["status"] == "True"
    assert world.condition("Progressing")["status"] == "True"
    hold(world, None)
    rolled(world)
    assert jobs(world) == pods_of_jobs(world) == []


def engines(world):
    return world.api.find("Pod", **{names.LABEL_COMPONENT: names.COMPONENT_ENGINE})


def test_each_pull_is_seen_to_be_done_before_its_group_drains():
    """In the order of what the operator wrote."""
    world = settled(aggregated=3)
    world.edit(NEW_IMAGE)
    rolled(world)
    drains, created = {}, {}
    for number, action in enumerate(world.actions):
        if isinstance(action, Create) and action.obj["kind"] == "Job":
            created.setdefault(node_of(action.obj), number)
        if isinstance(action, Apply) and "starts to drain" in action.why:
            drains.setdefault(action.obj["metadata"]["name"], number)
    assert len(created) == len(drains) == 3
    assert max(created.values()) < min(drains.values())
    assert sum(isinstance(one, Delete) and one.ref.kind == "Job" for one in world.actions) == 3


def test_the_pod_asks_for_nothing_but_the_image():
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    pulls = {"backend": "TensorRTLLM", "imagePullSecrets": [{"name": "registry"}], "image": "r/x:1"}
    role = a_manifest(aggregated=2, nodes=1, gpus_per_node=8)["spec"]["roles"][0]
    world = settled(engine=pulls, roles=[role | {"tolerations": tolerations}])
    hold(world, PULLING)
    world.edit(NEW_IMAGE)
    ticked(world)
    for pod in pods_of_jobs(world):
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["tolerations"] == tolerations
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] is False
        assert container["image"] == NEW
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "nodeSelector" not in spec
        assert pod["metadata"]["labels"][names.LABEL_SERVICE] == "demo"
    for job in jobs(world):
        (owner,) = job["metadata"]["ownerReferences"]
        assert owner["kind"] == "LLMService"
        assert job["spec"]["activeDeadlineSeconds"] > LIMIT_S


def test_an_image_that_no_node_can_pull_takes_no_group_and_going_back_leaves_nothing():
    world = settled(aggregated=3)
    hold(world, FAILING)
    before = {name: world.epoch_of(name) for name in world.statefulsets()}
    world.edit(NEW_IMAGE)
    ticked(world)
    world.clock += timedelta(seconds=LIMIT_S)
    ticked(world)
    assert (draining(world), moved(world)) == (set(), set())
    for kind in ("Ready", "Progressing"):
        condition = world.condition(kind)
        assert (condition["status"], condition["reason"]) == ("False", "PrePullFailed")
        assert "manifest unknown" in condition["message"]
    assert world.condition("Available")["status"] == "True"
    assert world.events.count("Warning PrePullFailed") == 2, "of Ready and of Progressing, once each"
    assert "imagePullSecrets" in world.explain()
    world.edit(NO_IMAGE)
    world.settle()
    assert world.is_ready()
    assert jobs(world) == pods_of_jobs(world) == []
    assert {name: world.epoch_of(name) for name in world.statefulsets()} == before


def test_a_group_that_fails_while_the_image_is_not_to_be_had_starts_again_as_it_was():
    world = settled(aggregated=2)
    hold(world, FAILING)
    world.edit(NEW_IMAGE)
    ticked(world)
    world.crash("demo-a-0-0")
    ticked(world)
    assert moved(world) == set()
    assert world.epoch_of("demo-a-0") == 2
    assert world.is_truly_up("demo-a-0")


def test_one_node_that_cannot_pull_keeps_its_own_group_only():
    world = settled(aggregated=3)
    bad = node_of_group(world, "demo-a-2")
    hold(world, FAILING, [bad])
    world.edit(NEW_IMAGE)
    ticked(world, 30)
    assert moved(world) == {"demo-a-0", "demo-a-1"}
    assert world.condition("Progressing")["reason"] == "PrePullFailed"
    assert [node_of(job) for job in jobs(world)] == [bad]
    hold(world, None, [bad])
    rolled(world)


def test_a_pull_that_takes_too_long_is_told_and_not_waited_for():
    world = settled(aggregated=2, rollout={"progressDeadline": "1m"})
    hold(world, PULLING)
    world.edit(NEW_IMAGE)
    world.until(lambda: jobs(world))
    since, said = world.clock, set()
    while not draining(world):
        world.tick()
        said.add(world.condition("Progressing")["reason"])
    assert LIMIT_S - 60 < (world.clock - since).total_seconds() < LIMIT_S + 60
    assert said == {"RollingUpdate"}, "a pull does not count against the progress deadline"
    assert world.events.count("Warning PrePullFailed") == 1
    rolled(world)
    assert jobs(world) == []


def test_a_pod_that_cannot_even_be_made_holds_nothing_up_for_ever():
    world = settled(aggregated=2)
    world.controllers.refuse_pod = lambda pod: (
        'pods "x" is forbidden: exceeded quota: three' if "-pull-" in pod["metadata"]["name"] else ""
    )
    world.edit(NEW_IMAGE)
    ticked(world)
    assert moved(world) == set()
    assert "exceeded quota: three" in world.condition("Ready")["message"]
    world.clock += timedelta(seconds=LIMIT_S)
    rolled(world)


QUOTA = 'jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1'


def test_a_job_that_may_not_be_made_holds_groups_up_for_two_minutes():
    world = settled(aggregated=3)
    world.refuses_pulls = QUOTA
    world.edit(NEW_IMAGE)
    world.until(lambda: world.pull_refusal)
    since = world.clock
    world.until(lambda: "exceeded quota" in world.condition("Progressing")["message"], limit=3)
    while not draining(world):
        world.tick()
        assert moved(world) == set()
    assert REFUSED_LIMIT_S <= (world.clock - since).total_seconds() < REFUSED_LIMIT_S + 10
    assert world.condition("Available")["status"] == "True"
    rolled(world)
    assert world.events.count("Warning PrePullFailed") == 3  # of each group that moved without
    tries = [one for one in world.actions if isinstance(one, Create) and one.obj["kind"] == "Job"]
    assert len(tries) >= 2
    assert (world.clock - since).total_seconds() >= REFUSED_RETRY_S * (
        len(tries) / 3 - 1
    )  # not again and again
    assert jobs(world) == []


def test_a_refusal_that_ends_is_a_pull_as_any_other():
    world = settled(aggregated=2)
    hold(world, PULLING)
    world.refuses_pulls = QUOTA
    world.edit(NEW_IMAGE)
    world.until(lambda: world.pull_refusal)
    world.refuses_pulls = ""
    world.until(lambda: jobs(world), limit=70)
    assert world.pull_refusal is None
    ticked(world)
    world.clock += timedelta(seconds=REFUSED_LIMIT_S)
    ticked(world)
    assert (draining(world), moved(world)) == (set(), set())
    assert "exceeded quota" not in world.condition("Ready")["message"]
    hold(world, None)
    rolled(world)


def test_a_refusal_of_long_ago_says_nothing_of_the_next_rollout():
    world = settled(aggregated=2)
    world.refuses_pulls = QUOTA
    world.edit(NEW_IMAGE)
    world.until(lambda: world.pull_refusal)
    world.edit(NO_IMAGE)
    ticked(world, 60)
    world.clock += timedelta(hours=1)
    world.edit(NEW_IMAGE)
    since = world.clock
    while not draining(world):
        world.tick()
    assert (world.clock - since).total_seconds() >= REFUSED_LIMIT_S


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "RunContainerError"])
def test_an_image_that_cannot_be_run_has_been_pulled(reason):
    """That the pod cannot be made of it is for the group to find out: the engines' command is another one."""
    world = settled(aggregated=2)
    hold(world, Wait(reason=reason))
    world.edit(NEW_IMAGE)
    rolled(world)


def test_a_pull_that_kubernetes_ended_is_made_again():
    """The evidence went with its pod: the group must not take that for a yes."""
    world = settled(aggregated=2)
    hold(world, FAILING)
    world.edit(NEW_IMAGE)
    ticked(world)
    first = {job["metadata"]["uid"] for job in jobs(world)}
    world.clock += timedelta(seconds=7200)
    for job in jobs(world):
        ended = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
        world.api.replace(
            job | {"status": {"conditions": [ended]}}, manager="controller", subresource="status"
        )
    for pod in pods_of_jobs(world):
        world.api.delete(("v1", "Pod", NAMESPACE, pod["metadata"]["name"]), grace_s=0)
    ticked(world)
    assert {job["metadata"]["uid"] for job in jobs(world)}.isdisjoint(first)
    assert (draining(world), moved(world)) == (set(), set())


def test_no_more_than_some_pull_at_once_and_all_get_their_turn():
    nodes = {f"n-{index}": {"gpus": 8} for index in range(MAX_AT_ONCE + 2)}
    world = settled(on=nodes, aggregated=MAX_AT_ONCE + 2)
    hold(world, PULLING, nodes)
    world.edit(NEW_IMAGE)
    ticked(world, 5)
    assert len(jobs(world)) == MAX_AT_ONCE
    first = f"demo-a-{MAX_AT_ONCE + 1}"
    assert node_of_group(world, first) in {node_of(job) for job in jobs(world)}
    hold(world, None, nodes)
    made = set()
    while len(made) < len(nodes):
        made |= {node_of(job) for job in jobs(world)}
        world.tick()
    assert draining(world) | moved(world) <= {first}, "all were made before the first group was away"


@pytest.mark.parametrize(
    "rollout", [{"prePull": "Off"}, {"paused": True}, {"partition": 2}], ids=["off", "paused", "partition"]
)
def test_nothing_is_pulled_for_groups_that_do_not_wait_for_it(rollout):
    world = settled(aggregated=2, rollout=rollout)
    world.edit(NEW_IMAGE)
    ticked(world, 40)
    assert not any(isinstance(one, Create) and one.obj["kind"] == "Job" for one in world.actions)
    assert bool(moved(world)) == ("prePull" in rollout)


def test_another_setting_of_the_same_image_pulls_nothing():
    world = settled(aggregated=2)
    world.edit({"engine": {"env": [{"name": "A", "value": "1"}]}})
    world.settle()
    assert {world.epoch_of(name) for name in world.statefulsets()} == {2}
    assert not any(isinstance(one, Create) and one.obj["kind"] == "Job" for one in world.actions)


def test_a_pause_in_the_middle_takes_the_pulls_back():
    world = settled(aggregated=2)
    hold(world, PULLING)
    world.edit(NEW_IMAGE)
    ticked(world)
    assert jobs(world)
    world.edit({"rollout": {"paused": True}})
    world.settle()
    assert jobs(world) == pods_of_jobs(world) == []


def test_a_cordoned_node_is_not_waited_for():
    """Its group is drained for the cordon, and starts elsewhere with what is wanted now."""
    world = settled(aggregated=2)
    hold(world, PULLING)
    node = node_of_group(world, "demo-a-1")
    world.edit(NEW_IMAGE)
    ticked(world)
    world.cordon(node)
    world.until(lambda: "demo-a-1" in moved(world), limit=60)
    assert node not in {node_of(job) for job in jobs(world)}


def test_without_sight_of_nodes_the_nodes_of_the_pods_pull():
    world = settled(aggregated=2)
    world.is_allowed_to_see_nodes = False
    hold(world, PULLING)
    world.edit(NEW_IMAGE)
    ticked(world)
    assert len(jobs(world)) == 2
    hold(world, None)
    rolled(world)


def test_groups_on_one_node_share_a_pull():
    world = settled(aggregated=3, backend="Simulated")
    world.edit(NEW_IMAGE)
    world.until(lambda: jobs(world))
    nodes = {pod["spec"]["nodeName"] for pod in engines(world)}
    assert len(nodes) == 1
    assert len(jobs(world)) == 1
    rolled(world)


def test_a_deleted_service_takes_its_pulls_along():
    world = settled(aggregated=2)
    hold(world, PULLING)
    world.edit(NEW_IMAGE)
    ticked(world)
    world.api.delete(world.service_key)
    for _ in range(5):
        world.controllers.step()
        world.kubelets.step()
    assert jobs(world) == pods_of_jobs(world) == []
