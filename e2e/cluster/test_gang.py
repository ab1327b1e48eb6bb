"""Whole groups on eight nodes of a real cluster.

Two services that want five nodes each, nodes that are drained side by side, and a service scaled in a hurry.
"""

import concurrent.futures
import time
import uuid
from collections.abc import Iterator

import pytest

from cluster.controlplane import ControlPlane
from cluster.kube import Obj
from cluster.pods import pod
from cluster.processes import wait_until
from cluster.scene import Scene, condition, epochs, is_ready, reason

GPU = "nvidia.com/gpu"
GPUS: Obj = {"backend": "TensorRTLLM"}
"""One pod a node."""
NUM_WANTED = 5


@pytest.fixture
def elsewhere(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of somebody else."""
    with control_plane.namespace(f"others-{uuid.uuid4().hex[:8]}") as name:
        yield name


def members(scene: Scene) -> dict[str, int]:
    """Engine pods that have a node, by group."""
    found: dict[str, int] = {}
    for one in scene.pods(role="aggregated"):
        if one["spec"].get("nodeName"):
            group, _, _ = one["metadata"]["name"].rpartition("-")
            found[group] = found.get(group, 0) + 1
    return found


def admitted(scene: Scene) -> set[str]:
    """Groups that have been asked for pods."""
    sets = scene.lab.client.list("apps/v1", "StatefulSet", scene.namespace)
    return {one["metadata"]["name"] for one in sets if one["spec"]["replicas"] > 0}


def most_at_once(scene: Scene) -> int:
    """How many groups were asked for pods at the same time, at most."""
    replicas: dict[str, int] = {}
    most = 0
    for seen in scene.record.all("StatefulSet"):
        replicas[seen.name] = 0 if seen.is_gone else seen.obj["spec"]["replicas"]
        most = max(most, sum(number > 0 for number in replicas.values()))
    return most


def fewest_ready(scene: Scene, groups: list[str], *, size: int, since: float) -> int:
    """How many of these groups had every member ready at the same time, at least."""
    ready: dict[str, bool] = {}
    fewest = len(groups)
    for seen in scene.record.all("Pod"):
        conditions = seen.obj.get("status", {}).get("conditions", [])
        is_going = seen.is_gone or "deletionTimestamp" in seen.obj["metadata"]
        ready[seen.name] = not is_going and any(
            one["type"] == "Ready" and one["status"] == "True" for one in conditions
        )
        if seen.at >= since:
            whole = [all(ready.get(f"{name}-{index}") for index in range(size)) for name in groups]
            fewest = min(fewest, sum(whole))
    return fewest


def stranger(name: str, namespace: str) -> Obj:
    """A pod of somebody else that takes all GPUs of a node."""
    return pod(name, namespace, container={"resources": {"limits": {GPU: "8"}}})


@pytest.mark.timeout(300)
@pytest.mark.safety
def test_two_services_that_want_five_of_eight_nodes_and_others_who_are_faster(scene, elsewhere):
    """Three members of the first group are placed, then somebody else takes all the other nodes."""
    client = scene.lab.client
    quota = client.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "slow", "namespace": scene.namespace},
            "spec": {"hard": {f"requests.{GPU}": "24"}},  # holds up the fourth member
        }
    )
    client.wait("v1", "ResourceQuota", "slow", scene.namespace, lambda one: one.get("status", {}).get("hard"))
    for name in ("one", "two"):
        scene.create(name, groups=1, nodes=NUM_WANTED, engine=GPUS, placement={"gang": {"timeout": "15s"}})
    wait_until(lambda: list(members(scene).values()) == [3], what="three members have a node")
    (first,) = admitted(scene)
    strangers = [client.create(stranger(f"train-{index}", elsewhere)) for index in range(5)]

    def placed_strangers() -> int:
        return sum(bool(one["spec"].get("nodeName")) for one in client.list("v1", "Pod", elsewhere))

    wait_until(lambda: placed_strangers() == 5, what="the other nodes are taken")
    client.delete(quota)
    wait_until(lambda: not admitted(scene) and not members(scene), what="all is given back", timeout_s=60)
    service, _, _ = first.partition("-")
    said = scene.until(lambda one: reason(one) in {"GangTimeout", "InsufficientGPU"}, name=service)
    assert first in condition(said)["message"]

    for one in strangers:
        client.delete(one)
    wait_until(
        lambda: list(members(scene).values()) == [NUM_WANTED], what="one service has all", timeout_s=90
    )
    (winner,) = (name.partition("-")[0] for name in members(scene))
    loser = "two" if winner == "one" else "one"
    scene.until(is_ready, name=winner)
    waiting = scene.until(lambda one: reason(one) == "InsufficientGPU", name=loser)
    assert "needs 5 nodes with 8 nvidia.com/gpu free, has 3 of 8 nodes" in condition(waiting)["message"]
    assert members(scene) == {f"{winner}-a-0": NUM_WANTED}

    client.delete(scene.get(winner))
    scene.until(is_ready, name=loser, timeout_s=60)
    assert most_at_once(scene) == 1


@pytest.mark.timeout(240)
@pytest.mark.safety
def test_two_nodes_of_different_groups_are_drained_at_once_and_one_group_is_away_at_a_time(scene):
    """Three groups on six of eight nodes; `kubectl drain` ends only when it has found every pod gone."""
    scene.serving(groups=3, engine=GPUS)
    scene.at_rest()
    groups = ["llm-a-0", "llm-a-1", "llm-a-2"]
    nodes = [scene.pod(f"{name}-0")["spec"]["nodeName"] for name in groups[:2]]
    options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=110s"]
    options += ["--pod-selector=app.kubernetes.io/component=engine"]
    since = time.monotonic()
    try:
        with concurrent.futures.ThreadPoolExecutor(len(nodes)) as pool:
            drains = [pool.submit(scene.lab.kubectl, "drain", node, *options) for node in nodes]
            for drain in drains:
                drain.result()
        service = scene.until(
            lambda one: is_ready(one) and sorted(epochs(one).values()) == [1, 2, 2], timeout_s=60
        )
        service = scene.at_rest()
    finally:
        for node in nodes:
            scene.lab.kubectl("uncordon", node)
    assert epochs(service) == {"llm-a-0": 2, "llm-a-1": 2, "llm-a-2": 1}
    standing = {member["node"] for one in service["status"]["groups"] for member in one["members"]}
    assert not standing & set(nodes)
    assert fewest_ready(scene, groups, size=2, since=since) == 2


@pytest.mark.timeout(120)
def test_six_scale_patches_within_thirty_seconds_replace_no_pod(scene):
    scene.serving(groups=1, nodes=2)
    first = {one["metadata"]["name"]: one["metadata"]["uid"] for one in scene.pods(role="aggregated")}
    began_at = time.monotonic()
    for replicas in (2, 3, 1, 4, 2, 3):
        scene.kubectl("scale", "llms", "llm", f"--replicas={replicas}")
        time.sleep(4)
    assert time.monotonic() - began_at < 30
    service = scene.until(lambda one: is_ready(one) and one["status"]["replicas"] == 3)
    now = {one["metadata"]["name"]: one["metadata"]["uid"] for one in scene.pods(role="aggregated")}
    assert first.items() <= now.items()
    assert epochs(service)["llm-a-0"] == 1
    assert scene.epochs_of("llm-a-0") == [1]
    gone = [seen.name for seen in scene.record.all("Pod") if seen.is_gone and seen.name in first]
    assert gone == []
