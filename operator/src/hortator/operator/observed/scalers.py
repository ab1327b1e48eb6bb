"""The LLMServiceScalers of one LLMService, as the API server has them.

One that breaks a rule, perhaps of a newer version, keeps its number: groups must not go for a word that
nobody understands. They are no children: people make them, for a service that may come later, and they
outlive it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hortator.api.parse import parse_scaler
from hortator.api.problem import Problem
from hortator.api.v1alpha1 import LLMServiceScaler
from hortator.api.v1alpha1.scaler import SCALER_KIND
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import at, mapping, number, text


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerFacts:
    """One LLMServiceScaler."""

    name: str
    namespace: str
    uid: str
    created_at: str
    """As Kubernetes writes times: these sort as texts."""
    generation: int
    resource_version: str
    status: Obj
    scaler: LLMServiceScaler | None
    """What it says; where that breaks a rule, its number alone. None: not even that can be read."""
    problems: tuple[Problem, ...]
    """The rules that it breaks."""


def scalers_of(objects: Iterable[Obj], *, namespace: str, service: str) -> tuple[ScalerFacts, ...]:
    """Those that name this service and are not on their way out, the oldest first. Total."""
    found = [
        _facts(obj)
        for obj in objects
        if text(obj, "kind") == SCALER_KIND
        and text(obj, "metadata", "namespace") == namespace
        and text(obj, "spec", "serviceName") == service
        and not text(obj, "metadata", "deletionTimestamp")
    ]
    return tuple(sorted(found, key=lambda one: (one.created_at, one.name)))


def _facts(obj: Obj) -> ScalerFacts:
    parsed = parse_scaler(obj)
    number_alone = {key: at(obj, "spec", key) for key in ("serviceName", "role", "replicas")}
    return ScalerFacts(
        name=text(obj, "metadata", "name"),
        namespace=text(obj, "metadata", "namespace"),
        uid=text(obj, "metadata", "uid"),
        created_at=text(obj, "metadata", "creationTimestamp"),
        generation=number(obj, "metadata", "generation", default=1),
        resource_version=text(obj, "metadata", "resourceVersion"),
        status=mapping(obj, "status"),
        scaler=parsed.scaler or parse_scaler(obj | {"spec": number_alone}).scaler,
        problems=parsed.problems,
    )
