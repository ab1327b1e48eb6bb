"""The sample of the README in real processes: tokens, and boot ids that tell who joined which epoch.

The tests share one service and go through its life in order.
"""

import contextlib
import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.fakenodes.client import running_fake_nodes
from cluster.kube import Obj
from cluster.processes import wait_until
from cluster.recorder import recording
from cluster.scene import Scene, condition, group, is_ready
from cluster.served import Served

pytestmark = pytest.mark.timeout(240)

SAMPLE = Path(__file__).resolve().parents[2] / "manifests" / "samples" / "llmservice-simulated.yaml"
NAME = "simulated"


@pytest.fixture(scope="module")
def processes(lab, cluster_operator) -> Iterator[Scene]:
    """A scene whose pods are processes."""
    with (
        lab.namespace(f"processes-{uuid.uuid4().hex[:8]}") as namespace,
        running_fake_nodes(lab, 4, mode="process") as nodes,
        recording(lab.client, namespace) as record,
    ):
        yield Scene(lab=lab, namespace=namespace, nodes=nodes, operator=cluster_operator, record=record)


def boot_ids(service: Obj, index: int) -> set[str]:
    return {one["bootId"] for one in group(service, index)["members"] if one.get("bootId")}


def again(scene: Scene, index: int, *, epoch: int) -> Obj:
    """The service once that group is ready in that epoch and nothing moves any more."""
    scene.until(
        lambda service: (
            is_ready(service) and group(service, index)["epoch"] == epoch and boot_ids(service, index)
        ),
        name=NAME,
        timeout_s=90,
    )
    return scene.at_rest(NAME)


@contextlib.contextmanager
def stopped(scene: Scene) -> Iterator[None]:
    """The operator does nothing within the block, which must be shorter than its term as leader."""
    scene.operator.process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        scene.operator.process.send(signal.SIGCONT)


def joined(scene: Scene) -> dict[tuple[str, int, int], list[str]]:
    """(group, ordinal, epoch) -> the boots that joined, as each process has told itself, of every pod there was."""
    found: dict[tuple[str, int, int], list[str]] = {}
    for file in (scene.nodes.folder / "pods").glob(f"{scene.namespace}_{NAME}-a-*/*.log"):
        name, _, ordinal = file.parent.name.split("_")[1].rpartition("-")
        for line in file.read_text(errors="replace").splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            is_leader = ordinal == "0"
            if event.get("event") == ("worker ready" if is_leader else "joined the group"):
                epoch = int(event["boot_id"].partition("-")[0])
                found.setdefault((name, int(ordinal), epoch), []).append(event["boot_id"])
    return found


def test_the_sample_of_the_readme_streams_tokens(processes):
    scene = processes
    scene.kubectl("apply", "-f", str(SAMPLE))
    service = scene.until(is_ready, name=NAME, timeout_s=90)
    head, row = (line.split() for line in scene.kubectl("get", "llms").splitlines())
    told = dict(zip(head, row, strict=True))
    assert (told["READY"], told["GROUPS"], told["RANKS"]) == ("True", "2/2", "32/32")
    assert service["status"]["scheduler"]["registeredRanks"] == 32

    served = Served(
        lab=scene.lab, nodes=scene.nodes, operator=scene.operator, namespace=scene.namespace, name=NAME
    )
    answer = served.hortator("generate", "--endpoint", served.front(), "Shall I compare thee", "--json")
    events = [json.loads(line) for line in answer.splitlines()]
    deltas = [event["delta"] for event in events if "delta" in event]
    assert len(deltas) > 1
    assert sum(len(delta["token_ids"]) for delta in deltas) == events[-1]["completion"]["num_output_tokens"]


@pytest.mark.safety
def test_a_rank_joins_an_epoch_once_whatever_restarts_its_group(processes):
    scene = processes
    before = scene.get(NAME)
    (kept,), (lost,) = boot_ids(before, 0), boot_ids(before, 1)
    assert (kept[:2], lost[:2]) == ("1-", "1-")

    with stopped(scene):  # so that the processes alone see to it that nobody joins once more
        scene.nodes.signal(scene.namespace, f"{NAME}-a-1-1", "SIGKILL")
        for pod in (f"{NAME}-a-1-0", f"{NAME}-a-1-1"):
            wait_until(
                lambda pod=pod: "has run epoch 1 already" in scene.nodes.log(scene.namespace, pod),
                what=f"{pod} is started again in its epoch, and ends",
                timeout_s=8,
            )
    after = again(scene, 1, epoch=2)
    (new,) = boot_ids(after, 1)
    assert new.startswith("2-")
    assert boot_ids(after, 0) == {kept}
    assert group(after, 1)["lastFailure"]["pod"].startswith(f"{NAME}-a-1-")
    assert group(after, 1)["restarts"] == 1
    assert scene.epochs_of(f"{NAME}-a-1") == [1, 2]
    assert scene.epochs_of(f"{NAME}-a-0") == [1]

    scene.lab.client.delete(scene.pod(f"{NAME}-a-0-1"))
    again(scene, 0, epoch=2)
    scene.lab.client.delete(scene.pod(f"{NAME}-a-1-0"))  # where the engine runs
    again(scene, 1, epoch=3)
    assert scene.epochs_of(f"{NAME}-a-0") == [1, 2]
    assert scene.epochs_of(f"{NAME}-a-1") == [1, 2, 3]

    boots = joined(scene)
    epochs = {(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)}
    assert boots.keys() == {(f"{NAME}-a-{index}", n, epoch) for index, epoch in epochs for n in (0, 1)}
    assert [key for key, found in boots.items() if len(found) != 1] == []
    assert boots[f"{NAME}-a-0", 0, 1] == [kept]
    assert (boots[f"{NAME}-a-1", 0, 1], boots[f"{NAME}-a-1", 0, 2]) == ([lost], [new])

    told: dict[tuple[str, int], set[str]] = {}
    for seen in scene.record.all("LLMService"):
        for one in seen.obj.get("status", {}).get("groups", []):
            for boot_id in boot_ids(seen.obj, one["index"]):
                told.setdefault((one["name"], one["epoch"]), set()).add(boot_id)
    assert told == {(name, epoch): set(found) for (name, n, epoch), found in boots.items() if n == 0}
    for seen in scene.record.all("LLMService"):  # Ready is never told of a group that is not whole
        if condition(seen.obj).get("status") == "True":
            assert all(member["ready"] for one in seen.obj["status"]["groups"] for member in one["members"])
