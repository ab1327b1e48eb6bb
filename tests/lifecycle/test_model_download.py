"""Groups wait for the download into the model cache: what keeps its pod from running is told as of any pod."""

import pytest

from doubles.kubernetes.api import key_of
from doubles.kubernetes.kubelets import Finish, Run, Wait
from doubles.service_world import NAMESPACE, World, a_manifest
from hortator.operator import names
from hortator.operator.status.reasons import Reason, remedy

NODES = {f"n-{index}": {"gpus": 8} for index in range(4)}
MODEL = {"uri": "hf://deepseek-ai/DeepSeek-V3", "cache": {"create": {"size": "1Ti"}}}


@pytest.fixture
def world():
    return World(a_manifest(aggregated=1, model=MODEL), nodes=NODES)


def the_pod(world):
    return next(iter(world.api.find("Pod", **{names.LABEL_COMPONENT: names.COMPONENT_CACHE})))


def waits(world, act):
    world.acts[names.COMPONENT_CACHE] = act


def missing_secret(world):
    waits(world, Wait(reason="CreateContainerConfigError", message='secret "hf-token" not found'))


def wrong_image(world):
    waits(world, Wait(reason="ImagePullBackOff", message='Back-off pulling image "r/x:1"'))


def image_that_is_none(world):
    waits(world, Wait(reason="InvalidImageName", message="couldn't parse image reference"))


def crash_loop(world, *, exit_code=3, reason="Error"):
    waits(world, Run())
    for _ in range(4):
        world.tick()
    world.kubelets.end(NAMESPACE, the_pod(world)["metadata"]["name"], exit_code=exit_code, reason=reason)
    waits(world, Wait(reason="CrashLoopBackOff", message="back-off 40s restarting failed container"))


def out_of_memory(world):
    crash_loop(world, exit_code=137, reason="OOMKilled")


def unbound_claim(world):
    world.controllers.unbound_claims.add("demo-cache")


def no_node(world):
    for node in NODES:
        world.cordon(node)


def quota(world):
    world.controllers.refuse_pod = lambda pod: (
        'pods "x" is forbidden: exceeded quota: three, requested: pods=1'
        if pod["metadata"]["name"].startswith("demo-prefetch")
        else ""
    )


def evicted(world):
    waits(world, Run())
    for _ in range(4):
        world.tick()
    pod = the_pod(world)
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    world.api.replace(pod | {"status": status}, manager="kubelet", subresource="status")
    world.controllers.jobs = lambda: None  # a Job's controller waits before it makes a second pod


def undo(world):
    world.acts.clear()
    world.controllers.unbound_claims.clear()
    world.controllers.refuse_pod = lambda _pod: ""
    vars(world.controllers).pop("jobs", None)
    for node in NODES:
        world.cordon(node, is_cordoned=False)


ROWS = [
    (missing_secret, Reason.SECRET_NOT_FOUND, "Secret hf-token does not exist"),
    (wrong_image, Reason.IMAGE_PULL_BACK_OFF, "r/x:1"),
    (image_that_is_none, Reason.INVALID_IMAGE_NAME, "couldn't parse"),
    (crash_loop, Reason.CRASH_LOOP_BACK_OFF, "ended 1 times, the last time with exit code 3"),
    (out_of_memory, Reason.OOM_KILLED, "ran out of memory"),
    (unbound_claim, Reason.PVC_NOT_BOUND, "unbound immediate PersistentVolumeClaims"),
    (no_node, Reason.UNSCHEDULABLE, "4 node(s) were unschedulable"),
    (quota, Reason.QUOTA_EXCEEDED, "exceeded quota: three"),
    (evicted, Reason.POD_EVICTED, "low on resource: memory"),
]


@pytest.mark.parametrize(("act", "reason", "words"), ROWS, ids=[row[0].__name__ for row in ROWS])
def test_what_keeps_the_download_from_running_is_told_and_advised(world, act, reason, words):
    act(world)
    for _ in range(6):
        world.tick()
    for kind in ("Ready", "ModelReady", "WorkersReady"):
        condition = world.condition(kind)
        assert (condition["status"], condition["reason"]) == ("False", reason), kind
        assert words in condition["message"]
        assert "Job demo-prefetch" in condition["message"]
    assert remedy(reason) in world.explain()
    assert world.api.find("Pod", **{names.LABEL_COMPONENT: "engine"}) == []
    undo(world)
    world.settle()
    assert world.is_ready()


def test_a_download_that_runs_is_downloading_and_one_that_runs_again_says_why(world):
    waits(world, Run())
    world.until(lambda: "running" in str(the_pod(world)) if world.api.find("Job") else False)
    world.tick()
    assert world.condition("Ready")["reason"] == "ModelDownloading"
    assert world.condition("Ready")["message"] == "Job demo-prefetch fills the model cache"
    name = the_pod(world)["metadata"]["name"]
    world.kubelets.end(NAMESPACE, name, exit_code=7)
    world.tick()
    assert world.condition("Ready")["reason"] == "ModelDownloading"
    assert f"pod {name} runs again, restarts: 1" in world.condition("Ready")["message"]
    assert "exit code 7" in world.condition("Ready")["message"]


def test_a_pod_that_has_done_its_work_is_no_failure(world):
    """Its container has ended before the Job is marked as complete."""
    waits(world, Run())
    for _ in range(4):
        world.tick()
    waits(world, Finish())
    world.kubelets.step()
    assert the_pod(world)["status"]["phase"] == "Succeeded"
    world.look()
    assert world.condition("Ready")["reason"] == "ModelDownloading"


def test_pods_of_an_earlier_job_tell_nothing_of_the_present_one(world):
    """A Job of another revision is deleted; its pod ends a while later."""
    wrong_image(world)
    for _ in range(4):
        world.tick()
    old = the_pod(world)
    job = world.api.find("Job")[0]
    world.api.delete(key_of(job))
    world.look()
    world.look()
    assert world.api.find("Job")[0]["metadata"]["uid"] != job["metadata"]["uid"]
    assert the_pod(world)["metadata"]["uid"] == old["metadata"]["uid"]
    assert world.condition("Ready")["reason"] == "ModelDownloading"
