"""Nodes pull an image before the groups on them are drained for it: real Jobs, placed by the real kube-scheduler."""

from cluster.kube import Obj
from cluster.processes import wait_until
from cluster.scene import PREFIX, Scene, condition, container, epochs, is_ready, reason

IMAGE = "registry.example/worker:2"
COMPONENT, PULL = "app.kubernetes.io/component", "pre-pull"


def test_a_group_is_drained_when_its_nodes_have_the_image_and_nothing_is_left(scene):
    """In a namespace that admits no pod but what the Pod Security Standard `restricted` allows."""
    namespace = scene.lab.client.get("v1", "Namespace", scene.namespace)
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    scene.lab.client.patch(namespace, {"metadata": {"labels": restricted}})
    scene.serving()
    nodes = {name: nodes_of(scene, name) for name in ("llm-a-0", "llm-a-1")}
    scene.nodes.script(scene.namespace, "llm-pull-*", start_after_s=1.0, succeed_after_s=0.2)
    scene.patch({"engine": {"image": IMAGE}})
    scene.when(lambda service: reason(service) == "PrePulling")
    scene.until(lambda service: is_ready(service) and epochs(service) == {"llm-a-0": 2, "llm-a-1": 2})

    pulled = pulled_by_node(scene)
    assert set(pulled) == nodes["llm-a-0"] | nodes["llm-a-1"]
    for name, its_nodes in nodes.items():
        first = next(one.obj for one in scene.record.all("StatefulSet", name) if drains(one.obj))
        assert max(version(pulled[node]) for node in its_nodes) < version(first)
    assert {pod["spec"]["containers"][0]["image"] for pod in pulled.values()} == {IMAGE}
    assert_nothing_is_left(scene)


def test_an_image_that_cannot_be_pulled_takes_no_group_and_going_back_leaves_nothing(scene):
    scene.nodes.script(scene.namespace, "llm-pull-*", waiting="ErrImagePull")
    before = scene.serving()
    uids = engines(scene)
    scene.patch({"engine": {"image": IMAGE}})
    service = scene.until(lambda service: reason(service) == "PrePullFailed")
    assert IMAGE in condition(service)["message"]
    assert condition(service, "Available")["status"] == "True"
    assert condition(service, "Progressing")["reason"] == "PrePullFailed"
    assert "rollout undo" in scene.explain()
    scene.record.first("Event", lambda event: event["reason"] == "PrePullFailed")

    scene.patch({"engine": {"image": None}})
    service = scene.until(is_ready)
    assert (epochs(service), engines(scene)) == (epochs(before), uids)
    assert_nothing_is_left(scene)


def nodes_of(scene: Scene, group: str) -> set[str]:
    return {scene.pod(f"{group}-{ordinal}")["spec"]["nodeName"] for ordinal in (0, 1)}


def pulled_by_node(scene: Scene) -> dict[str, Obj]:
    """The pod that pulled on each node, as it was when it had been started and was seen for the first time."""
    found: dict[str, Obj] = {}
    for seen in scene.record.all("Pod"):
        if seen.obj["metadata"]["labels"].get(COMPONENT) == PULL and has_run(seen.obj):
            found.setdefault(seen.obj["spec"]["nodeName"], seen.obj)
    return found


def has_run(pod: Obj) -> bool:
    return bool({"running", "terminated"} & container(pod).get("state", {}).keys())


def drains(statefulset: Obj) -> bool:
    return f"{PREFIX}drain-started-at" in statefulset["metadata"].get("annotations", {})


def version(obj: Obj) -> int:
    """Later in what is written to one cluster."""
    return int(obj["metadata"]["resourceVersion"])


def assert_nothing_is_left(scene: Scene) -> None:
    """No Job and no pod of a pull."""
    wait_until(lambda: pulls(scene) == [], what="pulls are gone")


def pulls(scene: Scene) -> list[Obj]:
    kinds = (("batch/v1", "Job"), ("v1", "Pod"))
    return [
        one
        for kind in kinds
        for one in scene.lab.client.list(*kind, scene.namespace, labels=f"{COMPONENT}={PULL}")
    ]


def engines(scene: Scene) -> set[str]:
    return {pod["metadata"]["uid"] for pod in scene.pods(role="aggregated")}
