"""LLMServices under an operator on scripted nodes: small ones to create, and what tests ask of them."""

import asyncio
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.controlplane import Lab
from cluster.fakenodes.client import FakeNodes
from cluster.kube import Kube, Obj
from cluster.operators import SERVICES, Operator
from cluster.recorder import Recorder, Seen
from hortator.cli.k8s import explain as explain_command
from hortator.cli.k8s.options import ClusterOptions

PREFIX = "serving.hortator.dev/"
GPUS_PER_NODE = 8
KINDS_OF_CHILDREN = (
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("apps/v1", "ControllerRevision"),
    ("batch/v1", "Job"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "Endpoints"),
    ("v1", "Secret"),
    ("v1", "ServiceAccount"),
    ("v1", "PersistentVolumeClaim"),
)


def llmservice(name: str, namespace: str, *, groups: int = 2, nodes: int = 2, **spec: Any) -> Obj:
    """Aggregated EP groups of `nodes` pods with 8 ranks each; restarts without delay, drains without patience."""
    num_ranks = nodes * GPUS_PER_NODE
    role: Obj = {
        "name": "Aggregated",
        "replicas": groups,
        "nodes": nodes,
        "gpusPerNode": GPUS_PER_NODE,
        "parallelism": {"attentionDP": num_ranks, "expert": num_ranks},
        **spec.pop("role", {}),
    }
    return {
        "apiVersion": SERVICES[0],
        "kind": SERVICES[1],
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://deepseek-ai/DeepSeek-V3"},
            "engine": {"backend": "Simulated"},
            "topology": "Aggregated",
            "roles": [role],
            "scheduler": {"replicas": 1},
            "gateway": {"replicas": 1},
            "restart": {"baseDelay": "0s", "maxDelay": "0s", "maxRestarts": 2},
            "drain": {"timeout": "0s"},
            **spec,
        },
    }


def condition(service: Obj | None, kind: str = "Ready") -> Obj:
    """A condition; empty when there is none."""
    conditions = ((service or {}).get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def is_ready(service: Obj | None) -> bool:
    """Whether it is ready as it is specified now."""
    ready = condition(service)
    return ready.get("status") == "True" and ready["observedGeneration"] == service["metadata"]["generation"]


def reason(service: Obj | None) -> str:
    """Of condition Ready."""
    return condition(service).get("reason", "")


def group(service: Obj, index: int) -> Obj:
    """An entry of status.groups."""
    return next((one for one in service["status"].get("groups", []) if one["index"] == index), {})


def epochs(service: Obj) -> dict[str, int]:
    """Of each group."""
    return {one["name"]: one["epoch"] for one in service["status"].get("groups", [])}


def container(pod: Obj) -> Obj:
    """The status of the first container; empty when there is none yet."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    first: Obj = statuses[0]
    return first


def waits_for(pod: Obj, *reasons: str) -> bool:
    """Whether a container waits with one of these reasons."""
    return container(pod).get("state", {}).get("waiting", {}).get("reason") in reasons


def has_ended(pod: Obj, why: str) -> bool:
    """Whether the container has ended for this reason."""
    states = [container(pod).get(when, {}) for when in ("state", "lastState")]
    return any(state.get("terminated", {}).get("reason") == why for state in states)


def children_in(client: Kube, namespace: str) -> list[Obj]:
    """All objects of a namespace that are labelled as made for an LLMService."""
    found: list[Obj] = []
    for api_version, kind in KINDS_OF_CHILDREN:
        found += client.list(api_version, kind, namespace, labels=f"{PREFIX}name")
    return found


@dataclass(slots=True, kw_only=True)
class Scene:
    """A namespace of a test with an operator over the whole cluster, and the record of what happened in it."""

    lab: Lab
    namespace: str
    nodes: FakeNodes
    operator: Operator
    record: Recorder

    def create(self, name: str = "llm", **options: Any) -> Obj:
        """Create `llmservice(name, ...)`."""
        return self.lab.client.create(llmservice(name, self.namespace, **options))

    def get(self, name: str = "llm") -> Obj:
        """The LLMService as it is."""
        found = self.lab.client.get(*SERVICES, name, self.namespace)
        assert found is not None
        return found

    def patch(self, spec: Obj, name: str = "llm") -> Obj:
        """Merge-patch its spec."""
        return self.lab.client.patch(self.get(name), {"spec": spec})

    def when(
        self, holds: Callable[[Obj], Any], *, name: str = "llm", since: float = 0.0, timeout_s: float = 30.0
    ) -> Seen:
        """The first state of the LLMService of which it holds."""
        return self.record.first(
            "LLMService",
            lambda obj: obj["metadata"]["name"] == name and holds(obj),
            since=since,
            timeout_s=timeout_s,
        )

    def until(self, holds: Callable[[Obj], Any], *, name: str = "llm", timeout_s: float = 30.0) -> Obj:
        """The present state of the LLMService, once it holds of it."""
        found = self.lab.client.wait(*SERVICES, name, self.namespace, holds, timeout_s=timeout_s)
        assert found is not None
        return found

    def drain(self, group: str) -> Obj:
        """Ask for the drain of a group in its present epoch, as `hortator k8s drain` does."""
        found = self.lab.client.get("apps/v1", "StatefulSet", group, self.namespace)
        assert found is not None
        epoch = found["spec"]["template"]["metadata"]["labels"][f"{PREFIX}epoch"]
        return self.lab.client.patch(
            found, {"metadata": {"annotations": {f"{PREFIX}drain-requested": epoch}}}
        )

    def serving(self, name: str = "llm", **options: Any) -> Obj:
        """Create one, and wait until it is ready."""
        self.create(name, **options)
        return self.until(is_ready, name=name)

    def at_rest(self, name: str = "llm", *, for_s: float = 1.0) -> Obj:
        """The LLMService, once nothing has happened to it, its StatefulSets and pods for a while."""
        self.record.quiet(("LLMService", "StatefulSet", "Pod"), for_s=for_s)
        return self.get(name)

    def epochs_of(self, group: str) -> list[int]:
        """The epochs that the pod template of a group has named, in order."""
        found: list[int] = []
        for seen in self.record.all("StatefulSet", group):
            epoch = int(seen.obj["spec"]["template"]["metadata"]["labels"][f"{PREFIX}epoch"])
            if found[-1:] != [epoch]:
                found.append(epoch)
        return found

    def lives_of(self, group: str) -> dict[tuple[int, str], set[str]]:
        """The uids of the pods that a group has had, by epoch and name."""
        found: dict[tuple[int, str], set[str]] = {}
        for seen in self.record.all("Pod"):
            if seen.name.rpartition("-")[0] == group:
                epoch = int(seen.obj["metadata"]["labels"][f"{PREFIX}epoch"])
                found.setdefault((epoch, seen.name), set()).add(seen.obj["metadata"]["uid"])
        return found

    def pods(self, **labels: str) -> list[Obj]:
        """Pods by labels of ours (`role`, `group`, `epoch`, ...)."""
        text = ",".join(f"{PREFIX}{key.replace('_', '-')}={value}" for key, value in labels.items())
        return self.lab.client.list("v1", "Pod", self.namespace, labels=text)

    def pod(self, name: str) -> Obj:
        """One pod."""
        found = self.lab.client.get("v1", "Pod", name, self.namespace)
        assert found is not None
        return found

    def everything(self) -> list[Obj]:
        """All LLMServices, and all that was made for them."""
        client = self.lab.client
        return client.list(*SERVICES, self.namespace) + children_in(client, self.namespace)

    def kubectl(self, *words: str) -> str:
        """What kubectl prints, in this namespace."""
        return self.lab.kubectl("--namespace", self.namespace, *words).stdout

    def explain(self, name: str = "llm") -> str:
        """What `hortator k8s explain NAME` prints."""
        options = ClusterOptions(kubeconfig=self.lab.kubeconfig, context=None, namespace=self.namespace)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            asyncio.run(explain_command.run(options, name=name, as_json=False))
        return printed.getvalue()
