"""A Kubernetes object in the pure parts: the JSON that the API takes and gives, as a plain dict.

Builders write it, `observed` reads it, the client sends it; nobody wraps it in classes of a client library.
A `Ref` names one object without holding it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """Which object: its kind and its name. `namespace` is empty for a cluster-scoped one."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {where}{self.name}"


def ref_of(obj: Obj) -> Ref:
    """The name of an object that has one. KeyError when apiVersion, kind or name is missing."""
    metadata = obj["metadata"]
    return Ref(
        api_version=obj["apiVersion"],
        kind=obj["kind"],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
    )
