"""Exact sequences of the operator's writes, as tables: what it does, in which order, and nothing else.

A row is one write, by its verb, its object, and for a StatefulSet the replicas and epoch that it says.
"""

import pytest

from doubles.kubernetes.kubelets import Finish, Run, Wait
from doubles.service_world import World, a_manifest
from hortator.operator import names
from hortator.operator.plan import Apply, Create, Delete, PatchLabels, Scale, StartDrain

NODES = {f"n-{index}": {"gpus": 8} for index in range(6)}


def told(action):
    match action:
        case Apply(obj=obj) | Create(obj=obj):
            verb, kind, name = type(action).__name__, obj["kind"], obj["metadata"]["name"]
            if kind == "StatefulSet":
                labels = obj["spec"]["template"]["metadata"]["labels"]
                notes = [key.removeprefix(names.PREFIX) for key in obj["metadata"].get("annotations", {})]
                return f"{name} x{obj['spec']['replicas']} epoch {labels[names.LABEL_EPOCH]} {sorted(notes)}"
            if kind == "PodDisruptionBudget":
                return f"{verb} {kind} {name} {obj['spec']['maxUnavailable']}"
            return f"{verb} {kind} {name}"
        case Delete(ref=ref, grace_s=grace_s):
            return f"Delete {ref.kind} {ref.name} grace {grace_s}"
        case PatchLabels(ref=ref):
            return f"Label {ref.name}"
        case Scale(replicas=replicas):
            return f"Scale {replicas}"
        case StartDrain(worker_id=worker_id):
            return f"StartDrain {worker_id}"


def is_about_a_record(step):
    return " ControllerRevision demo-accepted-" in step


def steps(world, *, with_records=False):
    """What was done since the last call, without immediate repetitions, and without the records of the spec."""
    found = [told(action) for action in world.actions]
    found = [step for step in found if with_records or not is_about_a_record(step)]
    world.actions.clear()
    return [step for index, step in enumerate(found) if index == 0 or found[index - 1] != step]


def settled(**arguments):
    world = World(a_manifest(**({"aggregated": 2} | arguments)), nodes=NODES)
    world.settle()
    world.actions.clear()
    return world


def test_a_new_service():
    world = World(a_manifest(aggregated=1), nodes=NODES)
    world.settle()
    kept = [one["metadata"]["name"] for one in world.api.find("ControllerRevision")]
    (record,) = [name for name in kept if name.startswith("demo-accepted-1-")]
    (revision,) = [name for name in kept if name != record]
    assert steps(world, with_records=True) == [
        f"Create ControllerRevision {record}",  # before anything is done for the spec
        f"Create ControllerRevision {revision}",
        "Apply ServiceAccount demo-hortator",
        "Apply Service demo-scheduler",
        "Apply Deployment demo-scheduler",
        "Apply Service demo-gateway",
        "Apply Deployment demo-gateway",
        "Apply Service demo-a-0",
        "Apply PodDisruptionBudget demo-a-0 0",
        f"Create Secret {world.api.find('Secret')[0]['metadata']['name']}",
        "demo-a-0 x0 epoch 1 []",  # all that its pods need is there before the first of them
        "demo-a-0 x2 epoch 1 ['admitted-at']",
        "Label demo-a-0-0",  # stands for the role set
        "demo-a-0 x2 epoch 1 ['admitted-at', 'members']",
    ]


def test_groups_with_devices_start_one_after_the_other():
    world = World(a_manifest(backend="TensorRTLLM", gpus_per_node=8), nodes=NODES)
    world.until(world.is_ready)
    admitted = [step for step in steps(world) if step.startswith("demo-a-") and " x2 " in step]
    assert admitted[:2] == ["demo-a-0 x2 epoch 1 ['admitted-at']", "demo-a-1 x2 epoch 1 ['admitted-at']"]


def test_a_member_that_crashes_restarts_its_group_once():
    world = settled()
    world.crash("demo-a-1-0")
    world.settle()
    record = "'last-failure', 'members', 'node-failures', 'restarts'"
    assert steps(world) == [
        "demo-a-1 x0 epoch 2 ['last-failure', 'node-failures', 'restarts']",  # fence and record in one write
        "demo-a-1 x2 epoch 2 ['admitted-at', 'last-failure', 'node-failures', 'restarts']",
        f"demo-a-1 x2 epoch 2 ['admitted-at', {record}]",
    ]


def test_pods_of_a_failed_group_are_given_a_short_grace():
    """Nothing is in flight that could be finished, so nobody waits for the drain timeout."""
    world = settled()
    world.crash("demo-a-1-0")
    world.look()
    world.controllers.step()  # the StatefulSet's controller deletes them, with the grace of their template
    world.actions.clear()
    world.look()
    assert steps(world) == ["Delete Pod demo-a-1-0 grace 5", "Delete Pod demo-a-1-1 grace 5"]
    world.look()
    assert steps(world) == []


def test_scaling_down_drains_the_highest_group_before_it_goes():
    world = settled(aggregated=1, replicas=2)
    world.is_traffic_on = True
    world.tick()
    world.edit({"replicas": 1})
    world.settle()
    assert steps(world) == [
        "demo-a-1 x2 epoch 1 ['admitted-at', 'drain-reason', 'drain-started-at', 'members']",
        "StartDrain aggregated-1",
        "Delete StatefulSet demo-a-1 grace None",
        "Delete PodDisruptionBudget demo-a-1 grace None",  # only when no pod is left
        "Delete Service demo-a-1 grace None",
    ]


def test_a_new_image_rolls_one_group_after_the_other():
    world = settled()
    world.edit({"engine": {"image": "a/worker:2"}})
    world.settle()
    found = steps(world)
    assert found[0].startswith("Create ControllerRevision")
    job = found[1].removeprefix("Create Job ")
    assert job.startswith("demo-pull-")  # both groups stand on one node
    one = [
        "demo-a-{} x2 epoch 1 ['admitted-at', 'drain-reason', 'drain-started-at', 'members']",
        "StartDrain aggregated-{}",
        "demo-a-{} x0 epoch 2 ['moved-at']",  # already of the new revision: its turn is taken
        "demo-a-{} x2 epoch 2 ['admitted-at', 'moved-at']",
        "demo-a-{} x2 epoch 2 ['admitted-at', 'members']",
    ]
    first = [step.format(1) for step in one]  # the highest index first
    second = [step.format(0) for step in one]
    second.insert(4, "Label demo-a-0-0")
    second.insert(2, f"Delete Job {job} grace None")  # when the last group that waited for it drains
    assert found[2:] == first + second


def test_suspending_drains_all_groups_at_once_and_starts_none():
    world = settled(aggregated=2)
    world.edit({"suspend": True})
    world.settle()
    assert steps(world) == [
        "demo-a-0 x2 epoch 1 ['admitted-at', 'drain-reason', 'drain-started-at', 'members']",
        "demo-a-1 x2 epoch 1 ['admitted-at', 'drain-reason', 'drain-started-at', 'members']",
        "StartDrain aggregated-0",
        "StartDrain aggregated-1",
        "demo-a-0 x0 epoch 2 []",
        "demo-a-1 x0 epoch 2 []",
    ]
    assert world.condition("Suspended")["status"] == "True"


def test_a_cordoned_node_opens_the_budget_of_a_drained_group_only():
    world = settled(backend="TensorRTLLM", gpus_per_node=8)
    world.cordon(world._pod("demo-a-0-0")["spec"]["nodeName"])
    world.settle()
    assert steps(world) == [
        "demo-a-0 x2 epoch 1 ['admitted-at', 'drain-reason', 'drain-started-at', 'members']",
        "StartDrain aggregated-0",
        "Apply PodDisruptionBudget demo-a-0 2",
        "demo-a-0 x0 epoch 2 ['vacated-at']",
        "Apply PodDisruptionBudget demo-a-0 0",
        "demo-a-0 x2 epoch 2 ['admitted-at']",
        "Label demo-a-0-0",
        "demo-a-0 x2 epoch 2 ['admitted-at', 'members']",
    ]


def test_with_no_group_to_spare_a_cordon_drains_nothing():
    world = settled(backend="TensorRTLLM", gpus_per_node=8, disruption={"maxUnavailableGroups": 0})
    world.cordon(world._pod("demo-a-0-0")["spec"]["nodeName"])
    world.settle()
    assert steps(world) == []


def test_what_is_shared_is_made_again_when_somebody_deletes_it():
    world = settled(aggregated=1)
    world.api.delete(("v1", "Service", "default", "demo-gateway"))
    world.api.delete(("policy/v1", "PodDisruptionBudget", "default", "demo-a-0"))
    world.settle()
    assert steps(world) == ["Apply Service demo-gateway", "Apply PodDisruptionBudget demo-a-0 0"]


def test_a_fence_is_put_up_moved_and_taken_down_and_no_pod_takes_note():
    world = settled(aggregated=1)
    of_somebody = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "demo-deny-all", "namespace": "default"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    world.api.create(of_somebody)
    world.edit({"security": {"networkPolicy": {}}})
    world.settle()
    policies = ["Apply NetworkPolicy demo-gateway", "Apply NetworkPolicy demo-scheduler"]
    assert steps(world) == [*policies, "Apply NetworkPolicy demo-engine"]
    world.edit({"security": {"networkPolicy": {"clientNamespaces": ["apps"]}}})
    world.settle()
    assert steps(world) == ["Apply NetworkPolicy demo-gateway"]
    world.edit({"security": {"networkPolicy": None}})
    world.settle()
    assert steps(world) == [
        "Delete NetworkPolicy demo-engine grace None",
        "Delete NetworkPolicy demo-gateway grace None",
        "Delete NetworkPolicy demo-scheduler grace None",
    ]
    assert [one["metadata"]["name"] for one in world.api.find("NetworkPolicy")] == ["demo-deny-all"]


def test_groups_start_when_the_model_is_there():
    cache = {"uri": "hf://deepseek-ai/DeepSeek-V3", "cache": {"create": {"size": "1Ti"}}}
    world = World(a_manifest(backend="TensorRTLLM", gpus_per_node=8, model=cache), nodes=NODES)
    world.acts[names.COMPONENT_CACHE] = Run()
    for _ in range(6):
        world.tick()
    assert world.condition("Ready")["reason"] == "ModelDownloading"
    assert world.condition("ModelReady")["status"] == "False"
    assert not [step for step in steps(world) if " x2 " in step]
    del world.acts[names.COMPONENT_CACHE]
    world.settle()
    assert world.is_ready()


def test_a_download_that_fails_for_good_is_told():
    cache = {"uri": "hf://deepseek-ai/DeepSeek-V3", "cache": {"create": {"size": "1Ti"}}}
    world = World(a_manifest(backend="TensorRTLLM", gpus_per_node=8, model=cache), nodes=NODES)
    world.acts[names.COMPONENT_CACHE] = Finish(exit_code=1)
    world.until(lambda: world.condition("Ready").get("reason") == "ModelDownloadFailed")
    assert "demo-prefetch" in world.condition("Ready")["message"]


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError"])
def test_a_member_that_never_started_restarts_nothing(reason):
    """Restarting the others would not pull its image any sooner."""

    world = World(a_manifest(aggregated=1), nodes=NODES)
    world.acts["demo-a-0-1"] = Wait(reason=reason)
    world.until(lambda: world.condition("Ready").get("reason") in {reason, "ContainerConfigError"})
    world.crash("demo-a-0-0")
    for _ in range(20):
        world.tick()
    assert world.epoch_of("demo-a-0") == 1
    del world.acts["demo-a-0-1"]
    world.settle()
    assert world.is_ready()
    assert world.epoch_of("demo-a-0") == 2  # one of them had been started twice in the first epoch
