"""The controllers of a cluster as explicit steps over the in-memory API: no loops, no time, no surprises.

`Controllers.step` runs each once, in a fixed order, and says whether anything changed; `settle` runs them until
nothing does. Only what the operator uses is here: StatefulSets that are Parallel and OnDelete, Deployments by
way of ReplicaSets, Jobs, garbage collection, and a scheduler that places pods by devices, labels and affinity.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from doubles.kubernetes.api import ApiError, ApiServer, Obj, children_of, key_of

MAX_STEPS = 200


class Controllers:
    """The controller manager and the scheduler."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.refuse_pod: Callable[[Obj], str] = lambda _pod: ""
        """Why the API server refuses a pod (a quota, a policy); empty: it takes it."""
        self.held_by_a_scheduler: Callable[[Obj], bool] = lambda _pod: False
        """Pods that the scheduler named in them does not place yet."""
        self.unbound_claims: set[str] = set()
        """Names of PersistentVolumeClaims that no volume is found for."""
        self._names = itertools.count()

    def settle(self, *others: Callable[[], object]) -> None:
        """Step until nothing changes; `others` are stepped too (kubelets)."""
        for _ in range(MAX_STEPS):
            before = self.api.version
            self.step()
            for other in others:
                other()
            if self.api.version == before:
                return
        raise AssertionError(f"the cluster does not come to rest in {MAX_STEPS} steps")

    def step(self) -> bool:
        """Every controller once; whether anything changed."""
        before = self.api.version
        self.stateful_sets()
        self.deployments()
        self.replica_sets()
        self.jobs()
        self.schedule()
        self.collect_garbage()
        return self.api.version != before

    # --- workloads ------------------------------------------------------------------------------------

    def stateful_sets(self) -> None:
        """Pods by ordinal, all at once; a pod that ended is replaced, a template change touches no pod."""
        for owner in self._living("StatefulSet"):
            spec = owner["spec"]
            assert spec["podManagementPolicy"] == "Parallel"
            assert spec["updateStrategy"]["type"] == "OnDelete"
            pods = {_ordinal(pod): pod for pod in children_of(self.api, "Pod", owner["metadata"]["uid"])}
            for ordinal, pod in pods.items():
                has_ended = pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}
                if (ordinal >= spec["replicas"] or has_ended) and _is_living(pod):
                    self.api.delete(key_of(pod), uid=pod["metadata"]["uid"])
            revision = f"{owner['metadata']['name']}-{_digest(spec['template'])}"
            for ordinal in range(spec["replicas"]):
                if ordinal not in pods:
                    name = f"{owner['metadata']['name']}-{ordinal}"
                    labels = {
                        "controller-revision-hash": revision,
                        "statefulset.kubernetes.io/pod-name": name,
                        "apps.kubernetes.io/pod-index": str(ordinal),
                    }
                    extra = {"hostname": name, "subdomain": spec.get("serviceName", "")}
                    self._create_pod(owner, name, spec["template"], labels=labels, extra=extra)
            self._count_pods(owner, revision=revision)

    def deployments(self) -> None:
        """One ReplicaSet per template; older ones go to zero at once."""
        for owner in self._living("Deployment"):
            spec, metadata = owner["spec"], owner["metadata"]
            digest = _digest(spec["template"])
            wanted = f"{metadata['name']}-{digest}"
            sets = {
                one["metadata"]["name"]: one for one in children_of(self.api, "ReplicaSet", metadata["uid"])
            }
            if wanted not in sets:
                template = json.loads(json.dumps(spec["template"]))
                template["metadata"].setdefault("labels", {})["pod-template-hash"] = digest
                self.api.create(
                    {
                        "apiVersion": "apps/v1",
                        "kind": "ReplicaSet",
                        "metadata": _owned(owner, wanted, spec["template"]["metadata"].get("labels", {})),
                        "spec": {"replicas": spec["replicas"], "template": template},
                    }
                )
            for name, one in sets.items():
                replicas = spec["replicas"] if name == wanted else 0
                if one["spec"]["replicas"] != replicas:
                    self.api.patch(key_of(one), {"spec": {"replicas": replicas}})
            counts = [one.get("status", {}) for one in sets.values()]
            current = sets.get(wanted, {}).get("status", {})
            status = {
                "observedGeneration": metadata["generation"],
                "replicas": sum(count.get("replicas", 0) for count in counts),
                "readyReplicas": sum(count.get("readyReplicas", 0) for count in counts),
                "availableReplicas": sum(count.get("readyReplicas", 0) for count in counts),
                "updatedReplicas": current.get("replicas", 0),
            }
            self._set_status(owner, status)

    def replica_sets(self) -> None:
        """Pods with random-looking names."""
        for owner in self._living("ReplicaSet"):
            pods = [pod for pod in children_of(self.api, "Pod", owner["metadata"]["uid"]) if _is_living(pod)]
            for _ in range(owner["spec"]["replicas"] - len(pods)):
                name = f"{owner['metadata']['name']}-{next(self._names):05d}"
                self._create_pod(owner, name, owner["spec"]["template"])
            for pod in pods[owner["spec"]["replicas"] :]:
                self.api.delete(key_of(pod))
            self._count_pods(owner)

    def jobs(self) -> None:
        """One pod until it succeeds, or fails more often than the limit."""
        for owner in self._living("Job"):
            pods = list(children_of(self.api, "Pod", owner["metadata"]["uid"]))
            phases = [pod.get("status", {}).get("phase") for pod in pods]
            succeeded, failed = phases.count("Succeeded"), phases.count("Failed")
            status: dict[str, Any] = {"succeeded": succeeded, "failed": failed}
            if succeeded >= owner["spec"]["completions"]:
                status["conditions"] = [{"type": "Complete", "status": "True"}]
                before = owner.get("status", {}).get("completionTime")
                status["completionTime"] = before or self.api.timestamp()
            elif failed > owner["spec"]["backoffLimit"]:
                message = "Job has reached the specified backoff limit"
                status["conditions"] = [
                    {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": message}
                ]
            elif len(pods) == failed:
                status["active"] = 1
                name = f"{owner['metadata']['name']}-{next(self._names):05d}"
                self._create_pod(owner, name, owner["spec"]["template"])
            self._set_status(owner, status)

    def collect_garbage(self) -> None:
        """What has only owners that are gone goes too."""
        keys = {obj["metadata"]["uid"] for kind in _all_kinds(self.api) for obj in self.api.find(kind)}
        for kind in _all_kinds(self.api):
            for obj in list(self.api.find(kind)):
                owners = obj["metadata"].get("ownerReferences", [])
                is_orphan = owners and not any(owner["uid"] in keys for owner in owners)
                if is_orphan and _is_living(obj):
                    self.api.delete(key_of(obj), uid=obj["metadata"]["uid"])

    # --- scheduling -----------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Bind every pod that fits somewhere; say why of the others."""
        for pod in list(self.api.find("Pod")):
            if pod["spec"].get("nodeName") or not _is_living(pod) or pod["spec"].get("schedulingGates"):
                continue
            nodes = self.api.find("Node")
            if self.held_by_a_scheduler(pod):
                self._cannot_place(pod, len(nodes), "pod group is not ready")
                continue
            if self.unbound_claims & _claims(pod):
                self._cannot_place(pod, len(nodes), "pod has unbound immediate PersistentVolumeClaims")
                continue
            reasons: dict[str, int] = {}
            for node in nodes:
                why = self._why_not(pod, node)
                if not why:
                    self._bind(pod, node)
                    break
                reasons[why] = reasons.get(why, 0) + 1
            else:
                told = ", ".join(f"{count} {why}" for why, count in sorted(reasons.items()))
                self._cannot_place(pod, len(nodes), told)

    def _cannot_place(self, pod: Obj, num_nodes: int, told: str) -> None:
        message = f"0/{num_nodes} nodes are available: {told}."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._set_condition(pod, condition)

    def _why_not(self, pod: Obj, node: Obj) -> str:
        if node.get("spec", {}).get("unschedulable"):
            return "node(s) were unschedulable"
        tolerated = {toleration.get("key") for toleration in pod["spec"].get("tolerations", [])}
        if any(taint["key"] not in tolerated for taint in node.get("spec", {}).get("taints", [])):
            return "node(s) had untolerated taint"
        ready = [one for one in node.get("status", {}).get("conditions", []) if one["type"] == "Ready"]
        if ready and ready[0]["status"] != "True":
            return "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"
        labels = node["metadata"].get("labels", {})
        selector = pod["spec"].get("nodeSelector", {})
        if any(labels.get(name) != value for name, value in selector.items()) or not _affine(pod, node):
            return "node(s) didn't match Pod's node affinity/selector"
        allocatable = node.get("status", {}).get("allocatable", {})
        for name, amount in _requests(pod).items():
            taken = sum(
                _requests(other).get(name, 0.0)
                for other in self.api.find("Pod")
                if other["spec"].get("nodeName") == node["metadata"]["name"]
                and other.get("status", {}).get("phase") not in {"Succeeded", "Failed"}
            )
            if taken + amount > quantity(allocatable.get(name, "0")):
                return f"Insufficient {name}"
        return ""

    def _bind(self, pod: Obj, node: Obj) -> None:
        self.api.patch(key_of(pod), {"spec": {"nodeName": node["metadata"]["name"]}})
        fresh = self.api.get(key_of(pod))
        self._set_condition(fresh, {"type": "PodScheduled", "status": "True"})

    # --- inside ---------------------------------------------------------------------------------------

    def _living(self, kind: str) -> Iterator[Obj]:
        return iter([obj for obj in self.api.find(kind) if _is_living(obj)])

    def _create_pod(
        self, owner: Obj, name: str, template: Obj, *, labels: Any = None, extra: Any = None
    ) -> None:
        metadata = template.get("metadata", {})
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": _owned(owner, name, metadata.get("labels", {}) | (labels or {}))
            | ({"annotations": metadata["annotations"]} if metadata.get("annotations") else {}),
            "spec": json.loads(json.dumps(template["spec"])) | (extra or {}),
        }
        why = self.refuse_pod(pod)
        if why:
            self._warn(owner, "FailedCreate", f"create Pod {name} in {owner['kind']} failed error: {why}")
            return
        try:
            self.api.create(pod)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    def _warn(self, about: Obj, reason: str, message: str) -> None:
        metadata = about["metadata"]
        name = f"{metadata['name']}.{hashlib.sha256(message.encode()).hexdigest()[:10]}"
        if any(event["metadata"]["name"] == name for event in self.api.find("Event")):
            return
        involved = {"kind": about["kind"], "apiVersion": about["apiVersion"], "name": metadata["name"]}
        involved |= {"namespace": metadata["namespace"], "uid": metadata["uid"]}
        self.api.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": metadata["namespace"]},
                "involvedObject": involved,
                "type": "Warning",
                "reason": reason,
                "message": message,
                "count": 1,
                "lastTimestamp": self.api.timestamp(),
            }
        )

    def _count_pods(self, owner: Obj, *, revision: str = "") -> None:
        pods = list(children_of(self.api, "Pod", owner["metadata"]["uid"]))
        ready = [pod for pod in pods if is_ready(pod) and _is_living(pod)]
        status: dict[str, Any] = {
            "observedGeneration": owner["metadata"]["generation"],
            "replicas": len(pods),
            "readyReplicas": len(ready),
            "availableReplicas": len(ready),
        }
        if revision:
            current = [
                pod for pod in pods if pod["metadata"]["labels"].get("controller-revision-hash") == revision
            ]
            status |= {"updateRevision": revision, "updatedReplicas": len(current)}
        self._set_status(owner, status)

    def _set_status(self, obj: Obj, status: Obj) -> None:
        if obj.get("status", {}) != status:
            self.api.replace(obj | {"status": status}, manager="controller", subresource="status")

    def _set_condition(self, pod: Obj, condition: Obj) -> None:
        status = pod.get("status", {})
        old = [one for one in status.get("conditions", []) if one["type"] == condition["type"]]
        if old and {**old[0], "lastTransitionTime": ""} == condition | {"lastTransitionTime": ""}:
            return
        others = [one for one in status.get("conditions", []) if one["type"] != condition["type"]]
        entry = condition | {"lastTransitionTime": self.api.timestamp()}
        new = status | {"conditions": [*others, entry]}
        self.api.replace(pod | {"status": new}, manager="scheduler", subresource="status")


def is_ready(pod: Obj) -> bool:
    """Whether its condition Ready is True."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def quantity(text: Any) -> float:
    """A resource quantity as a number."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 1e3, "M": 1e6, "G": 1e9}
    for suffix, factor in units.items():
        if str(text).endswith(suffix):
            return float(str(text)[: -len(suffix)]) * factor
    return float(text)


def _all_kinds(api: ApiServer) -> set[str]:
    return {write.key[1] for write in api.writes}


def _is_living(obj: Obj) -> bool:
    return "deletionTimestamp" not in obj["metadata"]


def _ordinal(pod: Obj) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def _owned(owner: Obj, name: str, labels: dict[str, str]) -> Obj:
    metadata = owner["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": name,
        "namespace": metadata["namespace"],
        "labels": dict(labels),
        "ownerReferences": [reference],
    }


def _requests(pod: Obj) -> dict[str, float]:
    sums: dict[str, float] = {}
    for container in pod["spec"].get("containers", []):
        resources = container.get("resources", {})
        for name, amount in (resources.get("limits", {}) | resources.get("requests", {})).items():
            sums[name] = sums.get(name, 0.0) + quantity(amount)
    return sums


def _claims(pod: Obj) -> set[str]:
    volumes = pod["spec"].get("volumes", [])
    return {one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one}


def _affine(pod: Obj, node: Obj) -> bool:
    labels, fields = node["metadata"].get("labels", {}), {"metadata.name": node["metadata"]["name"]}
    node_affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(
        all(_holds(expression, labels) for expression in term.get("matchExpressions", []))
        and all(_holds(expression, fields) for expression in term.get("matchFields", []))
        for term in required["nodeSelectorTerms"]
    )


def _holds(expression: Obj, labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case operator:
            raise AssertionError(operator)
