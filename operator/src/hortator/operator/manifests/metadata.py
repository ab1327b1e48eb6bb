"""Metadata of a child: name, labels, and the LLMService as its owner.

Deletion is garbage collection, so every child names its owner; it does not block the owner's deletion, which
would need a permission of its own. An object of the right name with another owner is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hortator.api.v1alpha1 import API_VERSION, KIND, LLMService
from hortator.operator.objects import Obj


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The LLMService that children belong to."""

    name: str
    namespace: str
    uid: str

    @classmethod
    def of(cls, service: LLMService, uid: str) -> Owner:
        """A manifest without namespace means `default`, as kubectl has it."""
        metadata = service.metadata
        return cls(name=metadata.name, namespace=metadata.own_namespace, uid=uid)

    def reference(self) -> Obj:
        """As `metadata.ownerReferences` has it."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }


def child(
    api_version: str,
    kind: str,
    name: str,
    *,
    owner: Owner,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
) -> Obj:
    """An object of the service's namespace with nothing but its head; the caller adds the rest."""
    metadata: Obj = {
        "name": name,
        "namespace": owner.namespace,
        "labels": dict(labels),
        "ownerReferences": [owner.reference()],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
