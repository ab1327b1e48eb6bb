"""An LLMService object, as YAML or the API server gives it, to the typed one: or everything wrong with it.

This mirrors the CRD: an object that is refused here is refused by the API server, with the same message, and
the other way round. The operator needs it for objects that came in past that check.
So it reads as the API server does: a field that is null is absent (`base.Model`), 2.0 is a whole number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hortator.api.arithmetic import problems
from hortator.api.problem import Problem
from hortator.api.readable import readable
from hortator.api.scaler_rules import SCALER_RULES
from hortator.api.v1alpha1 import LLMService, LLMServiceScaler

SERVER_METADATA = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
"""Metadata that Kubernetes writes; a manifest taken from a cluster has it, and it says nothing here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What an object says."""

    service: LLMService | None
    """None where a field itself is wrong; given, but not to be used, where fields do not fit together."""
    problems: tuple[Problem, ...]
    """Everything that is wrong; empty for a valid object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedScaler:
    """What an LLMServiceScaler says."""

    scaler: LLMServiceScaler | None
    """None where anything is wrong with it."""
    problems: tuple[Problem, ...]


def parse_scaler(document: Mapping[str, Any]) -> ParsedScaler:
    """`parse` for an LLMServiceScaler."""
    try:
        scaler = LLMServiceScaler.model_validate(_said(document), by_alias=True, by_name=False)
    except ValidationError as error:
        return ParsedScaler(scaler=None, problems=tuple(readable(error.errors())))
    found = tuple(problem for rule in SCALER_RULES for problem in rule.problems(scaler))
    return ParsedScaler(scaler=None if found else scaler, problems=found)


def parse(document: Mapping[str, Any]) -> Parsed:
    """Read one object. `status` and the metadata that Kubernetes writes are left out."""
    try:
        service = LLMService.model_validate(_said(document), by_alias=True, by_name=False)
    except ValidationError as error:
        return Parsed(service=None, problems=tuple(readable(error.errors())))
    return Parsed(service=service, problems=tuple(problems(service)))


def _said(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a person has written."""
    wanted = {key: _whole(value) for key, value in document.items() if key != "status"}
    metadata = wanted.get("metadata")
    if isinstance(metadata, dict):
        wanted["metadata"] = {key: value for key, value in metadata.items() if key not in SERVER_METADATA}
    return wanted


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
