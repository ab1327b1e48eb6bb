"""One row per thing that Kubernetes can show: what is told of it. Statuses are as real kubelets write them."""

from datetime import UTC, datetime

import pytest

from hortator.operator.observed import WarningEvent
from hortator.operator.observed.pods import pod_facts
from hortator.operator.status import evidence
from hortator.operator.status.reasons import Reason

NOW = datetime(2026, 11, 26, 10, 0, tzinfo=UTC)
STARTED = "2026-11-26T09:59:00Z"


def waiting(reason, message=""):
    return {
        "containerStatuses": [
            {"name": "engine", "state": {"waiting": {"reason": reason, "message": message}}}
        ]
    }


def crashed(exit_code, *, reason="Error", message="", restarts=3):
    ended = {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": STARTED}
    status = {
        "name": "engine",
        "restartCount": restarts,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed"}},
        "lastState": {"terminated": ended},
    }
    return {"containerStatuses": [status]}


def ended(exit_code, *, reason="Error", message="", name="engine"):
    state = {
        "terminated": {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": STARTED}
    }
    return {"containerStatuses": [{"name": name, "restartCount": 0, "state": state}]}


def unplaced(message):
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"conditions": [condition], "phase": "Pending"}


def init_waiting(reason, message):
    return {
        "initContainerStatuses": [
            {"name": "init", "state": {"waiting": {"reason": reason, "message": message}}}
        ]
    }


def event(reason, message):
    return WarningEvent(reason=reason, message=message, count=1, last_at=NOW)


def a_pod(status, *, node="n-0", events=()):
    pod = {
        "metadata": {"name": "demo-a-0-1", "namespace": "default", "uid": "u", "labels": {}},
        "spec": {"nodeName": node} if node else {},
        "status": status,
    }
    return pod_facts(pod, ordinal=1, owner_uid="", events=events)


REFUSED = 'create Pod demo-a-0-0 in StatefulSet demo-a-0 failed error: pods "demo-a-0-0" is forbidden:'
NO_NODES = "0/5 nodes are available: "
ROWS = [
    # what the pod shows, its node, the reason, words that must be in the message
    ("image", waiting("ImagePullBackOff", 'Back-off pulling image "r/x:1"'), Reason.IMAGE_PULL_BACK_OFF, "r/x:1"),
    ("pull", waiting("ErrImagePull", "manifest unknown"), Reason.ERR_IMAGE_PULL, "manifest unknown"),
    ("never", waiting("ErrImageNeverPull", "image not present"), Reason.ERR_IMAGE_PULL, "not present"),
    ("name", waiting("InvalidImageName", "couldn't parse image"), Reason.INVALID_IMAGE_NAME, "demo-a-0-1"),
    ("init", init_waiting("ErrImagePull", "denied"), Reason.ERR_IMAGE_PULL, "container init"),
    ("secret", waiting("CreateContainerConfigError", 'secret "hf-token" not found'), Reason.SECRET_NOT_FOUND, "Secret hf-token does not exist"),
    ("key", waiting("CreateContainerConfigError", "couldn't find key HF_TOKEN in Secret default/hf"), Reason.SECRET_NOT_FOUND, "Secret hf has no key HF_TOKEN"),
    ("config", waiting("CreateContainerConfigError", 'configmap "c" not found'), Reason.CONTAINER_CONFIG_ERROR, 'configmap "c" not found'),
    ("create", waiting("CreateContainerError", "no command specified"), Reason.CONTAINER_CONFIG_ERROR, "no command"),
    ("run", waiting("RunContainerError", 'exec: "pythn": not found'), Reason.CONTAINER_CONFIG_ERROR, "pythn"),
    ("crash", crashed(1, message="ValueError: no such model"), Reason.CRASH_LOOP_BACK_OFF, "exit code 1: ValueError: no such model"),
    ("oom loop", crashed(137, reason="OOMKilled"), Reason.OOM_KILLED, "ran out of memory 3 times"),
    ("bootstrap loop", crashed(3, message="epoch 2: 1 of 2 members joined within 300 s (missing: 1)"), Reason.RANK_BOOTSTRAP_TIMEOUT, "1 of 2 members joined"),
    ("oom", ended(137, reason="OOMKilled"), Reason.OOM_KILLED, "ran out of memory"),
    ("ended", ended(2), Reason.CONTAINER_FAILED, "exit code 2"),
    ("bootstrap", ended(3, message="did not reach the leader at demo-a-0-0:7072 within 300 s"), Reason.RANK_BOOTSTRAP_TIMEOUT, "did not reach"),
    ("creating", waiting("ContainerCreating"), Reason.PODS_CREATING, "is being made"),
    ("nothing", {}, Reason.PODS_CREATING, "is being made"),
]  # fmt: skip
UNPLACED = [
    ("5 Insufficient nvidia.com/gpu.", Reason.INSUFFICIENT_GPU),
    ("2 Insufficient nvidia.com/gpu, 3 node(s) had untolerated taint {x: y}.", Reason.INSUFFICIENT_GPU),
    ("5 Insufficient rdma/hca_shared_devices_a.", Reason.INSUFFICIENT_RDMA),
    ("5 Insufficient memory.", Reason.INSUFFICIENT_RESOURCES),
    ("3 Insufficient cpu, 2 Insufficient nvidia.com/gpu.", Reason.INSUFFICIENT_GPU),
    ("5 node(s) didn't match Pod's node affinity/selector.", Reason.TOPOLOGY_UNSATISFIED),
    ("5 node(s) didn't match pod anti-affinity rules.", Reason.TOPOLOGY_UNSATISFIED),
    ("5 node(s) had untolerated taint {dedicated: training}.", Reason.UNSCHEDULABLE),
    ("pod has unbound immediate PersistentVolumeClaims.", Reason.PVC_NOT_BOUND),
    ('persistentvolumeclaim "demo-cache" not found.', Reason.PVC_NOT_BOUND),
]
EVENTS = [
    (event("FailedMount", 'MountVolume.SetUp failed for volume "identity" : secret "demo-a-0-identity-x" not found'), Reason.SECRET_NOT_FOUND, "demo-a-0-identity-x"),
    (event("FailedMount", 'persistentvolumeclaim "demo-cache" is being deleted'), Reason.PVC_NOT_BOUND, "demo-cache"),
    (event("FailedMount", 'configmap "c" not found'), Reason.CONTAINER_CONFIG_ERROR, 'configmap "c"'),
    (event("FailedAttachVolume", "Multi-Attach error for persistentvolumeclaim"), Reason.PVC_NOT_BOUND, "Multi-Attach"),
    (event("BackOff", "Back-off restarting failed container"), Reason.PODS_CREATING, "is being made"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "reason", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_a_placed_pod_tells(status, reason, words):
    found = evidence.of_pod(a_pod(status))
    assert found.reason is reason
    assert words in found.message
    assert found.pod == "demo-a-0-1"


@pytest.mark.parametrize(("message", "reason"), UNPLACED)
def test_an_unplaced_pod_tells(message, reason):
    found = evidence.of_pod(a_pod(unplaced(NO_NODES + message), node=""))
    assert found.reason is reason
    assert message in found.message


@pytest.mark.parametrize(("told", "reason", "words"), EVENTS, ids=[row[0].message[:30] for row in EVENTS])
def test_events_tell_of_a_pod_that_is_being_made(told, reason, words):
    found = evidence.of_pod(a_pod(waiting("ContainerCreating"), events=[told]))
    assert found.reason is reason
    assert words in found.message


@pytest.mark.parametrize("message", ["Startup probe failed: HTTP probe failed with statuscode: 503"])
def test_a_startup_probe_that_fails_is_a_bootstrap_timeout(message):
    pod = a_pod(crashed(137), events=[event("Unhealthy", message)])
    assert evidence.of_pod(pod).reason is Reason.RANK_BOOTSTRAP_TIMEOUT


def test_a_ready_pod_tells_nothing():
    ready = {"conditions": [{"type": "Ready", "status": "True"}], **crashed(1)}
    assert evidence.of_pod(a_pod(ready)) is None


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (
            f"{REFUSED} exceeded quota: team, requested: requests.nvidia.com/gpu=8, used: 8, limited: 8",
            Reason.QUOTA_EXCEEDED,
            "exceeded quota: team, requested: requests.nvidia.com/gpu=8",
        ),
        (
            f'{REFUSED} violates PodSecurity "restricted:latest"',
            Reason.POD_REFUSED,
            "PodSecurity",
        ),
    ],
)
def test_the_api_server_refuses_a_pod(message, reason, words):
    found = evidence.refusal([event("FailedCreate", message)], since=NOW)
    assert found.reason is reason
    assert words in found.message


def test_an_old_refusal_is_not_told_again():
    """It was before the group was started this time."""
    later = datetime(2026, 11, 26, 11, 0, tzinfo=UTC)
    assert evidence.refusal([event("FailedCreate", "exceeded quota: x")], since=later) is None


def test_of_several_findings_the_one_that_is_to_blame_is_told():
    loading = evidence.Finding(reason=Reason.LOADING_WEIGHTS, message="pod 0 starts")
    missing = evidence.Finding(reason=Reason.SECRET_NOT_FOUND, message="Secret x does not exist")
    assert evidence.worst([loading, missing]) is missing
    assert evidence.worst([]) is None
