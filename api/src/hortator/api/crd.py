"""The CustomResourceDefinition of LLMService, made from the types and the table of rules.

`hack/generate-crds` writes it to manifests/crd.yaml; nothing in it is written by hand a second time.
"""

from __future__ import annotations

from typing import Any

from hortator.api.rules import RULES
from hortator.api.schema import Schema, structural_schema
from hortator.api.transitions import TRANSITIONS
from hortator.api.v1alpha1 import (
    GROUP,
    KIND,
    PLURAL,
    VERSION,
    LLMService,
    LLMServiceSpec,
    LLMServiceStatus,
)
from hortator.api.v1alpha1.service import MAX_NAME_LENGTH, NAME_PATTERN
from hortator.api.validation import Validation

_READY = '.status.conditions[?(@.type=="Ready")]'
COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("READY", "string", f"{_READY}.status", 0),
    ("REASON", "string", f"{_READY}.reason", 0),
    ("GROUPS", "string", ".status.display.groups", 0),
    ("RANKS", "string", ".status.display.ranks", 0),
    ("UPDATED", "string", ".status.display.updated", 0),
    ("MODEL", "string", ".spec.model.uri", 0),
    ("AGE", "date", ".metadata.creationTimestamp", 0),
    ("TOPOLOGY", "string", ".spec.topology", 1),
    ("MESSAGE", "string", f"{_READY}.message", 1),
)
"""Name, type, path and priority (1: only with -o wide) of the columns of `kubectl get`."""


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as a plain object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["llms"],
                "categories": ["all", "llm"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path, **({"priority": 1} if wide else {})}
                        for name, type_, path, wide in COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": schema()},
                }
            ],
        },
    }


def schema() -> Schema:
    """The schema of a whole LLMService, rules included."""
    root: Schema = {
        "description": (LLMService.__doc__ or "").split(". ")[0] + ".",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": MAX_NAME_LENGTH, "pattern": NAME_PATTERN}
                },
            },
            "spec": structural_schema(LLMServiceSpec, with_defaults=True),
            "status": structural_schema(LLMServiceStatus, with_defaults=False),
        },
    }
    rules: tuple[Validation, ...] = (*RULES, *TRANSITIONS)
    for rule in rules:
        _at(root, rule).setdefault("x-kubernetes-validations", []).append(_validation(rule))
    return root


def _at(schema: Schema, rule: Validation) -> Schema:
    for part in rule.at.split("."):
        name = part.removesuffix("[]")
        schema = schema["properties"][name]
        if part != name:
            schema = schema["items"]
    return schema


def _validation(rule: Validation) -> dict[str, str]:
    path = {"fieldPath": f".{rule.field}"} if rule.field else {}
    return {"rule": rule.cel, "message": rule.message, **path}
