"""What the operator knows of the cluster: the last word of watches, lists and its own writes, by service.

Three sources tell of the same objects in no common order, so the rules are:

1. A version older than the one that is known is not news (resource versions of one cluster grow).
2. A uid that was seen to go never comes back.
3. A complete list removes what it does not have, unless that was told after the list was asked for. Watches
   alone would not do: whoever lists again after a gap is not told what went away in it.
4. The answer to an own write is put in at once: the next look must not see the state before it.
5. What a look is about to write is promised before it is: several looks run at once, and two that see the
   same free nodes must not both give them to a group.

Of a pod that the cluster took away (preempted, evicted) the last state is kept for a while: it tells why it
went, and the pod is often gone, and followed by another of its name, before anybody looks.

Only what is read is kept: the managed fields of the operator alone, of nodes no images and no heartbeats, of
other people's pods what they take from a node.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hortator.api.v1alpha1 import API_VERSION, KIND, SCALER_KIND
from hortator.operator import names
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.pods import is_disrupted
from hortator.operator.observed.reading import at, items, mapping, number, text
from hortator.operator.work_queue import Key

MAX_GONE = 20_000
"""Uids of objects that went, remembered against late news of them."""
MAX_VERSION_DIGITS = 20
"""Of resource versions, which have 64 bits."""
MAX_DEPARTED = 1_000
"""Pods that the cluster took away."""
_SERVICE_KIND = (API_VERSION, KIND)


@dataclass(slots=True)
class _Held:
    obj: Obj
    told_at: float


class Inventory:
    """Objects by service. Everything that changes it returns the services that are concerned."""

    def __init__(self) -> None:
        self._held: dict[Ref, _Held] = {}
        self._children: dict[Key, dict[Ref, Obj]] = {}
        self._nodes: dict[Ref, Obj] = {}
        self._occupants: dict[Ref, Obj] = {}
        """Pods that hold devices, and StatefulSets that want some: of all services and of others."""
        self._promised: dict[Key, dict[Ref, Obj]] = {}
        """StatefulSets as they are about to be written, by the service whose look writes them."""
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._departed: OrderedDict[str, Obj] = OrderedDict()
        self.gang_providers: frozenset[str] = frozenset()
        """Other schedulers that see to gangs, of which there is an API; see `resync`."""

    # --- reading --------------------------------------------------------------------------------------

    def service(self, key: Key) -> Obj | None:
        """The LLMService itself."""
        held = self._held.get(service_ref(key))
        return held.obj if held else None

    def services(self) -> Iterator[Key]:
        """All LLMServices."""
        for ref in self._held:
            if (ref.api_version, ref.kind) == _SERVICE_KIND:
                yield ref.namespace, ref.name

    def keys(self) -> set[Key]:
        """All LLMServices, and those that a scaler names."""
        scalers = (held.obj for ref, held in self._held.items() if ref.kind == SCALER_KIND)
        return {*self.services(), *(key for scaler in scalers for key in self._owners(scaler))}

    def get(self, ref: Ref) -> Obj | None:
        """One object."""
        held = self._held.get(ref)
        return held.obj if held else None

    def children(self, key: Key) -> list[Obj]:
        """What belongs to a service: its objects, its scalers, and the Warning events about them."""
        return list(self._children.get(key, {}).values())

    def departed(self, key: Key) -> list[Obj]:
        """Pods of a service that the cluster took away lately, as they were last; the oldest first."""
        return [pod for pod in self._departed.values() if key in self._owners(pod)]

    def surroundings(self, key: Key) -> list[Obj]:
        """What a service shares with others: nodes, and who holds, wants or is promised devices of them."""
        own = self._children.get(key, {})
        promised = {
            ref: obj
            for other, objects in self._promised.items()
            if other != key
            for ref, obj in objects.items()
        }
        occupants = self._occupants | promised
        return [*self._nodes.values(), *(obj for ref, obj in occupants.items() if ref not in own)]

    def num_objects(self) -> Mapping[str, int]:
        """How many objects of each kind are held."""
        counts: dict[str, int] = {}
        for ref in self._held:
            counts[ref.kind] = counts.get(ref.kind, 0) + 1
        return counts

    # --- promising ------------------------------------------------------------------------------------

    def promise(self, key: Key, objects: Iterable[Obj]) -> None:
        """What a look at a service is about to write, instead of what it promised before.

        Only StatefulSets that want devices count. What gives devices back is believed when it is done.
        """
        kept = {
            _ref(obj): obj
            for obj in objects
            if obj["kind"] == "StatefulSet" and number(obj, "spec", "replicas") and _holds_devices(obj)
        }
        if kept:
            self._promised[key] = kept
        else:
            self._promised.pop(key, None)

    # --- learning -------------------------------------------------------------------------------------

    def put(self, obj: Obj, *, told_at: float) -> set[Key]:
        """An object as it is now."""
        ref, known = _ref(obj), self._held.get(_ref(obj))
        uid = _uid(obj)
        if uid in self._gone:
            return set()
        if known is not None and _version(known.obj) >= _version(obj):
            known.told_at = max(known.told_at, told_at)
            return set()
        if _is_irrelevant(obj):
            if known is not None:
                del self._held[ref]
                self._unlink(ref, known.obj)
            return set()
        stripped = strip(obj)
        concerned = self._concerned(stripped)
        if known is not None:
            if _uid(known.obj) == uid and _is_same(known.obj, stripped):
                concerned = set()
            elif ref.kind == SCALER_KIND:
                concerned |= self._owners(known.obj)
            if _uid(known.obj) != uid:
                self._depart(known.obj)
            self._unlink(ref, known.obj)
        elif stripped["kind"] == "Event" and not concerned:
            return set()
        self._held[ref] = _Held(stripped, told_at)
        self._link(ref, stripped)
        return concerned

    def remove(self, obj: Obj) -> set[Key]:
        """An object that went."""
        ref, uid = _ref(obj), obj["metadata"].get("uid", "")
        self._gone[uid] = None
        if len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)
        self._depart(obj)
        known = self._held.get(ref)
        if known is None or _uid(known.obj) != uid:
            return set()
        del self._held[ref]
        concerned = self._concerned(known.obj)
        self._unlink(ref, known.obj)
        if (ref.api_version, ref.kind) == _SERVICE_KIND:
            for other in list(self._children.get((ref.namespace, ref.name), {})):
                if other.kind == "Event":
                    del self._held[other], self._children[ref.namespace, ref.name][other]
        return concerned

    def replace_all(
        self, api_version: str, kind: str, objects: Iterable[Obj], *, asked_at: float, told_at: float
    ) -> set[Key]:
        """A complete list of the objects of a kind, asked for at `asked_at`."""
        listed: set[Ref] = set()
        concerned: set[Key] = set()
        for obj in objects:
            listed.add(_ref(obj))
            concerned |= self.put(obj, told_at=told_at)
        for ref, held in list(self._held.items()):
            is_of_kind = (ref.api_version, ref.kind) == (api_version, kind)
            if is_of_kind and ref not in listed and held.told_at < asked_at:
                concerned |= self.remove(held.obj)
        return concerned

    # --- inside ---------------------------------------------------------------------------------------

    def _depart(self, obj: Obj) -> None:
        if obj["kind"] == "Pod" and self._owners(obj) and is_disrupted(obj):
            self._departed[_uid(obj)] = strip(obj)
            if len(self._departed) > MAX_DEPARTED:
                self._departed.popitem(last=False)

    def _link(self, ref: Ref, obj: Obj) -> None:
        for key in self._owners(obj):
            self._children.setdefault(key, {})[ref] = obj
        if ref.kind == "Node":
            self._nodes[ref] = obj
        elif _holds_devices(obj):
            self._occupants[ref] = obj

    def _unlink(self, ref: Ref, obj: Obj) -> None:
        for key in self._owners(obj):
            children = self._children.get(key, {})
            children.pop(ref, None)
            if not children:
                self._children.pop(key, None)
        self._nodes.pop(ref, None)
        self._occupants.pop(ref, None)

    def _owners(self, obj: Obj) -> set[Key]:
        """The service that an object is a child or a scaler of, as a set of none or one."""
        if obj["kind"] == "Event":
            return self._services_of_event(obj)
        if obj["kind"] == SCALER_KIND:
            named = text(obj, "spec", "serviceName")
            return {(_ref(obj).namespace, named)} if named else set()
        name = text(obj, "metadata", "labels", names.LABEL_SERVICE)
        return {(_ref(obj).namespace, name)} if name and obj["kind"] != KIND else set()

    def _concerned(self, obj: Obj) -> set[Key]:
        """Who should look again: the service itself, a child's service, everybody for a node."""
        ref = _ref(obj)
        if (ref.api_version, ref.kind) == _SERVICE_KIND:
            return {(ref.namespace, ref.name)}
        if obj["kind"] == "Node":
            return set(self.services())
        return self._owners(obj)

    def _services_of_event(self, event: Obj) -> set[Key]:
        """By the name of what it is about: the child itself may not have been seen yet."""
        namespace, name = text(event, "involvedObject", "namespace"), text(event, "involvedObject", "name")
        pod, group = names.parse_pod_name(name), names.parse_group_name(name)
        found = {parsed.service for parsed in (pod.group if pod else None, group) if parsed}
        parts = name.split("-")
        found |= {"-".join(parts[:end]) for end in range(1, len(parts))}
        return {(namespace, service) for service in found if service_ref((namespace, service)) in self._held}


def _is_irrelevant(obj: Obj) -> bool:
    """A pod of somebody else that takes nothing that is counted."""
    return obj["kind"] == "Pod" and not _is_ours(obj) and not _holds_devices(obj)


def _is_ours(obj: Obj) -> bool:
    return names.LABEL_SERVICE in mapping(obj, "metadata", "labels")


def strip(obj: Obj) -> Obj:
    """An object without what nobody reads."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    ours = [
        entry
        for entry in items(obj, "metadata", "managedFields")
        if entry.get("manager") == names.FIELD_MANAGER and entry.get("operation") == "Apply"
    ]
    if ours:
        metadata["managedFields"] = ours
    slim = obj | {"metadata": metadata}
    if obj["kind"] == "Node":
        metadata.pop("annotations", None)
        conditions = [
            {name: value for name, value in condition.items() if name != "lastHeartbeatTime"}
            for condition in items(obj, "status", "conditions")
        ]
        slim["status"] = {"allocatable": mapping(obj, "status", "allocatable"), "conditions": conditions}
    elif obj["kind"] == "Pod" and not _is_ours(obj):
        kept = ("name", "namespace", "uid", "resourceVersion")
        slim["metadata"] = {name: metadata[name] for name in kept if name in metadata}
        slim["spec"] = {
            "nodeName": text(obj, "spec", "nodeName"),
            "containers": [
                {"resources": mapping(one, "resources")} for one in items(obj, "spec", "containers")
            ],
        }
        slim["status"] = {"phase": text(obj, "status", "phase")}
    return slim


def _holds_devices(obj: Obj) -> bool:
    """Whether a pod takes, or a StatefulSet wants, whole devices; their names have a slash."""
    match obj["kind"]:
        case "Pod":
            spec = at(obj, "spec")
        case "StatefulSet":
            spec = at(obj, "spec", "template", "spec")
        case _:
            return False
    return any(
        "/" in name
        for container in items(spec, "containers")
        for part in ("limits", "requests")
        for name in mapping(container, "resources", part)
    )


def _is_same(one: Obj, other: Obj) -> bool:
    """Whether two versions differ in nothing that is kept."""
    return _without_version(one) == _without_version(other)


def _without_version(obj: Obj) -> Obj:
    hidden = {"resourceVersion", "managedFields"}
    return obj | {"metadata": {name: v for name, v in obj["metadata"].items() if name not in hidden}}


def service_ref(key: Key) -> Ref:
    """Where the LLMService of a key is."""
    return Ref(api_version=API_VERSION, kind=KIND, namespace=key[0], name=key[1])


def _ref(obj: Obj) -> Ref:
    return Ref(
        api_version=obj["apiVersion"],
        kind=obj["kind"],
        namespace=text(obj, "metadata", "namespace"),
        name=text(obj, "metadata", "name"),
    )


def _uid(obj: Obj) -> str:
    return text(obj, "metadata", "uid")


def _version(obj: Obj) -> int:
    version = text(obj, "metadata", "resourceVersion")
    return int(version) if version.isdecimal() and len(version) <= MAX_VERSION_DIGITS else 0
