"""Groups of real processes under the operator: who they are is told by boot ids, and each joins its epoch once."""

import pytest

from cluster.kube import Obj
from cluster.recorder import recording
from cluster.scene import Scene, condition, group, is_ready

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def processes(lab, fake_nodes, cluster_operator, namespace):
    """A scene whose pods are processes."""
    nodes = fake_nodes(4, mode="process")
    with recording(lab.client, namespace) as record:
        yield Scene(lab=lab, namespace=namespace, nodes=nodes, operator=cluster_operator, record=record)


def boot_ids(service: Obj, index: int) -> set[str]:
    return {one["bootId"] for one in group(service, index)["members"] if one.get("bootId")}


def test_a_killed_process_restarts_its_group_and_a_rank_joins_an_epoch_once(processes):
    scene = processes
    scene.create()
    before = scene.until(is_ready, timeout_s=90)
    assert before["status"]["display"] == {"groups": "2/2", "ranks": "32/32", "updated": "2/2"}
    assert before["status"]["scheduler"]["registeredRanks"] == 32
    (kept,), (lost,) = boot_ids(before, 0), boot_ids(before, 1)
    assert kept.startswith("1-")
    assert lost.startswith("1-")

    scene.nodes.signal(scene.namespace, "llm-a-1-1", "SIGKILL")
    after = scene.until(
        lambda service: is_ready(service) and group(service, 1)["epoch"] == 2 and boot_ids(service, 1),
        timeout_s=90,
    )
    (new,) = boot_ids(after, 1)
    assert new.startswith("2-")
    assert boot_ids(after, 0) == {kept}
    assert group(after, 1)["lastFailure"]["pod"].startswith("llm-a-1-")
    assert group(after, 1)["restarts"] == 1
    scene.at_rest()
    assert scene.epochs_of("llm-a-1") == [1, 2]
    assert scene.epochs_of("llm-a-0") == [1]

    joined: dict[tuple[str, int], set[str]] = {}
    for seen in scene.record.all("LLMService"):
        for one in seen.obj.get("status", {}).get("groups", []):
            for boot_id in boot_ids(seen.obj, one["index"]):
                joined.setdefault((one["name"], one["epoch"]), set()).add(boot_id)
    assert joined == {("llm-a-0", 1): {kept}, ("llm-a-1", 1): {lost}, ("llm-a-1", 2): {new}}
    for seen in scene.record.all("LLMService"):  # Ready is never told of a group that is not whole
        if condition(seen.obj).get("status") == "True":
            assert all(member["ready"] for one in seen.obj["status"]["groups"] for member in one["members"])
