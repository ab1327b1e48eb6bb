"""What is known of a provider of gangs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hortator.api.v1alpha1 import GangProvider, GangSpec, RoleSpec
from hortator.operator.kinds import Watched
from hortator.operator.objects import Obj

GROUP_NAME = "@@POD_GROUP@@"
"""A mark in a frozen template, filled in for each start of a group."""


def _nothing(_: GangSpec, __: RoleSpec) -> dict[str, str]:
    return {}


def _default(_: GangSpec) -> str:
    return ""


def _no_spec(_: GangSpec, __: RoleSpec) -> Obj:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One of them; `spec` is that of the object, where it has one."""

    name: GangProvider
    needs: tuple[tuple[str, str], ...]
    """API versions and kinds of which the API server must serve one: else the provider is not there."""
    kind: Watched | None = None
    """Of the object that stands for a group."""
    labels: Callable[[GangSpec, RoleSpec], dict[str, str]] = _nothing
    annotations: Callable[[GangSpec, RoleSpec], dict[str, str]] = _nothing
    scheduler: Callable[[GangSpec], str] = _default
    """Name of the one that places the pods; "": kube-scheduler's."""
    spec: Callable[[GangSpec, RoleSpec], Obj] = _no_spec
