"""A member of an EP group fails: its whole group starts again, once, in the next epoch, and nobody else does."""

import pytest

from cluster.kube import STRATEGIC
from cluster.scene import Scene, condition, epochs, group, is_ready, reason


def crash(scene, *pods):
    for pod in pods:
        scene.nodes.do(scene.namespace, pod, "crash", exit_code=137)


def delete(scene, *pods):
    for pod in pods:
        scene.lab.client.delete(scene.pod(pod))


def again(scene: Scene, *, epoch: int = 2, timeout_s: float = 30.0):
    """The service once group 1 is ready in that epoch and nothing moves any more."""
    scene.until(
        lambda service: is_ready(service) and group(service, 1)["epoch"] == epoch, timeout_s=timeout_s
    )
    return scene.at_rest()


def counted(scene: Scene, failure: str) -> float:
    """Restarts after failures of that kind, by the operator's metrics."""
    return scene.operator.metric("hortator_operator_group_restarts_total", reason=failure)


def assert_restarted_once(scene: Scene, service, *, by: str) -> None:
    """Group 1 has restarted exactly once, and group 0 has not been touched."""
    assert scene.epochs_of("llm-a-1") == [1, 2]
    assert scene.epochs_of("llm-a-0") == [1]
    assert [len(uids) for uids in scene.lives_of("llm-a-0").values()] == [1, 1]
    assert not [seen for seen in scene.record.all("Pod") if seen.is_gone and seen.name.startswith("llm-a-0")]
    assert group(service, 0).get("restarts", 0) == 0
    assert group(service, 1)["restarts"] == 1
    assert group(service, 1)["lastFailure"]["reason"] == by


@pytest.mark.parametrize(
    ("kill", "pods", "reason_given"),
    [
        pytest.param(crash, ["llm-a-1-1"], "ContainerFailed", id="a process ends"),
        pytest.param(crash, ["llm-a-1-0", "llm-a-1-1"], "ContainerFailed", id="two processes end at once"),
        pytest.param(delete, ["llm-a-1-0"], "PodDeleted", id="a pod is deleted"),
        pytest.param(delete, ["llm-a-1-1", "llm-a-1-0"], "PodDeleted", id="two pods are deleted at once"),
    ],
)
@pytest.mark.safety
def test_one_failure_is_one_restart_of_the_whole_group(scene, kill, pods, reason_given):
    before = scene.serving()
    assert before["status"]["display"] == {"groups": "2/2", "ranks": "32/32", "updated": "2/2"}
    num_before = counted(scene, reason_given)
    kill(scene, *pods)
    service = again(scene)
    assert_restarted_once(scene, service, by=reason_given)
    assert counted(scene, reason_given) == num_before + 1
    assert group(service, 1)["lastFailure"]["pod"] in pods
    if (
        kill is crash
    ):  # (a deleted pod is replaced in its old epoch until that is fenced: the processes see to it)
        assert [len(uids) for uids in scene.lives_of("llm-a-1").values()] == [1, 1, 1, 1]
    new = {pod["metadata"]["name"] for pod in scene.pods(role="aggregated", group="1", epoch="2")}
    assert new == {"llm-a-1-0", "llm-a-1-1"}


def test_what_is_not_ready_but_runs_is_not_restarted(scene):
    scene.serving()
    scene.nodes.do(scene.namespace, "llm-a-1-1", "unready")
    told = scene.until(lambda service: reason(service) == "NotReady")
    assert "llm-a-1-1" in condition(told)["message"]
    assert told["status"]["display"]["groups"] == "1/2"
    scene.nodes.do(scene.namespace, "llm-a-1-1", "ready")
    service = again(scene, epoch=1)
    assert [one.get("restarts", 0) for one in service["status"]["groups"]] == [0, 0]


@pytest.mark.safety
def test_members_of_two_groups_that_fail_at_once_are_one_restart_each(scene):
    scene.serving()
    crash(scene, "llm-a-0-1", "llm-a-1-0")
    scene.until(lambda service: is_ready(service) and set(epochs(service).values()) == {2})
    service = scene.at_rest()
    assert [one["restarts"] for one in service["status"]["groups"]] == [1, 1]
    assert (scene.epochs_of("llm-a-0"), scene.epochs_of("llm-a-1")) == ([1, 2], [1, 2])


def test_without_restarts_a_failed_group_stays_as_it_is_until_somebody_asks(scene):
    scene.serving(restart={"policy": "None"})
    crash(scene, "llm-a-1-1")
    service = scene.until(lambda service: condition(service, "Stalled").get("status") == "True")
    assert (reason(service), group(service, 1)["phase"]) == ("ContainerFailed", "Stalled")
    assert condition(service, "Available")["status"] == "True"
    scene.at_rest()
    assert scene.epochs_of("llm-a-1") == [1]
    scene.patch({"restart": {"requestedAt": "2026-01-02T03:04:05Z"}})
    assert group(again(scene), 1)["restarts"] == 0


@pytest.mark.timeout(180)
def test_a_lost_node_restarts_its_group_elsewhere_once_it_is_known_to_be_gone(scene):
    scene.serving(engine={"backend": "TensorRTLLM"})  # one pod a node
    node = scene.pod("llm-a-1-1")["spec"]["nodeName"]
    scene.nodes.lose_node(node, how="crash")
    try:
        told = scene.when(
            lambda service: reason(service) == "NodeLost" and group(service, 1)["epoch"] == 2, timeout_s=90
        )
        assert node in condition(told.obj)["message"]
        assert (
            "cannot be shown to have ended"
            in scene.until(lambda service: "cannot be shown" in condition(service).get("message", ""))[
                "status"
            ]["groups"][1]["message"]
        )
        explained = scene.explain()
        assert f"node {node}" in explained
        assert "delete the Node, or taint it" in explained
        assert condition(scene.get(), "Available")["status"] == "True"
        scene.lab.direct.delete({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        service = again(scene)
        assert_restarted_once(scene, service, by="NodeLost")
        assert node not in {member["node"] for member in group(service, 1)["members"]}
    finally:
        scene.nodes.return_node(node)


def test_a_node_that_is_tainted_out_of_service_restarts_its_group_at_once(scene):
    """(One that is only deleted counts once its pods go: the Node may be made anew under them.)"""
    scene.serving(engine={"backend": "TensorRTLLM"})
    name = scene.pod("llm-a-1-0")["spec"]["nodeName"]
    scene.nodes.lose_node(name, how="crash")
    node = scene.lab.direct.get("v1", "Node", name)
    try:
        taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
        scene.lab.direct.patch(node, {"spec": {"taints": [taint]}})
        service = again(scene)
        assert_restarted_once(scene, service, by="NodeLost")
        assert name not in {member["node"] for member in group(service, 1)["members"]}
    finally:
        scene.lab.direct.delete(node)
        scene.nodes.return_node(name)


@pytest.mark.parametrize(
    "cure",
    [
        pytest.param({"restart": {"requestedAt": "2026-01-02T03:04:05Z"}}, id="a requested restart"),
        pytest.param({"engine": {"env": [{"name": "FIXED", "value": "yes"}]}}, id="a changed spec"),
    ],
)
def test_a_crash_loop_ends_stalled_with_its_pods_kept_while_others_serve(scene, cure):
    scene.nodes.script(scene.namespace, "llm-a-1-1", crash_after_s=0.4, exit_code=7, back_off_s=0.5)
    scene.create(restart={"baseDelay": "0s", "maxDelay": "0s", "maxRestarts": 1})
    service = scene.until(lambda service: condition(service, "Stalled").get("status") == "True")
    assert reason(service) == "RestartBudgetExhausted"
    assert "llm-a-1 has used up its 1 restarts" in condition(service)["message"]
    assert "exit code 7" in condition(service)["message"]
    assert condition(service, "Available")["status"] == "True"
    assert group(service, 0)["phase"] == "Ready"
    assert (group(service, 1)["phase"], group(service, 1)["epoch"]) == ("Stalled", 2)
    explained = scene.explain()
    assert "set spec.restart.requestedAt" in explained
    assert "kubectl logs --previous" in explained

    kept = {pod["metadata"]["uid"] for pod in scene.pods(role="aggregated")}
    num_restarts = scene.pod("llm-a-1-1")["status"]["containerStatuses"][0]["restartCount"]
    scene.lab.client.wait(  # it goes on crashing, as Kubernetes restarts it; the group stays as it is
        "v1",
        "Pod",
        "llm-a-1-1",
        scene.namespace,
        lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] > num_restarts,
    )
    assert {pod["metadata"]["uid"] for pod in scene.pods(role="aggregated")} == kept
    assert scene.epochs_of("llm-a-1") == [1, 2]

    scene.nodes.script(scene.namespace, "llm-a-1-1")
    scene.patch(cure)
    service = scene.until(is_ready)
    assert condition(service, "Stalled")["status"] == "False"
    assert group(service, 1).get("restarts", 0) == 0
    assert group(service, 1)["epoch"] == 3


def test_a_preempted_member_is_no_failure_of_its_group_however_fast_it_is_gone(scene):
    """The condition is written as kube-scheduler does since 1.26. A single failure would be one too many."""
    scene.serving(restart={"maxRestarts": 0})
    client, pod = scene.lab.client, scene.pod("llm-a-1-1")
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    status = {"conditions": [target]}
    client.patch(pod, {"status": status}, subresource="status", content_type=STRATEGIC)
    client.delete(pod, grace_s=0)
    told = group(again(scene), 1)
    assert (told.get("restarts", 0), told["lastFailure"]["reason"]) == (0, "PodPreempted")
    assert counted(scene, "PodPreempted") == 1
