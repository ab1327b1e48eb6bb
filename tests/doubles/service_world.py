"""One LLMService in an in-memory cluster, with engines that obey the rules of joining and a scheduler that drains.

The world moves in ticks: the operator looks (and can be killed after any write), controllers and kubelets take a
step, engines join or end, requests finish, a second passes. Everything is deterministic.

Engines: each run of a container is a boot. A boot joins the epoch in its pod's label, of the incarnation that its
environment names (so do the processes of a pod: that is all they know); the second boot of a rank in it is refused and ends, and when any boot of an epoch has ended the others end as well. A member is
ready when every member of its epoch has joined with its only boot and the scheduler is up.

What must hold whatever happens is checked as it happens, and collected in `broken`:

- Ready is never written as True unless every wanted group has all members of its epoch, joined once and ready;
- Available is never written as True when a role had no group with all pods ready as the operator looked;
- the epoch in a template only grows, and the operator admits an epoch at most once;
- a group that serves is closed or deleted on purpose only with nothing in flight, or when the time is up;
  it may be closed at once while it is losing a member anyway;
- a disruption budget is open only while the group drains with nothing in flight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from doubles.kubernetes.api import ApiError, ApiServer, Key, Obj, Write, key_of
from doubles.kubernetes.controllers import Controllers
from doubles.kubernetes.controllers import is_ready as is_pod_ready
from doubles.kubernetes.kubelets import Act, End, Finish, Kubelets, Run, Wait
from hortator.api.parse import parse
from hortator.api.v1alpha1 import API_VERSION, SCALER_KIND, LLMService
from hortator.operator import names
from hortator.operator.accepted import Accepted, accepted, record_of
from hortator.operator.desired import Desired, Options, desired
from hortator.operator.manifests.gang import PROVIDERS
from hortator.operator.manifests.group import with_token
from hortator.operator.objects import Ref
from hortator.operator.observed import Meta, Observed, Refusal, WorkerLoad, observe
from hortator.operator.options import Images
from hortator.operator.plan import (
    Action,
    Apply,
    Create,
    Delete,
    PatchLabels,
    Plan,
    Scale,
    StartDrain,
    StatusOf,
    plan,
)
from hortator.operator.pulls import is_pull, refusal_of
from hortator.operator.scalers import scaled
from hortator.operator.status.explain import explain

NAMESPACE = "default"
START = datetime(2026, 11, 26, 10, 0, 0, tzinfo=UTC)
OPTIONS = Options(images=Images.of_version("1.2.3"))
_OBSERVED_KINDS = (
    "StatefulSet", "Pod", "Service", "PodDisruptionBudget", "Deployment", "ServiceAccount", "ControllerRevision",
    "PersistentVolumeClaim", "Job", "NetworkPolicy", "Node", "Event", "PodGroup", "LLMServiceScaler",
)  # fmt: skip


class KilledError(Exception):
    """The operator died right after a write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One run of an engine container."""

    pod_uid: str
    run: int


@dataclass(slots=True)
class Epoch:
    """Who has joined an epoch of a group."""

    joined: dict[int, Boot] = field(default_factory=dict)
    is_over: bool = False
    """A boot of it has ended: the others end as well."""


class _LightApi(ApiServer):
    """Without watches, and without the record of who set what by others than the operator: nobody reads them."""

    def _tell(self, key: Key, before: Obj | None, after: Obj | None) -> None:
        pass

    def _update(self, key: Key, new: Obj, *, manager: str, verb: str, owners: Any = None) -> Obj:
        others = None if manager == names.FIELD_MANAGER else dict(self._records[key].owners)
        return super()._update(key, new, manager=manager, verb=verb, owners=owners or others)

    def _commit(self, key: Key, record: Any, new: Obj, *, verb: str, manager: str) -> Obj:
        if manager == names.FIELD_MANAGER:
            return super()._commit(key, record, new, verb=verb, manager=manager)
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        if record.obj:
            new["metadata"]["managedFields"] = record.obj["metadata"].get("managedFields", [])
        record.obj = new
        self.writes.append(Write(verb=verb, key=key, manager=manager))
        return new


class World:
    """See the module."""

    def __init__(self, manifest: Obj, *, nodes: dict[str, Obj] | None = None) -> None:
        self.clock = START
        self.api = _LightApi(now=self._now)
        self.controllers = Controllers(self.api)
        self.kubelets = Kubelets(self.api, self._act)
        for name, arguments in (nodes or {"n-0": {}}).items():
            self.kubelets.add_node(name, **arguments)
        self.broken: list[str] = []
        self.epochs: dict[tuple[str, str, int], Epoch] = {}
        """By group, incarnation and number: a group that is made anew counts from 1 again."""
        self.num_refused = 0
        """Second boots of a rank in an epoch."""
        self.acts: dict[str, Act | None] = {}
        """By pod name: what its engine does instead of joining; None: it ends in every epoch."""
        self.acts_of_images: dict[str, Act] = {}
        """By image of an engine container, in the same way."""
        self.in_flight: dict[str, int] = {}
        self.draining: dict[str, str] = {}
        """worker id -> boot id that was told to drain."""
        self.is_scheduler_answering = True
        self.is_traffic_on = False
        self.is_allowed_to_see_nodes = True
        self.refuses_pulls = ""
        """What the API server has against Jobs of pulls."""
        self.pull_refusal: Refusal | None = None
        """What the operator remembers of that."""
        self.options = OPTIONS
        """Those of the operator that looks next: another version of it has others."""
        self.num_writes = 0
        self.kills_always = False
        """The operator dies after every write."""
        self.clones: list[World] | None = None
        """When a list: a copy of the world right after each write of the operator, which has died there."""
        self.actions: list[Action] = []
        self.events: list[str] = []
        self._epoch_seen: dict[str, int] = {}
        self._admitted: set[tuple[str, int]] = set()
        self._desired: tuple[object, Desired] | None = None
        self._could_serve = False
        self.service_key: Key = key_of(self.api.create(manifest))

    def clone(self) -> World:
        """An independent copy."""
        shared = {
            id(log): list(log) for log in (self.actions, self.events, self.api.writes, self.api._changes)
        }
        return copy.deepcopy(self, shared)

    def _now(self) -> datetime:
        return self.clock

    # --- what a person does ---------------------------------------------------------------------------

    def edit(self, patch: Obj) -> None:
        """Change the spec of the LLMService."""
        self.api.patch(self.service_key, {"spec": patch})

    def add_scaler(self, name: str, role: str, **spec: object) -> None:
        """An LLMServiceScaler of the service."""
        said = {"serviceName": self.service_key[3], "role": role, **spec}
        metadata = {"name": name, "namespace": NAMESPACE}
        self.api.create({"apiVersion": API_VERSION, "kind": SCALER_KIND, "metadata": metadata, "spec": said})

    def scale(self, name: str, replicas: int) -> None:
        """`kubectl scale` of an LLMServiceScaler."""
        self.api.patch(scaler_key(name), {"spec": {"replicas": replicas}}, subresource="scale")

    def scaler(self, name: str) -> Obj:
        return self.api.get(scaler_key(name))

    def cordon(self, node: str, *, is_cordoned: bool = True) -> None:
        self.api.patch(("v1", "Node", "", node), {"spec": {"unschedulable": is_cordoned}})

    def request_drain(self, group: str) -> None:
        """As `hortator k8s drain` does: the group is to finish its epoch and begin the next."""
        annotations = {names.ANNOTATION_DRAIN_REQUESTED: str(self.epoch_of(group))}
        self.api.patch(
            ("apps/v1", "StatefulSet", NAMESPACE, group), {"metadata": {"annotations": annotations}}
        )

    def delete_pod(self, name: str) -> None:
        self.api.delete(("v1", "Pod", NAMESPACE, name))

    def crash(self, name: str) -> None:
        """The engine of a pod ends, and the kubelet starts its container again."""
        self.kubelets.end(NAMESPACE, name, exit_code=1)

    def lose_node(self, name: str) -> None:
        self.kubelets.lose_node(name)

    def find_node(self, name: str) -> None:
        """It is there again, and what was on it has been deleted meanwhile or goes on."""
        node = self.api.get(("v1", "Node", "", name))
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": self.api.timestamp()}
        status = node["status"] | {"conditions": [condition]}
        self.api.replace(node | {"status": status}, manager="kubelet", subresource="status")

    def remove_node(self, name: str) -> None:
        """Its Node is deleted, and Kubernetes deletes for good the pods that stood on it."""
        self.api.delete(("v1", "Node", "", name))
        for pod in list(self.api.find("Pod")):
            if pod["spec"].get("nodeName") == name and "deletionTimestamp" not in pod["metadata"]:
                self.api.delete(key_of(pod), grace_s=0)

    # --- time -----------------------------------------------------------------------------------------

    def tick(self, *, with_operator: bool = True) -> bool:
        """One turn of everything; whether the operator found nothing to do and the cluster stood still."""
        before = self.api.version
        looked = self.look() if with_operator else None
        self.controllers.step()
        self.kubelets.step()
        self._serve()
        self._check()
        is_still = self.api.version == before and (looked is not None or not with_operator)
        wake = looked.wake_after_s if looked is not None else None
        self.clock += timedelta(seconds=wake if is_still and wake is not None and wake > 1 else 1)
        return is_still and wake is None

    def settle(self, *, limit: int = 400) -> None:
        """Tick until nothing happens and nothing is waited for."""
        still = 0
        for _ in range(limit):
            still = still + 1 if self.tick() else 0
            if still >= 3:
                return
        raise AssertionError(f"not at rest after {limit} ticks; last {self.actions[-6:]}\n{self.explain()}")

    def until(self, condition: Callable[[], bool], *, limit: int = 400) -> None:
        """Tick until a condition holds."""
        for _ in range(limit):
            if condition():
                return
            self.tick()
        raise AssertionError(f"still not so after {limit} ticks\n{self.explain()}")

    # --- the operator ---------------------------------------------------------------------------------

    def look(self) -> Plan | None:
        """Observe, plan, carry out. None when the operator was killed, or somebody else was faster."""
        self._could_serve = self._has_a_ready_group_per_role()
        try:
            step = self.plan()
            for action in step.actions:
                self._carry_out(action)
            if step.status_changed:
                self._write_status(step.status)
            for one in step.scalers:
                self._write_scaler_status(one)
            self.events += [f"{event.type} {event.reason}" for event in step.events]
        except KilledError:
            return None
        except ApiError as error:
            if error.status == 409:
                return None
            raise
        return step

    def plan(self) -> Plan:
        """What the operator would do now."""
        meta, service, wanted, problems, observed = self._seen()
        return plan(service, meta=meta, desired=wanted, problems=problems, observed=observed, now=self.clock)

    def _wanted(self, kept: Accepted, service: LLMService, uid: str) -> Desired:
        """As `carried_out` has it; kept from look to look, because it takes long to make."""
        revisions = self.api.find("ControllerRevision")
        numbers = tuple(role.replicas for role in service.spec.roles)
        key = kept.generation, numbers, self.options, tuple(one["metadata"]["uid"] for one in revisions)
        if self._desired is None or self._desired[0] != key:
            wanted = desired(
                service, uid=uid, options=self.options, generation=kept.generation, revisions=revisions
            )
            record = record_of(kept.service, generation=kept.generation, owner=wanted.owner)
            self._desired = key, replace(wanted, record=record)
        return self._desired[1]

    def explain(self) -> str:
        meta, service, wanted, problems, observed = self._seen()
        return explain(
            service, meta=meta, desired=wanted, problems=problems, observed=observed, now=self.clock
        )

    def _kept(self) -> Accepted | None:
        """The spec that is carried out."""
        obj = self.api.get(self.service_key)
        return accepted(obj, parse(obj), known=self.api.find("ControllerRevision"))

    def _seen(self) -> tuple[Meta, LLMService | None, Desired | None, tuple, Observed]:
        obj = self.api.get(self.service_key)
        parsed, kept = parse(obj), self._kept()
        meta = Meta(
            namespace=NAMESPACE,
            name=obj["metadata"]["name"],
            uid=obj["metadata"]["uid"],
            generation=obj["metadata"]["generation"],
            status=obj.get("status", {}),
        )
        kinds = [kind for kind in _OBSERVED_KINDS if kind != "Node" or self.is_allowed_to_see_nodes]
        objects = [one for kind in kinds for one in self.api.find(kind)]
        there = {name for name, one in PROVIDERS.items() if self.api.installed.intersection(one.needs)}
        observed = observe(
            objects,
            meta=meta,
            loads=self.loads(),
            gang_providers=frozenset(there),
            pull_refusal=self.pull_refusal,
        )
        if kept is None:
            return meta, None, None, tuple(parsed.problems), observed
        service = scaled(kept.service, observed.scalers)
        return meta, service, self._wanted(kept, service, meta.uid), tuple(parsed.problems), observed

    def _carry_out(self, action: Action) -> None:
        self.actions.append(action)
        before = self.api.version, dict(self.draining)
        match action:
            case Apply(obj=obj):
                self._before_apply(obj)
                self.api.apply(obj, manager=names.FIELD_MANAGER, force=True)
            case Create(obj=obj) if is_pull(obj) and self.refuses_pulls:
                self.pull_refusal = refusal_of(self.pull_refusal, self.refuses_pulls, now=self.clock)
            case Create(obj=obj):
                self.pull_refusal = None if is_pull(obj) else self.pull_refusal
                try:
                    self.api.create(with_token(obj, "t") if obj["kind"] == "Secret" else obj)
                except ApiError as error:
                    if error.reason != "AlreadyExists":
                        raise
            case Delete(ref=ref, uid=uid, grace_s=grace_s):
                self._before_delete(ref)
                self.api.delete(_key(ref), uid=uid, grace_s=grace_s)
            case PatchLabels(ref=ref, labels=labels):
                self.api.patch(_key(ref), {"metadata": {"labels": dict(labels)}})
            case Scale(ref=ref, replicas=replicas):
                patch = {"spec": {"replicas": replicas}}
                self.api.patch(_key(ref), patch, manager=names.FIELD_MANAGER, subresource="scale")
            case StartDrain(worker_id=worker_id):
                load = self.loads().get(worker_id)
                if load is not None:
                    self.draining[worker_id] = load.boot_id
        if (self.api.version, self.draining) != before:
            self._wrote()

    def _write_scaler_status(self, one: StatusOf) -> None:
        live = self.api.get(_key(one.ref))
        if live.get("status", {}) != one.status:
            head = {"apiVersion": one.ref.api_version, "kind": one.ref.kind}
            body = head | {"metadata": {"name": one.ref.name, "namespace": NAMESPACE}, "status": one.status}
            self.api.apply(body, manager=names.FIELD_MANAGER, force=True, subresource="status")
            self._wrote()

    def _write_status(self, status: Obj) -> None:
        ready = next(one for one in status["conditions"] if one["type"] == "Ready")
        if ready["status"] == "True" and not self.is_truly_ready():
            self.broken.append(f"{self.clock}: Ready is written as True: {self.truth()}")
        available = next(one for one in status["conditions"] if one["type"] == "Available")
        if available["status"] == "True" and not self._could_serve:
            self.broken.append(f"{self.clock}: Available is written as True, and no group of a role is ready")
        head = {"apiVersion": self.service_key[0], "kind": self.service_key[1]}
        body = head | {"metadata": {"name": self.service_key[3], "namespace": NAMESPACE}, "status": status}
        self.api.apply(body, manager=names.FIELD_MANAGER, force=True, subresource="status")
        self._wrote()

    def _wrote(self) -> None:
        self.num_writes += 1
        if self.clones is not None:
            clones, self.clones = self.clones, None
            clones.append(self.clone())
            self.clones = clones
        if self.kills_always:
            raise KilledError

    # --- engines and scheduler ------------------------------------------------------------------------

    def loads(self) -> dict[str, WorkerLoad]:
        """The scheduler's snapshot: every engine whose epoch is complete reports."""
        found: dict[str, WorkerLoad] = {}
        if not self.is_scheduler_answering:
            return found
        for group, statefulset in self.statefulsets().items():
            number = self.epoch_of(group)
            made = _incarnation(statefulset["spec"]["template"])
            epoch = self.epochs.get((group, made, number))
            if epoch is None or epoch.is_over or not self._is_complete(group, epoch):
                continue
            parsed = names.parse_group_name(group)
            assert parsed is not None
            worker_id = names.worker_id(parsed.role, parsed.index)
            boot_id = f"{number}-{made}-{epoch.joined[0].pod_uid[:8]}"
            found[worker_id] = WorkerLoad(
                worker_id=worker_id,
                boot_id=boot_id,
                state="ready",
                num_in_flight=self.in_flight.get(worker_id, 0),
                num_ranks=8,
                is_draining=self.draining.get(worker_id) == boot_id,
            )
        return found

    def _serve(self) -> None:
        """Requests finish; new ones come to those who take them."""
        for worker_id, load in self.loads().items():
            if load.is_draining:
                self.in_flight[worker_id] = max(0, self.in_flight.get(worker_id, 0) - 1)
            else:
                self.in_flight[worker_id] = 2 if self.is_traffic_on else 0

    def _act(self, pod: Obj) -> Act:
        """What the container of a pod does now."""
        name = pod["metadata"]["name"]
        if pod["metadata"]["labels"].get(names.LABEL_COMPONENT) == names.COMPONENT_CACHE:
            return self.acts.get(names.COMPONENT_CACHE) or Finish()
        if pod["metadata"]["labels"].get(names.LABEL_COMPONENT) == names.COMPONENT_PULL:
            by_image = self.acts_of_images.get(pod["spec"]["containers"][0]["image"])
            return self.acts.get(pod["spec"]["nodeName"]) or by_image or Finish()
        if names.parse_pod_name(name) is None:
            component = pod["metadata"]["labels"].get(names.LABEL_COMPONENT, "")
            return self.acts.get(component) or Run()
        if name in self.acts:
            return self.acts[name] or End()
        image = pod["spec"]["containers"][0]["image"]
        if image in self.acts_of_images:
            return self.acts_of_images[image]
        group, ordinal = name.rpartition("-")[0], int(name.rpartition("-")[2])
        number = int(pod["metadata"]["labels"][names.LABEL_EPOCH])
        epoch = self.epochs.setdefault((group, _incarnation(pod), number), Epoch())
        status = (pod.get("status", {}).get("containerStatuses") or [{}])[0]
        boot = Boot(pod_uid=pod["metadata"]["uid"], run=status.get("restartCount", 0))
        first = epoch.joined.setdefault(ordinal, boot)
        if first != boot:
            self.num_refused += 1
            epoch.is_over = True
            if boot.run >= 3:
                return Wait(reason="CrashLoopBackOff", message="back-off restarting failed container")
            return End()
        if epoch.is_over:
            return End()
        return Run(is_ready=self._is_complete(group, epoch))

    def _is_complete(self, group: str, epoch: Epoch) -> bool:
        """Every member of the epoch has joined, and runs as it joined."""
        size = self._size(group)
        if size == 0 or set(epoch.joined) != set(range(size)):
            return False
        for ordinal, boot in epoch.joined.items():
            pod = self._pod(f"{group}-{ordinal}")
            status = ((pod or {}).get("status", {}).get("containerStatuses") or [{}])[0]
            is_same = pod is not None and pod["metadata"]["uid"] == boot.pod_uid
            if not is_same or status.get("restartCount", 0) != boot.run:
                epoch.is_over = True  # a member that was there is not any more
                return False
        return True

    def _pod(self, name: str) -> Obj | None:
        return next((pod for pod in self.api.find("Pod") if pod["metadata"]["name"] == name), None)

    def _size(self, group: str) -> int:
        for pod in self.api.find("Pod"):
            if pod["metadata"]["name"].rpartition("-")[0] == group:
                env = pod["spec"]["containers"][0]["env"]
                return int(next(one["value"] for one in env if one["name"] == "HORTATOR_WORKER_GROUP_SIZE"))
        return 0

    # --- what must hold -------------------------------------------------------------------------------

    def statefulsets(self) -> dict[str, Obj]:
        return {one["metadata"]["name"]: one for one in self.api.find("StatefulSet")}

    def epoch_of(self, group: str) -> int:
        return int(self.statefulsets()[group]["spec"]["template"]["metadata"]["labels"][names.LABEL_EPOCH])

    def status(self) -> Obj:
        return self.api.get(self.service_key).get("status", {})

    def condition(self, kind: str) -> Obj:
        found = [one for one in self.status().get("conditions", []) if one["type"] == kind]
        return found[0] if found else {}

    def is_ready(self) -> bool:
        return self.condition("Ready").get("status") == "True"

    def is_truly_up(self, group: str) -> bool:
        """Its engine reports: every member has joined its epoch."""
        parsed = names.parse_group_name(group)
        return parsed is not None and names.worker_id(parsed.role, parsed.index) in self.loads()

    def is_truly_ready(self) -> bool:
        return all(self.truth().values())

    def truth(self) -> dict[str, bool]:
        """By wanted group: all members of the template's epoch are there, joined once, and ready."""
        wanted = self._seen()[2]
        assert wanted is not None
        found: dict[str, bool] = {}
        for group in wanted.groups:
            statefulset = self.statefulsets().get(group.name)
            if statefulset is None or statefulset["spec"]["replicas"] != group.num_members:
                found[group.name] = False
                continue
            number = self.epoch_of(group.name)
            pods = [self._pod(f"{group.name}-{ordinal}") for ordinal in range(group.num_members)]
            found[group.name] = (
                statefulset["spec"]["template"]["metadata"]["labels"][names.LABEL_REVISION] == group.revision
                and all(
                    pod is not None
                    and is_pod_ready(pod)
                    and "deletionTimestamp" not in pod["metadata"]
                    and pod["metadata"]["labels"][names.LABEL_EPOCH] == str(number)
                    for pod in pods
                )
                and (
                    epoch := self.epochs.get(
                        (group.name, _incarnation(statefulset["spec"]["template"]), number)
                    )
                )
                is not None
                and not epoch.is_over
                and self._is_complete(group.name, epoch)
            )
        return found

    def _has_a_ready_group_per_role(self) -> bool:
        served: dict[str, bool] = {}
        for name, statefulset in self.statefulsets().items():
            pods = [self._pod(f"{name}-{ordinal}") for ordinal in range(self._size(name))]
            is_up = bool(pods) and all(pod is not None and is_pod_ready(pod) for pod in pods)
            role = statefulset["metadata"]["labels"][names.LABEL_ROLE]
            served[role] = served.get(role, False) or is_up
        return bool(served) and all(served.values())

    def _before_apply(self, obj: Obj) -> None:
        name = obj["metadata"]["name"]
        if obj["kind"] == "PodGroup":
            self._before_pod_group(obj)
        live = self.statefulsets().get(name)
        if obj["kind"] == "PodDisruptionBudget" and obj["spec"]["maxUnavailable"] > 0:
            self._must_be_drained(name, live, "its budget is opened")
        if obj["kind"] != "StatefulSet" or live is None:
            return
        if live["spec"]["replicas"] == 0 and obj["spec"]["replicas"] > 0:
            self._admit(name, live, obj)
        is_closing = live["spec"]["replicas"] > 0 and obj["spec"]["replicas"] == 0
        has_failed = names.ANNOTATION_LAST_FAILURE in obj["metadata"]["annotations"]
        if is_closing and not has_failed and not self._is_losing_a_member(name, live):
            self._must_be_drained(name, live, "it is closed")

    def _admit(self, name: str, live: Obj, obj: Obj) -> None:
        """The operator opens an epoch. (One that a person opens by hand is not its doing.)"""
        epoch = int(obj["spec"]["template"]["metadata"]["labels"][names.LABEL_EPOCH])
        named = gang_of(obj["spec"]["template"])
        if named and named not in {one["metadata"]["name"] for one in self.api.find("PodGroup")}:
            self.broken.append(f"{self.clock}: {name} gets pods of gang {named}, which is not there")
        admission = live["metadata"]["uid"], epoch
        if admission in self._admitted:
            self.broken.append(f"{self.clock}: epoch {epoch} of {name} was admitted twice")
        self._admitted.add(admission)

    def _before_pod_group(self, obj: Obj) -> None:
        """A gang is made for a group that is about to get pods, and has none."""
        labels = {key: obj["metadata"]["labels"][key] for key in (names.LABEL_ROLE, names.LABEL_GROUP)}
        statefulsets = self.api.find("StatefulSet", **labels)
        is_closed = [one["spec"]["replicas"] for one in statefulsets] == [0]
        if not is_closed or self.api.find("Pod", **labels):
            self.broken.append(
                f"{self.clock}: gang {obj['metadata']['name']} is made for a group that is not closed"
            )

    def _before_delete(self, ref: Ref) -> None:
        if ref.kind == "PodGroup" and ref.name in {gang_of(pod) for pod in self.api.find("Pod")}:
            self.broken.append(f"{self.clock}: gang {ref.name} is deleted, and has pods")
        if ref.kind == "StatefulSet":
            self._must_be_drained(ref.name, self.statefulsets().get(ref.name), "it is deleted")

    def _must_be_drained(self, name: str, statefulset: Obj | None, what: str) -> None:
        parsed = names.parse_group_name(name)
        if statefulset is None or parsed is None:
            return
        load = self.loads().get(names.worker_id(parsed.role, parsed.index))
        if load is None or load.num_in_flight == 0 or not self.is_scheduler_answering:
            return
        started = statefulset["metadata"].get("annotations", {}).get(names.ANNOTATION_DRAIN_STARTED_AT)
        kept = self._kept()
        assert kept is not None
        timeout = float(kept.service.spec.drain.timeout_s)
        if started and self.clock >= datetime.fromisoformat(started) + timedelta(seconds=timeout):
            return
        self.broken.append(f"{self.clock}: {name} has {load.num_in_flight} requests in flight when {what}")

    def _is_losing_a_member(self, name: str, statefulset: Obj) -> bool:
        """A pod or its node went by itself, or somebody took it: its requests cannot end there any more."""
        pods = [self._pod(f"{name}-{ordinal}") for ordinal in range(self._size(name))]
        return statefulset["spec"]["replicas"] < len(pods) or any(
            pod is None
            or "deletionTimestamp" in pod["metadata"]
            or self._is_lost(pod["spec"].get("nodeName"))
            for pod in pods
        )

    def _is_lost(self, node: str | None) -> bool:
        found = next((one for one in self.api.find("Node") if one["metadata"]["name"] == node), None)
        conditions = (found or {}).get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] != "True" for one in conditions)

    def _check(self) -> None:
        for name, statefulset in self.statefulsets().items():
            uid, epoch = statefulset["metadata"]["uid"], self.epoch_of(name)
            if epoch < self._epoch_seen.get(uid, 0):
                self.broken.append(f"{self.clock}: epoch of {name} went back to {epoch}")
            self._epoch_seen[uid] = epoch


def gang_of(pod: Obj) -> str:
    """The PodGroup that a pod, or a template of pods, names."""
    metadata = pod["metadata"]
    by_annotation = metadata.get("annotations", {}).get(names.VOLCANO_GROUP, "")
    return by_annotation or metadata.get("labels", {}).get(names.COSCHEDULING_GROUP, "")


def scaler_key(name: str) -> Key:
    """Of an LLMServiceScaler."""
    return API_VERSION, SCALER_KIND, NAMESPACE, name


def _incarnation(pod: Obj) -> str:
    """What the processes of a pod are told of the group's making."""
    env = pod["spec"]["containers"][0]["env"]
    return next((one.get("value", "") for one in env if one["name"] == "HORTATOR_WORKER_INCARNATION"), "")


def _key(ref: Ref) -> Key:
    return ref.api_version, ref.kind, ref.namespace, ref.name


def a_manifest(
    *,
    backend: str = "Simulated",
    prefill: int | None = None,
    decode: int | None = None,
    aggregated: int | None = 2,
    nodes: int = 2,
    gpus_per_node: int = 4,
    **spec: object,
) -> Obj:
    """An LLMService; either `aggregated` groups, or `prefill` and `decode` ones."""
    counts = {"Prefill": prefill, "Decode": decode}
    if prefill is None and decode is None:
        counts = {"Aggregated": aggregated}
    size = nodes * gpus_per_node
    roles = [
        {
            "name": name,
            "replicas": count,
            "nodes": nodes,
            "gpusPerNode": gpus_per_node,
            "resources": {"cpu": "1", "memory": "1Gi"},
            "parallelism": {"attentionDP": size, "expert": size},
        }
        for name, count in counts.items()
        if count is not None
    ]
    uri = "hf://deepseek-ai/DeepSeek-V3"
    return {
        "apiVersion": "serving.hortator.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": "demo", "namespace": NAMESPACE},
        "spec": {
            "model": {"uri": uri},
            "engine": {"backend": backend},
            "topology": "Aggregated" if "Aggregated" in counts else "PrefillDecode",
            "roles": roles,
            **spec,
        },
    }
