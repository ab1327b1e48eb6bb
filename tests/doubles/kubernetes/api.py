"""A Kubernetes API server in memory: enough of one that the operator cannot tell the difference.

Every rule that the operator relies on is here and is checked against a real server by the conformance suite:
resource versions and generations, preconditions, server-side apply with owners and conflicts, the status
subresource, finalizers and graceful deletion, selectors, pages, watches that replay, bookmark and expire.

It is synchronous and does nothing by itself: controllers, the garbage collector and kubelets are explicit
steps (`controllers`, `kubelets`). `FakeCluster` gives it the operator's port, `http_front` its wire.
"""

import itertools
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from doubles.kubernetes import managed_fields
from doubles.kubernetes.json_copy import copied
from doubles.kubernetes.kinds import KINDS, Kind, set_defaults

Obj = dict[str, Any]
Key = tuple[str, str, str, str]
"""apiVersion, kind, namespace (empty for a cluster-scoped kind), name."""

_KEPT_BY_SERVER = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


class ApiError(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.retry_after_s = status, reason, message, retry_after_s


@dataclass(slots=True)
class _Record:
    obj: Obj
    owners: dict[str, set[managed_fields.Path]] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Record":
        return _Record(obj=copied(self.obj), owners={name: set(paths) for name, paths in self.owners.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One committed write: what a watch is made of."""

    version: int
    kind: Kind
    before: Obj | None
    after: Obj | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write that somebody asked for and that changed something."""

    verb: str
    key: Key
    manager: str


class ApiServer:
    """The store and the verbs."""

    def __init__(self, *, now: Callable[[], datetime] | None = None) -> None:
        self.now = now or (lambda: datetime.now(UTC))
        self.version = 0
        self.writes: list[Write] = []
        """Everything that changed an object, oldest first."""
        self._records: dict[Key, _Record] = {}
        self._changes: list[Change] = []
        self._compacted = 0
        self._uids = itertools.count(1)
        self.watches: list[Watch] = []
        self.installed: set[tuple[str, str]] = set()
        """API version and kind of what others have brought a CRD for."""
        for name in ("default", "kube-system"):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.writes.clear()

    # --- reading --------------------------------------------------------------------------------------

    def get(self, key: Key) -> Obj:
        """One object. 404."""
        return copied(self._record(key).obj)

    def find(self, kind: str, **labels: str) -> list[Obj]:
        """Objects of a kind by labels, without ceremony: for tests and controllers. Do not modify them."""
        found = {
            key: record.obj
            for key, record in self._records.items()
            if key[1] == kind and matches(record.obj, labels)
        }
        return [found[key] for key in sorted(found)]

    def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        limit: int | None = None,
        token: str = "",
    ) -> tuple[list[Obj], str]:
        """A page of objects and the token of the next page. 410 for a token from before `compact`."""
        start = 0
        if token:
            version, _, position = token.partition(":")
            if int(version) < self._compacted:
                raise ApiError(410, "Expired", "The provided continue parameter is too old")
            start = int(position)
        chosen = {
            key: record.obj
            for key, record in self._records.items()
            if key[:2] == (kind.api_version, kind.kind) and _selected(record.obj, namespace, labels, fields)
        }
        found = [chosen[key] for key in sorted(chosen)]
        end = len(found) if not limit else start + limit
        more = f"{self.version}:{end}" if end < len(found) else ""
        return copied(found[start:end]), more

    # --- writing --------------------------------------------------------------------------------------

    def create(self, obj: Obj, *, manager: str = "kubectl") -> Obj:
        """POST. 409 AlreadyExists; 404 when the namespace is not there."""
        obj = copied(obj)
        key = key_of(obj)
        kind = self._kind(key)
        if key in self._records:
            raise ApiError(409, "AlreadyExists", f'{kind.plural} "{key[3]}" already exists')
        self._must_have_namespace(key)
        if kind.has_status and kind.kind not in {"Node", "Namespace"}:
            obj.pop("status", None)
        owners = managed_fields.update({}, _owned_part(obj), {}, f"{manager}/Update")
        return self._insert(key, obj, owners, verb="create", manager=manager)

    def replace(self, obj: Obj, *, manager: str = "kubectl", subresource: str = "") -> Obj:
        """PUT. 404; 409 when the resourceVersion, if given, is not the current one."""
        key = key_of(obj)
        record = self._record(key)
        _check_metadata(record.obj, obj["metadata"])
        new = copied(obj)
        if subresource == "status":
            new = copied(record.obj) | {"status": new.get("status", {})}
        elif self._kind(key).has_status:
            new.pop("status", None)
            if "status" in record.obj:
                new["status"] = copied(record.obj["status"])
        return self._update(key, new, manager=manager, verb=f"replace{_of(subresource)}")

    def patch(self, key: Key, patch: Obj, *, manager: str = "kubectl", subresource: str = "") -> Obj:
        """PATCH with a JSON merge patch. 404; 409 by uid or resourceVersion in the patch."""
        record = self._record(key)
        _check_metadata(record.obj, patch.get("metadata") or {})
        if subresource == "status":
            patch = {"status": patch.get("status", {})}
        elif self._kind(key).has_status:
            patch = {name: value for name, value in patch.items() if name != "status"}
        new = _merge_patch(record.obj, patch)
        return self._update(key, new, manager=manager, verb=f"patch{_of(subresource)}")

    def apply(self, config: Obj, *, manager: str, force: bool = False, subresource: str = "") -> Obj:
        """PATCH with an apply configuration. 409 on conflicts or preconditions; 404 only for a status."""
        config = copied(config)
        key = key_of(config)
        kind = self._kind(key)
        owner = f"{manager}/Apply{_of(subresource)}"
        if key not in self._records:
            if subresource:
                raise ApiError(404, "NotFound", f'{kind.plural} "{key[3]}" not found')
            if config["metadata"].get("uid"):
                raise ApiError(409, "Conflict", "uid mismatch: no existing object was found")
            self._must_have_namespace(key)
            part = _configured(config, kind, subresource)
            head = {name: config[name] for name in ("apiVersion", "kind", "metadata")}
            new = copied(part) | head
            return self._insert(
                key, new, {owner: set(managed_fields.leaves(part))}, verb="apply", manager=manager
            )
        record = self._record(key)
        _check_metadata(record.obj, config["metadata"])
        part = _configured(config, kind, subresource)
        emptied = managed_fields.emptied(part, record.owners.get(owner, set()))
        if emptied and kind.is_custom:
            shown = managed_fields.show(emptied[0]).removeprefix(".")
            raise ApiError(
                422, "Invalid", f'{key[3]} is invalid: {shown}: Invalid value: "null": must be of type object'
            )
        try:
            new, owners = managed_fields.apply(record.obj, part, record.owners, owner, force=force)
        except managed_fields.Conflict as conflict:
            raise ApiError(409, "Conflict", str(conflict)) from None
        return self._update(key, new, manager=manager, verb=f"apply{_of(subresource)}", owners=owners)

    def delete(
        self, key: Key, *, uid: str | None = None, version: str | None = None, grace_s: int | None = None
    ) -> Obj:
        """DELETE with background propagation. 404; 409 by the preconditions."""
        record = self._record(key)
        preconditions = {"uid": uid, "resourceVersion": version}
        _check_metadata(record.obj, {name: value for name, value in preconditions.items() if value})
        obj = copied(record.obj)
        metadata = obj["metadata"]
        grace = _grace_s(obj, grace_s)
        if grace > 0 or metadata.get("finalizers"):
            if "deletionTimestamp" not in metadata or grace < metadata.get("deletionGracePeriodSeconds", 0):
                metadata.setdefault("deletionTimestamp", self.timestamp())
                metadata["deletionGracePeriodSeconds"] = grace
                self._commit(key, record, obj, verb="delete", manager="")
            return copied(obj)
        self._remove(key)
        return obj

    # --- watching -------------------------------------------------------------------------------------

    def watch(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        since: str = "",
    ) -> "Watch":
        """Changes after a resourceVersion ("": what is there now comes first, as ADDED)."""
        watch = Watch(self, kind, namespace, labels, fields)
        if not since or since == "0":
            for obj in self.list(kind, namespace=namespace, labels=labels, fields=fields)[0]:
                watch.events.append({"type": "ADDED", "object": obj})
        elif int(since) < self._compacted:
            status = {
                "kind": "Status",
                "code": 410,
                "reason": "Expired",
                "message": "too old resource version",
            }
            watch.events.append({"type": "ERROR", "object": status})
            watch.is_over = True
            return watch
        else:
            for change in self._changes:
                if change.version > int(since):
                    watch.offer(change)
        self.watches.append(watch)
        return watch

    def compact(self) -> None:
        """Forget all changes so far: older resource versions and page tokens have expired."""
        self._changes.clear()
        self._compacted = self.version

    def bookmark(self) -> None:
        """Send a bookmark to every watch."""
        for watch in self.watches:
            watch.bookmark()

    def timestamp(self) -> str:
        """The time of the server, as it writes it."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    # --- inside ---------------------------------------------------------------------------------------

    def _kind(self, key: Key) -> Kind:
        kind = KINDS.get(key[:2])
        if kind is not None and (not kind.is_optional or key[:2] in self.installed):
            return kind
        raise ApiError(404, "NotFound", "the server could not find the requested resource")

    def _record(self, key: Key) -> _Record:
        kind = self._kind(key)
        if key not in self._records:
            raise ApiError(404, "NotFound", f'{kind.plural} "{key[3]}" not found')
        return self._records[key]

    def _must_have_namespace(self, key: Key) -> None:
        namespace = self._records.get(("v1", "Namespace", "", key[2])) if key[2] else None
        if key[2] and namespace is None:
            raise ApiError(404, "NotFound", f'namespaces "{key[2]}" not found')
        if namespace is not None and "deletionTimestamp" in namespace.obj["metadata"]:
            text = f"unable to create new content in namespace {key[2]} because it is being terminated"
            raise ApiError(403, "Forbidden", text)

    def _insert(
        self, key: Key, obj: Obj, owners: dict[str, set[managed_fields.Path]], *, verb: str, manager: str
    ) -> Obj:
        metadata = obj["metadata"] = {
            name: value for name, value in obj["metadata"].items() if name not in _KEPT_BY_SERVER
        }
        metadata["uid"] = str(uuid.uuid5(uuid.NAMESPACE_OID, str(next(self._uids))))
        metadata["creationTimestamp"] = self.timestamp()
        metadata["generation"] = 1
        set_defaults(obj)
        record = self._records[key] = _Record(obj={}, owners=owners)
        return self._commit(key, record, obj, verb=verb, manager=manager)

    def _update(
        self,
        key: Key,
        new: Obj,
        *,
        manager: str,
        verb: str,
        owners: dict[str, set[managed_fields.Path]] | None = None,
    ) -> Obj:
        record = self._records[key]
        old = record.obj
        for name in _KEPT_BY_SERVER:
            new["metadata"].pop(name, None)
            if name in old["metadata"]:
                new["metadata"][name] = old["metadata"][name]
        new["metadata"].pop("managedFields", None)
        set_defaults(new)
        is_same = _bare(new) == _bare(old)
        if owners is None and not is_same:
            owners = managed_fields.update(
                _owned_part(old), _owned_part(new), record.owners, f"{manager}/Update"
            )
        if is_same and (owners is None or owners == record.owners):
            return copied(old)
        record.owners = owners or record.owners
        if _without_status(new) != _without_status(old):
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        is_released = "deletionTimestamp" in old["metadata"] and not new["metadata"].get("finalizers")
        if is_released and _grace_s(new, new["metadata"].get("deletionGracePeriodSeconds")) == 0:
            self._remove(key)
            return copied(new)
        return self._commit(key, record, new, verb=verb, manager=manager)

    def _commit(self, key: Key, record: _Record, new: Obj, *, verb: str, manager: str) -> Obj:
        before = record.obj or None
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        new["metadata"]["managedFields"] = [
            {
                "manager": owner.split("/")[0],
                "operation": owner.split("/")[1],
                **({"subresource": owner.split("/")[2]} if owner.count("/") > 1 else {}),
                "apiVersion": key[0],
                "fieldsType": "FieldsV1",
                "fieldsV1": managed_fields.fields_v1(paths),
            }
            for owner, paths in sorted(record.owners.items())
        ]
        record.obj = new
        self.writes.append(Write(verb=verb, key=key, manager=manager))
        self._tell(key, before, new)
        return copied(new)

    def _remove(self, key: Key) -> None:
        record = self._records.pop(key)
        self.version += 1
        gone = copied(record.obj)
        gone["metadata"]["resourceVersion"] = str(self.version)
        self.writes.append(Write(verb="remove", key=key, manager=""))
        self._tell(key, gone, None)
        if key[1] == "Namespace":
            for other in [other for other in self._records if other[2] == key[3]]:
                self._remove(other)

    def _tell(self, key: Key, before: Obj | None, after: Obj | None) -> None:
        change = Change(
            version=self.version,
            kind=KINDS[key[:2]],
            before=copied(before),
            after=copied(after),
        )
        self._changes.append(change)
        for watch in self.watches:
            watch.offer(change)


class Watch:
    """One open watch; `events` are what it has not read yet."""

    def __init__(
        self,
        api: ApiServer,
        kind: Kind,
        namespace: str | None,
        labels: Mapping[str, str] | None,
        fields: Mapping[str, str] | None,
    ) -> None:
        self.events: deque[Obj] = deque()
        self.is_over = False
        self.on_event: Callable[[], None] = lambda: None
        self._api, self._kind = api, kind
        self._select = lambda obj: obj is not None and _selected(obj, namespace, labels, fields)

    def offer(self, change: Change) -> None:
        """Add a change if it is of interest: leaving the selection is a DELETED, entering an ADDED."""
        if change.kind != self._kind:
            return
        was, is_now = self._select(change.before), self._select(change.after)
        if not was and not is_now:
            return
        what = "MODIFIED" if was and is_now else "ADDED" if is_now else "DELETED"
        obj = copied(change.after if change.after is not None else change.before) or {}
        obj["metadata"]["resourceVersion"] = str(change.version)
        self._put({"type": what, "object": obj})

    def bookmark(self) -> None:
        """Tell how far the watch is."""
        metadata = {"resourceVersion": str(self._api.version)}
        obj = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": metadata}
        self._put({"type": "BOOKMARK", "object": obj})

    def close(self) -> None:
        """End it, as a server does after its timeout."""
        self.is_over = True
        if self in self._api.watches:
            self._api.watches.remove(self)
        self.on_event()

    def _put(self, event: Obj) -> None:
        self.events.append(event)
        self.on_event()


def key_of(obj: Obj) -> Key:
    """The key of an object."""
    metadata = obj["metadata"]
    return obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"]


def matches(obj: Obj, labels: Mapping[str, str]) -> bool:
    """Whether an object has all these labels."""
    have = obj["metadata"].get("labels") or {}
    return all(have.get(name) == value for name, value in labels.items())


def _selected(
    obj: Obj, namespace: str | None, labels: Mapping[str, str] | None, fields: Mapping[str, str] | None
) -> bool:
    if namespace is not None and obj["metadata"].get("namespace", "") != namespace:
        return False
    if not matches(obj, labels or {}):
        return False
    return all(_field(obj, path) == value for path, value in (fields or {}).items())


def _field(obj: Obj, path: str) -> str:
    value: Any = obj
    for name in path.split("."):
        value = value.get(name, "") if isinstance(value, dict) else ""
    return str(value)


def _of(subresource: str) -> str:
    return f"/{subresource}" if subresource else ""


def _configured(config: Obj, kind: Kind, subresource: str) -> Obj:
    """The part of a configuration that counts, and that its owner will own."""
    if subresource:
        return {subresource: config.get(subresource, {})}
    part = _owned_part(config)
    if kind.has_status:
        part.pop("status", None)
    return part


def _owned_part(obj: Obj) -> Obj:
    part = {name: value for name, value in obj.items() if name not in {"apiVersion", "kind", "metadata"}}
    metadata = {
        name: obj["metadata"][name]
        for name in ("labels", "annotations", "finalizers", "ownerReferences")
        if obj["metadata"].get(name)
    }
    return copied(part | ({"metadata": metadata} if metadata else {}))


def _bare(obj: Obj) -> Obj:
    hidden = {"resourceVersion", "managedFields", "generation"}
    return obj | {"metadata": {name: v for name, v in obj["metadata"].items() if name not in hidden}}


def _without_status(obj: Obj) -> Obj:
    return {name: value for name, value in obj.items() if name not in {"metadata", "status"}}


def _check_metadata(live: Obj, given: Obj) -> None:
    for name in ("uid", "resourceVersion"):
        wanted = given.get(name)
        if wanted and wanted != live["metadata"][name]:
            text = f"Precondition failed: {name} in precondition: {wanted}, in object meta: {live['metadata'][name]}"
            raise ApiError(409, "Conflict", text)


def _grace_s(obj: Obj, asked: int | None) -> int:
    if obj["kind"] != "Pod":
        return 0
    has_ended = obj.get("status", {}).get("phase") in {"Succeeded", "Failed"}
    if has_ended or not obj["spec"].get("nodeName"):
        return 0
    return int(obj["spec"].get("terminationGracePeriodSeconds", 30) if asked is None else asked)


def _merge_patch(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copied(patch)
    merged = copied(value) if isinstance(value, dict) else {}
    for name, inner in patch.items():
        if inner is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_patch(merged.get(name), inner)
    return merged


def children_of(api: ApiServer, kind: str, uid: str) -> Iterator[Obj]:
    """Objects of a kind that a controller owns."""
    for obj in api.find(kind):
        if any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences", [])):
            yield obj
