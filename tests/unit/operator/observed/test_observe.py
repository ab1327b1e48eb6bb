"""What raw objects become: whose they are, what counts, and what a container said last."""

import pytest

from hortator.operator import names
from hortator.operator.observed import Meta, WorkerLoad, observe
from hortator.operator.observed.pods import last_words
from hortator.operator.observed.reading import quantity

META = Meta(namespace="default", name="demo", uid="cr-1", generation=3)
OWNER = {"kind": "LLMService", "name": "demo", "uid": "cr-1", "controller": True}


def an_object(kind, name, *, owner=OWNER, namespace="default", service="demo", **fields):
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "labels": {names.LABEL_SERVICE: service} | fields.pop("labels", {}),
        "ownerReferences": [owner] if owner else [],
    } | fields.pop("metadata", {})
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata} | fields


def a_statefulset(name="demo-a-0", *, epoch=2, replicas=2, **fields):
    template = {"metadata": {"labels": {names.LABEL_EPOCH: str(epoch), names.LABEL_REVISION: "r1"}}}
    labels = {names.LABEL_COMPONENT: names.COMPONENT_ENGINE}
    return an_object(
        "StatefulSet", name, labels=labels, spec={"replicas": replicas, "template": template}, **fields
    )


def a_pod(name="demo-a-0-0", *, epoch=2, owner_uid="uid-demo-a-0", **fields):
    owner = {"kind": "StatefulSet", "uid": owner_uid, "controller": True}
    return an_object("Pod", name, owner=owner, labels={names.LABEL_EPOCH: str(epoch)}, **fields)


def observed(*objects, loads=()):
    return observe(objects, meta=META, loads={load.worker_id: load for load in loads})


def test_pods_are_told_apart_by_epoch():
    group = observed(a_statefulset(), a_pod(), a_pod("demo-a-0-1", epoch=1)).groups["demo-a-0"]
    assert (group.epoch, group.revision, group.replicas, group.worker_id) == (2, "r1", 2, "aggregated-0")
    assert [pod.ref.name for pod in group.current_pods] == ["demo-a-0-0"]
    assert [pod.ref.name for pod in group.former_pods] == ["demo-a-0-1"]


def test_pods_that_the_cluster_took_away_are_told_beside_those_that_are_there():
    target = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    gone = [
        a_pod(metadata={"uid": "one"}, status={"conditions": [target]}),
        a_pod("demo-a-1-0", metadata={"uid": "two"}, status={"conditions": [target]}),
        a_pod(metadata={"uid": "three"}),
    ]
    group = observe([a_statefulset(), a_pod()], meta=META, loads={}, departed=gone).groups["demo-a-0"]
    assert [pod.uid for pod in group.pods] == ["uid-demo-a-0-0"]
    assert [(pod.uid, pod.epoch, pod.disruption) for pod in group.departed] == [
        ("one", 2, "DeletionByTaintManager")
    ]


def test_a_pod_of_an_earlier_statefulset_of_the_name_is_of_no_epoch():
    group = observed(a_statefulset(), a_pod(owner_uid="uid-before")).groups["demo-a-0"]
    assert group.current_pods == ()
    assert group.former_pods[0].epoch == -1


@pytest.mark.parametrize(
    "other",
    [
        {"namespace": "elsewhere"},
        {"service": "demo-2"},
    ],
)
def test_what_belongs_to_another_service_is_not_ours(other):
    assert observed(a_statefulset(**other)).groups == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"owner": OWNER | {"uid": "cr-0"}},  # of the LLMService that had the name before
        {"metadata": {"deletionTimestamp": "2026-11-26T10:00:00Z"}},
    ],
)
def test_a_statefulset_on_its_way_out_is_none_and_blocks_its_name(fields):
    found = observed(a_statefulset(**fields), a_pod())
    assert not found.groups["demo-a-0"].exists
    assert [ref.name for ref in found.leftovers] == ["demo-a-0"]


def test_what_controllers_make_of_our_children_is_no_child():
    """A StatefulSet's own ControllerRevision carries every label of the pod template."""
    theirs = an_object(
        "ControllerRevision", "x", owner={"kind": "StatefulSet", "uid": "s", "controller": True}
    )
    ours = an_object("ControllerRevision", "y")
    assert [ref.name for ref in observed(theirs, ours).objects] == ["y"]


@pytest.mark.parametrize(
    ("boot_id", "is_known"),
    [
        ("2-abc", True),  # of a template that names no incarnation
        (f"2-{names.incarnation('uid-demo-a-0')}-abc", True),
        (f"2-{names.incarnation('uid-before')}-abc", False),
        (f"1-{names.incarnation('uid-demo-a-0')}-abc", False),
        ("1-abc", False),
        ("abc", False),
        ("x-1", False),
    ],
)
def test_a_load_counts_for_the_epoch_and_the_statefulset_that_its_boot_names(boot_id, is_known):
    load = WorkerLoad(
        worker_id="aggregated-0",
        boot_id=boot_id,
        state="ready",
        num_in_flight=1,
        num_ranks=8,
        is_draining=False,
    )
    group = observed(a_statefulset(), loads=[load]).groups["demo-a-0"]
    assert (group.load is not None) is is_known


def test_what_is_free_on_a_node_is_what_no_pod_has_taken():
    node = {
        "kind": "Node",
        "metadata": {"name": "n"},
        "status": {"allocatable": {"nvidia.com/gpu": "8", "memory": "16Gi"}},
    }
    container = {"resources": {"limits": {"nvidia.com/gpu": "2"}, "requests": {"memory": "1Gi"}}}
    spec = {"nodeName": "n", "containers": [container]}
    running = an_object("Pod", "a", namespace="team", spec=spec)
    over = an_object("Pod", "b", namespace="team", spec=spec, status={"phase": "Succeeded"})
    assert observed(node, running, over).nodes["n"].free == {"nvidia.com/gpu": 6, "memory": 15 * 2**30}


def test_pods_that_another_group_still_has_to_place_are_a_claim():
    spec = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}]}
    other = a_statefulset("other-a-0", namespace="team", service="other", replicas=3)
    other["spec"]["template"]["spec"] = spec
    placed = an_object("Pod", "other-a-0-1", namespace="team", service="other", spec=spec | {"nodeName": "n"})
    claim = observed(other, placed).claims[0]
    assert (claim.name, claim.num_pods, claim.requests) == ("team/other-a-0", 2, {"nvidia.com/gpu": 8})


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("", ""),
        ("Traceback ...\nValueError: no such model\n\n", "ValueError: no such model"),
        ('{"event": "ended", "why": "lost member 1"}', "ended: lost member 1"),
        ('{"broken', '{"broken'),
        ("x" * 1000, "x" * 300),
    ],
)
def test_the_last_words_of_a_container(message, words):
    assert last_words(message) == words


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("8", 8),
        ("500m", 0.5),
        ("1Gi", 2**30),
        ("1e3", 1000),
        (2, 2),
        ("", None),
        ("x", None),
        (True, None),
        (None, None),
    ],
)
def test_quantities(written, value):
    assert quantity(written) == value
