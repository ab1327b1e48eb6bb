"""The inventory: one truth from watches, lists and own writes that come in any order."""

from typing import Any

from hortator.api.v1alpha1 import API_VERSION, KIND
from hortator.operator.inventory import MAX_DEPARTED, Inventory
from hortator.operator.names import LABEL_SERVICE
from hortator.operator.objects import Obj

SVC = ("ns", "svc")


def thing(
    kind: str, name: str, version: int, *, uid: str = "", service: str | None = "svc", **rest: Any
) -> Obj:
    labels = {LABEL_SERVICE: service} if service else {}
    metadata = {
        "namespace": "ns",
        "name": name,
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "labels": labels,
    }
    api_version = {"StatefulSet": "apps/v1", KIND: API_VERSION}.get(kind, "v1")
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata} | rest


def pod(
    name: str, version: int, *, gpus: int = 0, node: str = "", service: str | None = "svc", uid: str = ""
) -> Obj:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {"cpu": "1"}
    spec = {
        "nodeName": node,
        "containers": [{"name": "engine", "image": "x", "resources": {"limits": limits}}],
    }
    return thing("Pod", name, version, service=service, uid=uid, spec=spec, status={"phase": "Running"})


def llm_service(version: int = 1) -> Obj:
    return thing(KIND, "svc", version, service=None, spec={})


def a_filled(*objects: Obj) -> Inventory:
    inventory = Inventory()
    for obj in (llm_service(), *objects):
        inventory.put(obj, told_at=0.0)
    return inventory


def test_a_child_concerns_its_service() -> None:
    inventory = a_filled()
    assert inventory.put(pod("svc-p-0-0", 5), told_at=1.0) == {SVC}
    assert [child["metadata"]["name"] for child in inventory.children(SVC)] == ["svc-p-0-0"]


def test_older_news_are_no_news() -> None:
    inventory = a_filled(pod("svc-p-0-0", 5, node="new"))
    assert inventory.put(pod("svc-p-0-0", 4, node="old"), told_at=9.0) == set()
    assert inventory.children(SVC)[0]["spec"]["nodeName"] == "new"


def test_what_is_gone_does_not_come_back_by_late_news() -> None:
    inventory = a_filled(pod("svc-p-0-0", 5))
    assert inventory.remove(pod("svc-p-0-0", 7)) == {SVC}
    assert inventory.put(pod("svc-p-0-0", 6), told_at=9.0) == set()
    assert inventory.children(SVC) == []


def test_a_new_object_of_the_same_name_replaces_the_old_one() -> None:
    inventory = a_filled(pod("svc-p-0-0", 5, uid="one"))
    assert inventory.put(pod("svc-p-0-0", 8, uid="two"), told_at=1.0) == {SVC}
    assert inventory.remove(pod("svc-p-0-0", 7, uid="one")) == set()
    assert [child["metadata"]["uid"] for child in inventory.children(SVC)] == ["two"]


def test_a_list_removes_what_it_does_not_have() -> None:
    """A watch that began anew does not tell what went away in between."""
    inventory = a_filled(pod("svc-p-0-0", 5), pod("svc-p-0-1", 6))
    concerned = inventory.replace_all("v1", "Pod", [pod("svc-p-0-1", 6)], asked_at=2.0, told_at=3.0)
    assert concerned == {SVC}
    assert [child["metadata"]["name"] for child in inventory.children(SVC)] == ["svc-p-0-1"]


def test_a_list_does_not_remove_what_was_told_after_it_was_asked_for() -> None:
    inventory = a_filled()
    inventory.put(pod("svc-p-0-0", 5), told_at=2.5)
    assert inventory.replace_all("v1", "Pod", [], asked_at=2.0, told_at=3.0) == set()
    assert len(inventory.children(SVC)) == 1


def test_a_list_of_one_kind_leaves_others_alone() -> None:
    inventory = a_filled(pod("svc-p-0-0", 5))
    inventory.replace_all("v1", "Service", [], asked_at=2.0, told_at=3.0)
    assert len(inventory.children(SVC)) == 1


def test_a_version_that_says_nothing_new_wakes_nobody() -> None:
    inventory = a_filled(pod("svc-p-0-0", 5))
    assert inventory.put(pod("svc-p-0-0", 6), told_at=1.0) == set()


def test_a_heartbeat_of_a_node_wakes_nobody_but_its_going_wakes_all() -> None:
    def node(version: int, ready: str, beat: str) -> Obj:
        condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": beat}
        metadata = {"name": "n1", "uid": "n1", "resourceVersion": str(version), "labels": {"zone": "a"}}
        status = {"allocatable": {"nvidia.com/gpu": "8"}, "conditions": [condition], "images": ["many"]}
        return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}, "status": status}

    inventory = a_filled(node(2, "True", "t1"))
    assert inventory.put(node(3, "True", "t2"), told_at=1.0) == set()
    assert inventory.put(node(4, "False", "t3"), told_at=1.0) == {SVC}
    (held,) = inventory.surroundings(SVC)
    assert "images" not in held["status"]


def test_pods_of_others_count_only_where_they_hold_devices() -> None:
    inventory = a_filled()
    assert inventory.put(pod("web", 2, service=None), told_at=0.0) == set()
    inventory.put(pod("trainer", 3, service=None, gpus=8, node="n1"), told_at=0.0)
    inventory.put(pod("other-p-0-0", 4, service="other", gpus=8, node="n2"), told_at=0.0)
    seen = inventory.surroundings(SVC)
    assert [obj["metadata"]["name"] for obj in seen] == ["trainer", "other-p-0-0"]
    assert inventory.num_objects()["Pod"] == 2


def test_events_about_children_belong_to_the_service() -> None:
    def event(name: str, about: str, kind: str, version: int) -> Obj:
        involved = {"kind": kind, "namespace": "ns", "name": about}
        return thing("Event", name, version, service=None, type="Warning", involvedObject=involved)

    inventory = a_filled()
    assert inventory.put(event("e1", "svc-p-0-0", "Pod", 2), told_at=0.0) == {SVC}
    assert inventory.put(event("e2", "svc-d-3", "StatefulSet", 3), told_at=0.0) == {SVC}
    assert inventory.put(event("e3", "svc-scheduler-6d5f", "ReplicaSet", 4), told_at=0.0) == {SVC}
    assert inventory.put(event("e4", "unrelated", "Pod", 5), told_at=0.0) == set()
    assert len(inventory.children(SVC)) == 3
    inventory.remove(llm_service(9))
    assert inventory.num_objects() == {}


def test_only_the_operators_managed_fields_are_kept() -> None:
    mine = {"manager": "hortator-operator", "operation": "Apply", "fieldsV1": {"f:spec": {}}}
    theirs = {"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {}}}
    child = pod("svc-p-0-0", 5)
    child["metadata"]["managedFields"] = [mine, theirs]
    inventory = a_filled(child)
    assert inventory.children(SVC)[0]["metadata"]["managedFields"] == [mine]


def group_of(replicas: int, *, version: int = 1, service: str = "svc") -> Obj:
    spec = {"replicas": replicas, "template": {"spec": pod("any", 1, gpus=8)["spec"]}}
    return thing("StatefulSet", f"{service}-a-0", version, service=service, spec=spec)


def wanted_around(inventory: Inventory, key: tuple[str, str]) -> list[int]:
    """Replicas of the StatefulSets that a service sees of others."""
    seen = inventory.surroundings(key)
    return [obj["spec"]["replicas"] for obj in seen if obj["kind"] == "StatefulSet"]


def test_what_is_promised_counts_for_others_until_the_promise_is_taken_back() -> None:
    inventory = a_filled(group_of(0))
    inventory.promise(SVC, [group_of(5), pod("some", 1, gpus=8)])
    assert wanted_around(inventory, ("ns", "other")) == [5]
    assert wanted_around(inventory, SVC) == []
    inventory.promise(SVC, ())
    assert wanted_around(inventory, ("ns", "other")) == [0]


def test_devices_that_are_to_be_given_back_are_not_free_before_they_are() -> None:
    inventory = a_filled(group_of(5))
    inventory.promise(SVC, [group_of(0)])
    assert wanted_around(inventory, ("ns", "other")) == [5]
    inventory.put(group_of(0, version=2), told_at=1.0)
    assert wanted_around(inventory, ("ns", "other")) == [0]


def taken(one: Obj) -> Obj:
    """A pod that kube-scheduler takes away."""
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    return one | {"status": one["status"] | {"conditions": [target]}}


def departed(inventory: Inventory) -> list[str]:
    return [obj["metadata"]["uid"] for obj in inventory.departed(SVC)]


def test_of_a_pod_that_the_cluster_took_away_the_last_state_is_kept() -> None:
    inventory = a_filled(pod("svc-p-0-0", 5), pod("svc-p-0-1", 5))
    inventory.remove(taken(pod("svc-p-0-0", 7)))
    inventory.remove(pod("svc-p-0-1", 8))
    assert inventory.children(SVC) == []
    assert departed(inventory) == ["uid-svc-p-0-0"]
    assert inventory.departed(("ns", "other")) == []


def test_also_where_another_of_its_name_was_told_first() -> None:
    inventory = a_filled(taken(pod("svc-p-0-0", 5, uid="one")))
    inventory.put(pod("svc-p-0-0", 8, uid="two"), told_at=1.0)
    inventory.remove(taken(pod("svc-p-0-0", 7, uid="one")))
    assert departed(inventory) == ["one"]
    assert [child["metadata"]["uid"] for child in inventory.children(SVC)] == ["two"]


def test_also_where_only_a_list_tells_that_it_went() -> None:
    inventory = a_filled(taken(pod("svc-p-0-0", 5)))
    inventory.replace_all("v1", "Pod", [], asked_at=2.0, told_at=3.0)
    assert departed(inventory) == ["uid-svc-p-0-0"]


def test_it_remembers_so_many_pods_that_were_taken_away() -> None:
    inventory = a_filled()
    for index in range(MAX_DEPARTED + 2):
        inventory.remove(taken(pod(f"svc-p-{index}-0", 5)))
    assert len(inventory.departed(SVC)) == MAX_DEPARTED
    assert departed(inventory)[0] == "uid-svc-p-2-0"
