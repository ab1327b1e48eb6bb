"""Carrying out what was planned, and learning from it.

Every answer of the API server goes into the inventory at once, so that the next look sees the own writes.
After a conflict, and when an object is not there, it is read again before anybody plans from it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from hortator.operator import names
from hortator.operator.certificate_keeper import CertificateKeeper
from hortator.operator.certificates import AUTHORITY
from hortator.operator.cluster import AlreadyExistsError, Cluster, ConflictError, NotFoundError
from hortator.operator.inventory import Inventory
from hortator.operator.manifests.group import with_token
from hortator.operator.manifests.security import TLS_VOLUME
from hortator.operator.metrics import OperatorMetrics
from hortator.operator.objects import Obj, Ref, ref_of
from hortator.operator.observed import read_memory
from hortator.operator.plan import (
    Action,
    Apply,
    Create,
    Delete,
    MakeCertificates,
    PatchLabels,
    Scale,
    StartDrain,
)
from hortator.operator.schedulers import SchedulerAt, Schedulers
from hortator.operator.work_queue import Key
from hortator.runtime.identity import Identity

IDENTITY_BYTES = 32


class Executor:
    """Writes to the cluster what plans ask for."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        inventory: Inventory,
        schedulers: Schedulers,
        certificates: CertificateKeeper,
        metrics: OperatorMetrics,
        told_at: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cluster` is the guarded one: it refuses writes of a process that does not lead."""
        self._cluster = cluster
        self._inventory = inventory
        self._schedulers = schedulers
        self._certificates = certificates
        self._metrics = metrics
        self._told_at = told_at
        self._num_writes: dict[Key, int] = {}
        self._written: dict[Key, dict[Ref, tuple[Obj, Obj]]] = {}
        """The last status written of each object, and what the API server made of it."""
        self._applied: dict[Key, dict[Ref, tuple[str, str]]] = {}
        """Digests of what was applied last, and of what became of it; see `is_pointless`."""

    def num_writes(self, key: Key) -> int:
        """How many actions about a service were carried out so far."""
        return self._num_writes.get(key, 0)

    def forget(self, key: Key) -> None:
        """The service is gone."""
        self._num_writes.pop(key, None)
        self._written.pop(key, None)
        self._applied.pop(key, None)

    def is_pointless(self, key: Key, action: Action) -> bool:
        """Whether exactly this was applied before, and nothing has changed since.

        An API server that is older than a field drops it: applying it again and again would not help.
        """
        if not isinstance(action, Apply):
            return False
        ref = ref_of(action.obj)
        live, before = self._inventory.get(ref), self._applied.get(key, {}).get(ref)
        return live is not None and before == (_digest(action.obj), _digest(_kept(live)))

    async def carry_out(self, key: Key, action: Action) -> None:
        """Do it. Raises ClusterError."""
        try:
            match action:
                case Apply(obj=obj):
                    await self._apply(key, obj)
                case Create(obj=obj):
                    await self._create(obj)
                case Delete(ref=ref, uid=uid, grace_s=grace_s):
                    await self._cluster.delete(ref, uid=uid, grace_s=grace_s)
                case MakeCertificates(wanted=wanted):
                    await self._certificates.make(key, wanted)
                case PatchLabels(ref=ref, labels=labels):
                    await self._cluster.patch_labels(ref, labels)
                case Scale(ref=ref, replicas=replicas, resource_version=version):
                    await self._cluster.scale(ref, replicas, resource_version=version)
                    await self._read_again(ref)
                case StartDrain(worker_id=worker_id, timeout_s=timeout_s):
                    for scheduler in schedulers_of(self._inventory.children(key)):
                        self._schedulers.start_drain(scheduler, worker_id, timeout_s=timeout_s)
        except (ConflictError, NotFoundError):
            await self._read_again(target(action))
            raise
        self._num_writes[key] = self.num_writes(key) + 1
        ref_or_none = target(action)
        kind = ref_or_none.kind if ref_or_none is not None else ""
        self._metrics.actions.labels(action=type(action).__name__, kind=kind).inc()

    async def _apply(self, key: Key, obj: Obj) -> None:
        before = self._inventory.get(ref_of(obj))
        made = await self._cluster.apply(obj)
        reason = _restart_reason(before, obj)
        if reason:
            self._metrics.group_restarts.labels(reason=reason).inc()
        self._applied.setdefault(key, {})[ref_of(obj)] = (_digest(obj), _digest(_kept(made)))
        self._learn(made)

    async def _create(self, obj: Obj) -> None:
        complete = with_token(obj, secrets.token_urlsafe(IDENTITY_BYTES)) if obj["kind"] == "Secret" else obj
        try:
            made = await self._cluster.create(complete)
        except AlreadyExistsError:
            if obj["kind"] != "Secret":  # which the operator may not read
                await self._read_again(ref_of(obj))
        else:
            if obj["kind"] != "Secret":
                self._learn(made)

    async def write_status(self, key: Key, obj: Obj, status: Obj) -> None:
        """Write the status of a service or of a scaler, if it says something else. Raises ClusterError."""
        if status == obj.get("status", {}):
            return
        ref, written = ref_of(obj), self._written.setdefault(key, {})
        if written.get(ref) == (status, obj.get("status", {})):
            return  # the API server keeps less of it than was written
        head = {name: obj["metadata"][name] for name in ("name", "namespace", "uid")}
        body = {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": head, "status": status}
        try:
            made = await self._cluster.apply_status(body)
        except (ConflictError, NotFoundError):
            await self._read_again(ref)
            raise
        self._metrics.status_writes.inc()
        written[ref] = (status, made.get("status", {}))
        self._learn(made)

    async def _read_again(self, ref: Ref | None) -> None:
        """What is known of an object is wrong: ask, without which the next look would do the same."""
        if ref is None or ref.kind == "Secret":
            return
        found = await self._cluster.get(ref)
        known = self._inventory.get(ref)
        if found is not None:
            self._learn(found)
        elif known is not None:
            self._inventory.remove(known)

    def _learn(self, obj: Obj) -> None:
        self._inventory.put(obj, told_at=self._told_at())


def schedulers_of(children: Sequence[Obj]) -> list[SchedulerAt]:
    """The scheduler pods that are ready; by IP, because Services have names only inside the cluster."""
    found = []
    for child in children:
        labels = child["metadata"].get("labels") or {}
        if child["kind"] != "Pod" or labels.get(names.LABEL_COMPONENT) != names.COMPONENT_SCHEDULER:
            continue
        status: dict[str, Any] = child.get("status") or {}
        conditions = status.get("conditions") or ()
        is_ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
        ip = status.get("podIP")
        if is_ready and ip and not child["metadata"].get("deletionTimestamp"):
            address = f"[{ip}]:{names.PORT_SCHEDULER}" if ":" in ip else f"{ip}:{names.PORT_SCHEDULER}"
            found.append(SchedulerAt(address=address, identity=_identity(child)))
    return found


def _identity(pod: Obj) -> Identity | None:
    """Whose certificate a scheduler's pod has; None: none, it speaks in the clear."""
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    if not any(volume.get("name") == TLS_VOLUME for volume in volumes):
        return None
    metadata = pod["metadata"]
    return Identity(
        namespace=metadata["namespace"],
        service=metadata["labels"][names.LABEL_SERVICE],
        component=names.COMPONENT_SCHEDULER,
    )


def target(action: Action) -> Ref | None:
    """The object that an action is about; None for one that is not about an object."""
    match action:
        case Apply(obj=obj) | Create(obj=obj):
            return ref_of(obj)
        case Delete(ref=ref) | PatchLabels(ref=ref) | Scale(ref=ref):
            return ref
        case MakeCertificates(wanted=wanted):
            namespace, name = wanted.owner.namespace, wanted.secret(AUTHORITY)
            return Ref(api_version="v1", kind="Secret", namespace=namespace, name=name)
        case StartDrain():
            return None


def _restart_reason(before: Obj | None, now: Obj) -> str:
    """Why this write restarts a group after a failure; empty for any other write."""
    if before is None or now["kind"] != "StatefulSet":
        return ""
    old, new = (read_memory(obj["metadata"].get("annotations") or {}) for obj in (before, now))
    latest = max((*new.restarts, *new.disruptions), default=None)
    is_restart = latest is not None and latest not in {*old.restarts, *old.disruptions}
    return new.failure.reason if is_restart and new.failure is not None else ""


def _kept(obj: Obj) -> Obj:
    """The part of an object that an apply is about."""
    metadata = {name: obj["metadata"].get(name) for name in ("uid", "labels", "annotations")}
    return {name: value for name, value in obj.items() if name not in {"metadata", "status"}} | metadata


def _digest(obj: Obj) -> str:
    return hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()
