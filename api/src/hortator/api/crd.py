"""The CustomResourceDefinitions of LLMService and LLMServiceScaler, made from types and tables of rules.

`hack/generate-crds` writes them to manifests/; nothing in them is written by hand a second time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from hortator.api.rules import RULES
from hortator.api.scaler_rules import SCALER_RULES, SCALER_TRANSITIONS
from hortator.api.schema import Schema, structural_schema
from hortator.api.transitions import TRANSITIONS
from hortator.api.v1alpha1 import (
    GROUP,
    KIND,
    PLURAL,
    SCALER_KIND,
    SCALER_PLURAL,
    VERSION,
    LLMService,
    LLMServiceScaler,
    LLMServiceScalerSpec,
    LLMServiceScalerStatus,
    LLMServiceSpec,
    LLMServiceStatus,
)
from hortator.api.v1alpha1.service import MAX_NAME_LENGTH, NAME_PATTERN
from hortator.api.validation import Validation

Column = tuple[str, str, str, int]
"""Name, type, path and priority (1: only with -o wide) of a column of `kubectl get`."""

_READY = '.status.conditions[?(@.type=="Ready")]'
COLUMNS: tuple[Column, ...] = (
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
_ACTIVE = '.status.conditions[?(@.type=="Active")]'
SCALER_COLUMNS: tuple[Column, ...] = (
    ("SERVICE", "string", ".spec.serviceName", 0),
    ("ROLE", "string", ".spec.role", 0),
    ("REPLICAS", "integer", ".spec.replicas", 0),
    ("READY", "integer", ".status.readyReplicas", 0),
    ("ACTIVE", "string", f"{_ACTIVE}.status", 0),
    ("REASON", "string", f"{_ACTIVE}.reason", 0),
    ("AGE", "date", ".metadata.creationTimestamp", 0),
    ("MESSAGE", "string", f"{_ACTIVE}.message", 1),
)


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition of LLMService as a plain object."""
    return _definition(KIND, PLURAL, "llms", columns=COLUMNS, root=schema())


def scaler_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of LLMServiceScaler as a plain object."""
    return _definition(SCALER_KIND, SCALER_PLURAL, "llmss", columns=SCALER_COLUMNS, root=scaler_schema())


def schema() -> Schema:
    """The schema of a whole LLMService, rules included."""
    return _schema(LLMService, LLMServiceSpec, LLMServiceStatus, rules=(*RULES, *TRANSITIONS))


def scaler_schema() -> Schema:
    """The schema of a whole LLMServiceScaler, rules included."""
    rules = (*SCALER_RULES, *SCALER_TRANSITIONS)
    return _schema(LLMServiceScaler, LLMServiceScalerSpec, LLMServiceScalerStatus, rules=rules)


def _definition(
    kind: str, plural: str, short_name: str, *, columns: Iterable[Column], root: Schema
) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
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
                        for name, type_, path, wide in columns
                    ],
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def _schema(
    whole: type[BaseModel], spec: type[BaseModel], status: type[BaseModel], *, rules: Iterable[Validation]
) -> Schema:
    root: Schema = {
        "description": (whole.__doc__ or "").split(". ")[0].removesuffix(".") + ".",
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
            "spec": structural_schema(spec, with_defaults=True),
            "status": structural_schema(status, with_defaults=False),
        },
    }
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
