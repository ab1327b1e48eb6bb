"""What the operator relies on in a cluster's controllers: the same tests for the stepped ones and real ones.

A test module takes all of it (`from doubles.kubernetes.workloads import *`) and gives the fixture `cluster_at_work`.
No node is there, so pods stay unscheduled.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from doubles.kubernetes.conformance import Server as ApiUnderTest
from doubles.kubernetes.conformance import config_map, stateful_set
from hortator.operator.objects import Obj

TIMEOUT_S = 30.0
QUIET_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AtWork:
    """An API server whose controllers work: on their own, or by `step`."""

    server: ApiUnderTest
    step: Callable[[], object]
    pause_s: float

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not await holds():
                self.step()
                await asyncio.sleep(self.pause_s)
        assert await holds(), what

    async def a_while(self) -> None:
        """Long enough for anything that is about to happen."""
        for _ in range(5):
            self.step()
        await asyncio.sleep(QUIET_S if self.pause_s else 0.0)

    async def pods(self) -> dict[str, Obj]:
        listed = await self.server.cluster.list("v1", "Pod", namespace=self.server.namespace)
        return {pod["metadata"]["name"]: pod for pod in listed}

    async def until_pods_are(self, names: set[str]) -> dict[str, Obj]:
        async def holds() -> bool:
            return (await self.pods()).keys() == names

        await self.until(holds, f"pods {sorted(names)}")
        return await self.pods()


def images(pods: dict[str, Obj]) -> dict[str, str]:
    return {name: pod["spec"]["containers"][0]["image"] for name, pod in pods.items()}


class TestStatefulSets:
    async def test_a_set_is_admitted_at_once_and_gives_back_all(self, cluster_at_work):
        server = cluster_at_work.server
        await server.cluster.apply(stateful_set(server, replicas=0))
        await cluster_at_work.a_while()
        assert await cluster_at_work.pods() == {}
        await server.cluster.apply(stateful_set(server, replicas=3))
        # all three, although none is ready
        pods = await cluster_at_work.until_pods_are({"set-0", "set-1", "set-2"})
        owner = await server.cluster.get(server.ref("StatefulSet", "set", "apps/v1"))
        for pod in pods.values():
            [reference] = pod["metadata"]["ownerReferences"]
            assert (reference["uid"], reference["controller"]) == (owner["metadata"]["uid"], True)
        await server.cluster.apply(stateful_set(server, replicas=0))
        await cluster_at_work.until_pods_are(set())

    async def test_a_changed_template_touches_no_pod_until_it_is_deleted(self, cluster_at_work):
        server = cluster_at_work.server
        await server.cluster.apply(stateful_set(server, replicas=2, image="old:1"))
        before = await cluster_at_work.until_pods_are({"set-0", "set-1"})
        await server.cluster.apply(stateful_set(server, replicas=2, image="new:2"))
        await cluster_at_work.a_while()
        assert images(await cluster_at_work.pods()) == {"set-0": "old:1", "set-1": "old:1"}

        uid = before["set-0"]["metadata"]["uid"]
        await server.cluster.delete(server.ref("Pod", "set-0"), uid=uid)

        async def is_replaced() -> bool:
            pod = (await cluster_at_work.pods()).get("set-0")
            return pod is not None and pod["metadata"]["uid"] != uid

        await cluster_at_work.until(is_replaced, "another set-0")
        after = await cluster_at_work.pods()
        assert images(after) == {"set-0": "new:2", "set-1": "old:1"}
        assert after["set-1"]["metadata"]["uid"] == before["set-1"]["metadata"]["uid"]

    async def test_the_status_says_which_generation_it_is_of(self, cluster_at_work):
        server = cluster_at_work.server
        ref = server.ref("StatefulSet", "set", "apps/v1")
        for replicas in (1, 2):
            await server.cluster.apply(stateful_set(server, replicas=replicas))

            async def is_counted(replicas=replicas) -> bool:
                found = await server.cluster.get(ref)
                status = found.get("status", {})
                is_new = status.get("observedGeneration") == found["metadata"]["generation"]
                return is_new and status["replicas"] == replicas

            await cluster_at_work.until(is_counted, f"{replicas} counted")


class TestGarbage:
    async def test_what_an_object_owns_goes_with_it(self, cluster_at_work):
        server = cluster_at_work.server
        owner = await server.cluster.create(config_map(server, "owner"))
        metadata = owner["metadata"]
        owned = config_map(server, "owned")
        owned["metadata"]["ownerReferences"] = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": "owner",
                "uid": metadata["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
        await server.cluster.create(owned)
        await server.cluster.create(config_map(server, "other"))
        await cluster_at_work.a_while()
        assert await server.cluster.get(server.ref("ConfigMap", "owned")) is not None
        await server.cluster.delete(server.ref("ConfigMap", "owner"), uid=metadata["uid"])

        async def is_gone() -> bool:
            return await server.cluster.get(server.ref("ConfigMap", "owned")) is None

        await cluster_at_work.until(is_gone, "the owned one goes")
        assert await server.cluster.get(server.ref("ConfigMap", "other")) is not None
