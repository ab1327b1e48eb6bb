"""What the operator relies on in a Kubernetes API server: the same tests for the in-memory one and a real one.

A test module takes all of it (`from doubles.kubernetes.conformance import *`) and gives the fixture `server`.
Objects are ConfigMaps, Services, Pods and StatefulSets in a namespace of the test's own.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from hortator.operator.cluster import (
    AlreadyExistsError,
    Cluster,
    ConflictError,
    InvalidError,
    NotFoundError,
)
from hortator.operator.objects import Obj, Ref, ref_of

CORE = "/api/v1"
EVENT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An API server under test: through the operator's port, and as anybody else would reach it."""

    cluster: Cluster
    session: aiohttp.ClientSession
    url: str
    namespace: str

    def ref(self, kind: str, name: str, api_version: str = "v1") -> Ref:
        return Ref(api_version=api_version, kind=kind, namespace=self.namespace, name=name)

    async def call(
        self, method: str, path: str, body: Any = None, *, kind: str = "json", **query: str
    ) -> Any:
        headers = {"Content-Type": f"application/{kind}"}
        data = None if body is None else json.dumps(body)
        url = f"{self.url}{path}"
        async with self.session.request(method, url, data=data, headers=headers, params=query) as answer:
            return await answer.json()

    @asynccontextmanager
    async def watch(self, plural: str, **query: str) -> AsyncIterator["Events"]:
        url = f"{self.url}{CORE}/namespaces/{self.namespace}/{plural}"
        query |= {"watch": "true", "allowWatchBookmarks": "true"}
        timeout = aiohttp.ClientTimeout(total=60)
        async with self.session.get(url, params=query, timeout=timeout) as answer:
            yield Events(answer.content)

    def path(self, plural: str, name: str = "") -> str:
        return f"{CORE}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")


class Events:
    """What a watch says."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    async def next(self) -> tuple[str, Obj]:
        while True:
            async with asyncio.timeout(EVENT_TIMEOUT_S):
                line = await self._content.readline()
            if not line:
                raise EOFError
            event = json.loads(line)
            if event["type"] != "BOOKMARK":
                return event["type"], event["object"]


@asynccontextmanager
async def new_namespace(cluster: Cluster) -> AsyncIterator[str]:
    """A namespace that goes again."""
    name = f"conformance-{uuid.uuid4().hex[:10]}"
    await cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield name
    finally:
        await cluster.delete(Ref(api_version="v1", kind="Namespace", namespace="", name=name))


def config_map(server: Server, name: str = "one", *, labels: Any = None, **data: str) -> Obj:
    metadata = {"name": name, "namespace": server.namespace} | ({"labels": labels} if labels else {})
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def pod(server: Server, name: str = "pod", **spec: Any) -> Obj:
    container = {"name": "main", "image": "nothing:0"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": server.namespace},
        "spec": {"containers": [container], "automountServiceAccountToken": False} | spec,
    }


def stateful_set(server: Server, name: str = "set", *, replicas: int = 0, image: str = "nothing:0") -> Obj:
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": server.namespace},
        "spec": {
            "replicas": replicas,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": labels},
            "template": template,
        },
    }


class TestReadingAndCreating:
    async def test_an_absent_object_is_none(self, server: Server) -> None:
        assert await server.cluster.get(server.ref("ConfigMap", "nobody")) is None

    async def test_a_created_object_has_uid_version_and_time(self, server: Server) -> None:
        made = await server.cluster.create(config_map(server, a="1"))
        assert made["metadata"]["uid"]
        assert made["metadata"]["resourceVersion"]
        assert made["metadata"]["creationTimestamp"].endswith("Z")
        assert await server.cluster.get(server.ref("ConfigMap", "one")) == made

    async def test_creating_twice_is_refused(self, server: Server) -> None:
        await server.cluster.create(config_map(server, a="1"))
        with pytest.raises(AlreadyExistsError, match="already exists"):
            await server.cluster.create(config_map(server, a="2"))

    async def test_a_missing_namespace_is_said(self, server: Server) -> None:
        nowhere = config_map(server, a="1")
        nowhere["metadata"]["namespace"] = "no-such-namespace"
        with pytest.raises(NotFoundError, match="no-such-namespace"):
            await server.cluster.create(nowhere)

    async def test_a_kind_that_is_not_served_is_invalid(self, server: Server) -> None:
        assert not await server.cluster.serves("nobody.example.com/v1", "Nothing")
        assert await server.cluster.serves("apps/v1", "StatefulSet")
        with pytest.raises(InvalidError, match="does not serve"):
            await server.cluster.get(server.ref("Nothing", "one", "nobody.example.com/v1"))

    async def test_lists_select_by_labels_and_namespace(self, server: Server) -> None:
        await server.cluster.create(config_map(server, "a", labels={"app": "x", "part": "1"}))
        await server.cluster.create(config_map(server, "b", labels={"app": "x", "part": "2"}))
        await server.cluster.create(config_map(server, "c", labels={"app": "y"}))
        where = {"namespace": server.namespace}
        both = await server.cluster.list("v1", "ConfigMap", labels={"app": "x"}, **where)
        assert [found["metadata"]["name"] for found in both] == ["a", "b"]
        assert {found["kind"] for found in both} == {"ConfigMap"}
        one = await server.cluster.list("v1", "ConfigMap", labels={"app": "x", "part": "2"}, **where)
        assert [found["metadata"]["name"] for found in one] == ["b"]
        everywhere = await server.cluster.list("v1", "ConfigMap", labels={"app": "y"})
        assert server.namespace in {found["metadata"]["namespace"] for found in everywhere}

    async def test_lists_select_by_fields(self, server: Server) -> None:
        await server.cluster.create(config_map(server, "a"))
        await server.cluster.create(config_map(server, "b"))
        found = await server.cluster.list(
            "v1", "ConfigMap", namespace=server.namespace, fields={"metadata.name": "b"}
        )
        assert [item["metadata"]["name"] for item in found] == ["b"]

    async def test_pages_add_up(self, server: Server) -> None:
        for number in range(5):
            await server.cluster.create(config_map(server, f"n{number}", labels={"app": "paged"}))
        first = await server.call("GET", server.path("configmaps"), limit="2", labelSelector="app=paged")
        token = first["metadata"]["continue"]
        second = await server.call(
            "GET", server.path("configmaps"), limit="2", labelSelector="app=paged", **{"continue": token}
        )
        names = [item["metadata"]["name"] for page in (first, second) for item in page["items"]]
        assert names == ["n0", "n1", "n2", "n3"]


class TestReplacing:
    async def test_the_version_that_was_read_may_be_replaced(self, server: Server) -> None:
        made = await server.cluster.create(config_map(server, a="1"))
        replaced = await server.cluster.replace(made | {"data": {"a": "2"}})
        assert replaced["data"] == {"a": "2"}
        assert replaced["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]

    async def test_an_older_version_is_a_conflict(self, server: Server) -> None:
        made = await server.cluster.create(config_map(server, a="1"))
        await server.cluster.replace(made | {"data": {"a": "2"}})
        with pytest.raises(ConflictError):
            await server.cluster.replace(made | {"data": {"a": "3"}})

    async def test_writing_the_same_changes_no_version(self, server: Server) -> None:
        made = await server.cluster.create(config_map(server, a="1"))
        same = await server.cluster.replace(made)
        assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


class TestApplying:
    async def test_an_absent_object_is_created(self, server: Server) -> None:
        made = await server.cluster.apply(config_map(server, a="1"))
        assert made["data"] == {"a": "1"}
        (entry,) = made["metadata"]["managedFields"]
        assert (entry["manager"], entry["operation"]) == ("hortator-operator", "Apply")
        assert "f:a" in entry["fieldsV1"]["f:data"]

    async def test_applying_the_same_changes_nothing(self, server: Server) -> None:
        first = await server.cluster.apply(config_map(server, a="1"))
        again = await server.cluster.apply(config_map(server, a="1"))
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    async def test_what_is_no_longer_applied_is_removed(self, server: Server) -> None:
        await server.cluster.apply(config_map(server, a="1", b="2"))
        assert (await server.cluster.apply(config_map(server, a="1")))["data"] == {"a": "1"}

    async def test_what_others_wrote_is_left_alone(self, server: Server) -> None:
        await server.cluster.apply(config_map(server, a="1"))
        patch = {"data": {"theirs": "x"}}
        await server.call("PATCH", server.path("configmaps", "one"), patch, kind="merge-patch+json")
        assert (await server.cluster.apply(config_map(server, a="2")))["data"] == {"a": "2", "theirs": "x"}

    async def test_a_field_of_others_is_a_conflict_unless_forced(self, server: Server) -> None:
        await server.cluster.apply(config_map(server, a="1"))
        patch = {"data": {"a": "theirs"}}
        await server.call("PATCH", server.path("configmaps", "one"), patch, kind="merge-patch+json")
        with pytest.raises(ConflictError, match="conflict"):
            await server.cluster.apply(config_map(server, a="ours"), force=False)
        assert (await server.cluster.apply(config_map(server, a="ours")))["data"] == {"a": "ours"}

    async def test_the_same_value_is_no_conflict(self, server: Server) -> None:
        await server.cluster.apply(config_map(server, a="1"))
        patch = {"data": {"b": "2"}}
        await server.call("PATCH", server.path("configmaps", "one"), patch, kind="merge-patch+json")
        assert (await server.cluster.apply(config_map(server, a="1", b="2"), force=False))["data"]["b"] == "2"

    async def test_items_of_lists_are_merged_by_their_keys(self, server: Server) -> None:
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "svc", "namespace": server.namespace},
            "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 7070, "protocol": "TCP"}]},
        }
        await server.cluster.apply(service)
        service["spec"]["ports"].append({"name": "admin", "port": 9090, "protocol": "TCP"})
        both = await server.cluster.apply(service)
        assert [port["port"] for port in both["spec"]["ports"]] == [7070, 9090]
        del service["spec"]["ports"][0]
        one = await server.cluster.apply(service)
        assert [port["port"] for port in one["spec"]["ports"]] == [9090]

    async def test_a_uid_in_the_metadata_is_a_precondition(self, server: Server) -> None:
        await server.cluster.apply(config_map(server, a="1"))
        other = config_map(server, a="2")
        other["metadata"]["uid"] = str(uuid.uuid4())
        with pytest.raises(ConflictError):
            await server.cluster.apply(other)

    async def test_a_version_in_the_metadata_is_a_precondition(self, server: Server) -> None:
        first = await server.cluster.apply(config_map(server, a="1"))
        await server.cluster.apply(config_map(server, a="2"))
        stale = config_map(server, a="3")
        stale["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
        with pytest.raises(ConflictError):
            await server.cluster.apply(stale)

    async def test_what_was_meant_for_an_object_that_is_gone_makes_no_other(self, server: Server) -> None:
        made = await server.cluster.apply(config_map(server, a="1"))
        await server.cluster.delete(server.ref("ConfigMap", "one"))
        late = config_map(server, a="2")
        late["metadata"] |= {name: made["metadata"][name] for name in ("uid", "resourceVersion")}
        with pytest.raises((ConflictError, NotFoundError)):
            await server.cluster.apply(late)
        assert await server.cluster.get(server.ref("ConfigMap", "one")) is None

    async def test_labels_can_be_set_and_removed_alone(self, server: Server) -> None:
        await server.cluster.apply(config_map(server, labels={"keep": "1", "drop": "1"}))
        ref = server.ref("ConfigMap", "one")
        await server.cluster.patch_labels(ref, {"drop": None, "new": "2"})
        labels = (await server.cluster.get(ref) or {})["metadata"]["labels"]
        assert labels == {"keep": "1", "new": "2"}
        with pytest.raises(NotFoundError):
            await server.cluster.patch_labels(server.ref("ConfigMap", "nobody"), {"a": "1"})


class TestScale:
    async def test_replicas_are_written_alone_and_only_to_the_state_that_was_seen(
        self, server: Server
    ) -> None:
        made = await server.cluster.apply(stateful_set(server))
        ref, seen = ref_of(made), made
        while seen["spec"]["replicas"] != 3:
            with contextlib.suppress(ConflictError):  # its controller has written the status meanwhile
                await server.cluster.scale(ref, 3, resource_version=seen["metadata"]["resourceVersion"])
            seen = await server.cluster.get(ref) or {}
        assert seen["spec"] == made["spec"] | {"replicas": 3}
        assert seen["metadata"]["generation"] == 2
        with pytest.raises(ConflictError):
            await server.cluster.scale(ref, 4, resource_version=made["metadata"]["resourceVersion"])

    async def test_what_is_not_there_cannot_be_scaled(self, server: Server) -> None:
        with pytest.raises(NotFoundError):
            await server.cluster.scale(ref_of(stateful_set(server, "nobody")), 1, resource_version="1")


class TestGenerationAndStatus:
    async def test_a_change_of_the_spec_counts_a_generation(self, server: Server) -> None:
        made = await server.cluster.apply(stateful_set(server))
        assert made["metadata"]["generation"] == 1
        changed = await server.cluster.apply(stateful_set(server, image="nothing:1"))
        assert changed["metadata"]["generation"] == 2

    async def test_labels_and_status_count_no_generation(self, server: Server) -> None:
        await server.cluster.apply(pod(server, nodeName="nowhere"))
        ref = server.ref("Pod", "pod")
        before = (await server.cluster.get(ref) or {})["metadata"].get("generation")
        await server.cluster.patch_labels(ref, {"a": "b"})
        status = pod(server) | {"status": {"message": "said by a test"}}
        del status["spec"]
        after = await server.cluster.apply_status(status)
        assert after["status"]["message"] == "said by a test"
        assert after["metadata"].get("generation") == before

    async def test_the_status_changes_only_through_its_subresource(self, server: Server) -> None:
        with_status = pod(server, nodeName="nowhere") | {"status": {"message": "smuggled"}}
        made = await server.cluster.create(with_status)
        assert "message" not in made.get("status", {})
        changed = await server.cluster.apply_status(
            {name: with_status[name] for name in ("apiVersion", "kind", "metadata")}
            | {"status": {"message": "right"}}
        )
        assert changed["status"]["message"] == "right"
        with pytest.raises(NotFoundError):
            await server.cluster.apply_status(pod(server, "nobody") | {"status": {"message": "x"}})


class TestDeleting:
    async def test_an_absent_object_is_fine(self, server: Server) -> None:
        await server.cluster.delete(server.ref("ConfigMap", "nobody"))

    async def test_another_uid_is_a_conflict(self, server: Server) -> None:
        made = await server.cluster.create(config_map(server))
        ref = server.ref("ConfigMap", "one")
        with pytest.raises(ConflictError):
            await server.cluster.delete(ref, uid=str(uuid.uuid4()))
        await server.cluster.delete(ref, uid=made["metadata"]["uid"])
        assert await server.cluster.get(ref) is None

    async def test_a_pod_without_a_node_goes_at_once(self, server: Server) -> None:
        await server.cluster.create(pod(server, schedulerName="nobody"))
        await server.cluster.delete(server.ref("Pod", "pod"))
        assert await server.cluster.get(server.ref("Pod", "pod")) is None

    async def test_a_pod_on_a_node_is_asked_to_go(self, server: Server) -> None:
        made = await server.cluster.create(pod(server, nodeName="nowhere"))
        ref = server.ref("Pod", "pod")
        await server.cluster.delete(ref, uid=made["metadata"]["uid"], grace_s=7)
        leaving = await server.cluster.get(ref) or {}
        assert leaving["metadata"]["deletionTimestamp"]
        assert leaving["metadata"]["deletionGracePeriodSeconds"] == 7
        await server.cluster.delete(ref, grace_s=0)
        assert await server.cluster.get(ref) is None

    async def test_finalizers_hold_an_object(self, server: Server) -> None:
        held = config_map(server)
        held["metadata"]["finalizers"] = ["example.com/held"]
        await server.cluster.create(held)
        ref = server.ref("ConfigMap", "one")
        await server.cluster.delete(ref)
        leaving = await server.cluster.get(ref) or {}
        assert leaving["metadata"]["deletionTimestamp"]
        patch = {"metadata": {"finalizers": None}}
        await server.call("PATCH", server.path("configmaps", "one"), patch, kind="merge-patch+json")
        assert await server.cluster.get(ref) is None


class TestWatching:
    async def test_changes_after_a_version_come_in_order(self, server: Server) -> None:
        listed = await server.call("GET", server.path("configmaps"))
        since = listed["metadata"]["resourceVersion"]
        await server.cluster.create(config_map(server, labels={"app": "w"}, a="1"))
        async with server.watch("configmaps", resourceVersion=since, labelSelector="app=w") as events:
            await server.cluster.apply(config_map(server, labels={"app": "w"}, a="2"))
            await server.cluster.delete(server.ref("ConfigMap", "one"))
            seen = [await events.next() for _ in range(3)]
        assert [what for what, _ in seen] == ["ADDED", "MODIFIED", "DELETED"]
        assert [obj["data"]["a"] for _, obj in seen] == ["1", "2", "2"]
        versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in seen]
        assert versions == sorted(versions)

    async def test_leaving_the_selection_is_a_deletion(self, server: Server) -> None:
        made = await server.cluster.create(config_map(server, labels={"app": "w"}))
        since = made["metadata"]["resourceVersion"]
        async with server.watch("configmaps", resourceVersion=since, labelSelector="app=w") as events:
            await server.cluster.patch_labels(server.ref("ConfigMap", "one"), {"app": "other"})
            what, obj = await events.next()
        assert (what, obj["metadata"]["name"]) == ("DELETED", "one")

    async def test_without_a_version_what_is_there_comes_first(self, server: Server) -> None:
        await server.cluster.create(config_map(server, "here", labels={"app": "w"}))
        async with server.watch("configmaps", labelSelector="app=w") as events:
            what, obj = await events.next()
        assert (what, obj["metadata"]["name"]) == ("ADDED", "here")


class TestCustomStatus:
    async def test_an_object_that_loses_all_its_fields_may_not_be_applied_empty(self, server: Server) -> None:
        """Server-side apply makes null of it, which the schema refuses: leave the object out instead."""
        role = {
            "name": "Aggregated",
            "nodes": 1,
            "gpusPerNode": 1,
            "parallelism": {"attentionDP": 1, "expert": 1},
        }
        service = {
            "apiVersion": "serving.hortator.dev/v1alpha1",
            "kind": "LLMService",
            "metadata": {"name": "empty", "namespace": server.namespace},
        }
        spec = {
            "model": {"uri": "hf://deepseek-ai/DeepSeek-V3"},
            "engine": {"backend": "Simulated"},
            "topology": "Aggregated",
            "roles": [role],
        }
        await server.cluster.create(service | {"spec": spec})

        async def say(**fields: Any) -> Obj:
            group = {"name": "empty-a-0", "role": "Aggregated", "index": 0} | fields
            return await server.cluster.apply_status(service | {"status": {"groups": [group]}})

        await say(timeline={})
        await say(timeline={"created": "2026-01-02T03:04:05Z"})
        with pytest.raises(InvalidError, match="timeline"):
            await say(timeline={})
        said = await say()
        assert "timeline" not in said["status"]["groups"][0]
