"""Settings of a process as environment variables of its container.

    {"core": {"max_hold_s": 2.0}}  ->  HORTATOR_SCHEDULER_CORE__MAX_HOLD_S=2.0

Text stays as it is, everything else is JSON; a value of None is left out, the process has that default.
Values known only in the pod come from its own fields (`from_field`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from hortator.api.v1alpha1 import EngineSpec
from hortator.operator.objects import Obj

NESTED = "__"
POD_IP = "PodIP"


def variables(prefix: str, values: Mapping[str, object], *, nested: Iterable[str] = ()) -> list[Obj]:
    """One entry per value; values inside the fields named in `nested` are entries themselves."""
    return list(_variables(prefix, values, frozenset(nested)))


def from_field(name: str, path: str) -> Obj:
    """A variable with the value of a field of the pod, such as `status.podIP`."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def from_label(name: str, label: str) -> Obj:
    """A variable with the value of a label of the pod."""
    return from_field(name, f"metadata.labels['{label}']")


def from_secret(name: str, secret: str, key: str) -> Obj:
    """A variable with one entry of a Secret; the pod waits until that exists."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def listen(name: str, address: str) -> Obj:
    """The address that a process listens on: a literal, or the pod's own for `PodIP`."""
    return from_field(name, "status.podIP") if address == POD_IP else {"name": name, "value": address}


def of_engine(engine: EngineSpec) -> list[Obj]:
    """What the manifest adds for engines and what downloads their weights: proxies, mirrors, fabrics."""
    return [{"name": entry.name, "value": entry.value} for entry in engine.env]


def merged(ours: Iterable[Obj], theirs: Iterable[Obj]) -> list[Obj]:
    """Both, each name once: what Hortator itself sets wins over what the manifest adds."""
    kept = list(ours)
    taken = {entry["name"] for entry in kept}
    return kept + [entry for entry in theirs if entry["name"] not in taken]


def _variables(prefix: str, values: Mapping[str, object], nested: frozenset[str]) -> Iterator[Obj]:
    for key, value in values.items():
        name = f"{prefix}{key}".upper()
        if key in nested and isinstance(value, Mapping):
            yield from _variables(f"{name}{NESTED}", value, nested)
        elif value is not None:
            yield {"name": name, "value": value if isinstance(value, str) else json.dumps(value)}
