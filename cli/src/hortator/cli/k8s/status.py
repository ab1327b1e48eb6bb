"""`hortator k8s status`: conditions, groups and members of an LLMService, as its status tells them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hortator.api.v1alpha1 import API_VERSION, KIND
from hortator.cli.console import stdout
from hortator.cli.k8s.client import open_cluster
from hortator.cli.k8s.options import ClusterOptions
from hortator.cli.k8s.service import find_service
from hortator.operator.objects import Obj

_STYLES = {"True": "green", "False": "red", "Unknown": "yellow"}
_WANTED_FALSE = frozenset({"Suspended", "Stalled", "Progressing", "Degraded"})
"""Conditions whose True is nothing to be glad of."""


async def run(options: ClusterOptions, *, name: str | None, as_json: bool) -> None:
    """Print one service, or all of the namespace when no name is given and there are several."""
    async with open_cluster(options) as kube:
        if name is None:
            found = await kube.objects(API_VERSION, KIND, namespace=kube.namespace)
            if len(found) > 1:
                show_list(found, as_json=as_json)
                return
        service = await find_service(kube, name)
    if as_json:
        print(json.dumps(document(service), indent=2))
    else:
        stdout().print(render(service, now=datetime.now(UTC)))


def show_list(services: Sequence[Obj], *, as_json: bool) -> None:
    """Several services, one a line."""
    if as_json:
        print(json.dumps([document(service) for service in services], indent=2))
        return
    table = _table("name", "ready", "reason", "groups", "ranks", "updated", "model")
    for service in services:
        ready, display = _condition(service, "Ready"), _display(service)
        table.add_row(
            service["metadata"]["name"],
            _colored(ready.get("status", "Unknown")),
            ready.get("reason", ""),
            display.get("groups", ""),
            display.get("ranks", ""),
            display.get("updated", ""),
            _model(service),
        )
    stdout().print(table)


def document(service: Obj) -> Obj:
    """One service for machines: who it is, and its status as the API server has it."""
    metadata = service["metadata"]
    return {
        "name": metadata["name"],
        "namespace": metadata.get("namespace", ""),
        "generation": metadata.get("generation"),
        "status": service.get("status") or {},
    }


def render(service: Obj, *, now: datetime) -> RenderableType:
    """One service for people."""
    status = service.get("status") or {}
    parts: list[RenderableType] = [_headline(service)]
    if not status:
        parts.append(Text("no status yet: is the operator running? (hortator k8s doctor)", style="yellow"))
        return Group(*parts)
    if status.get("observedGeneration") != service["metadata"].get("generation"):
        parts.append(Text("the operator has not looked at the latest change yet", style="yellow"))
    groups = status.get("groups") or ()
    parts += [_conditions(status.get("conditions") or (), now), _groups(groups), *_messages(groups)]
    parts += [_scaled(one) for one in status.get("roles") or () if one.get("scaler")]
    parts += [_avoided(one) for one in status.get("avoidedNodes") or ()]
    parts += [Text(f"{one.get('name')}: {one.get('url')}") for one in status.get("endpoints") or ()]
    return Group(*parts)


def _scaled(role: Obj) -> Text:
    return Text(
        f"{role.get('name')}: groups by LLMServiceScaler {role['scaler']}, not by replicas of the role"
    )


def _headline(service: Obj) -> Text:
    metadata, display, ready = service["metadata"], _display(service), _condition(service, "Ready")
    counts = ", ".join(f"{key} {value}" for key, value in display.items() if value)
    text = Text.assemble(
        (f"{metadata.get('namespace', '')}/{metadata['name']}", "bold"), f": {_model(service)}"
    )
    if ready:
        text.append_text(
            Text.assemble(", ready ", _colored(ready["status"]), f" ({ready.get('reason', '')})")
        )
    return text.append(f"; {counts}\n" if counts else "\n")


def _conditions(conditions: Sequence[Any], now: datetime) -> Table:
    table = _table("condition", "status", "reason", "for", "message")
    for one in conditions:
        status = one.get("status", "Unknown")
        shown = Text(status) if one.get("type") in _WANTED_FALSE else _colored(status)
        since = age(one.get("lastTransitionTime", ""), now)
        table.add_row(one.get("type", ""), shown, one.get("reason", ""), since, one.get("message", ""))
    return table


def _groups(groups: Sequence[Any]) -> Table:
    table = _table(
        "\ngroup", "phase", "epoch", "in flight", "restarts", "pod", "node", "ranks", "ready", "waits for"
    )
    for group in groups:
        in_flight = group.get("inFlight")
        head = [
            group.get("workerId") or group.get("name", ""),
            group.get("phase", ""),
            str(group.get("epoch", "")),
            "" if in_flight is None else str(in_flight),
            str(group.get("restarts", 0)),
        ]
        members: list[Obj] = group.get("members") or [{}]
        for member in members:
            waits_for = member.get("waitingReason") or (group.get("reason", "") if head[0] else "")
            is_ready = member.get("ready", False)
            table.add_row(
                *head,
                member.get("pod", ""),
                member.get("node", ""),
                member.get("ranks", ""),
                Text("yes", style="green") if is_ready else Text("no", style="red"),
                waits_for,
            )
            head = [""] * len(head)
    return table


def _messages(groups: Sequence[Any]) -> list[RenderableType]:
    return [
        Text.assemble((f"{group.get('workerId') or group.get('name', '')}: ", "italic"), group["message"])
        for group in groups
        if group.get("message")
    ]


def _avoided(one: Obj) -> Text:
    how_often = f"{one.get('failures', 0)} failures on it"
    return Text.assemble(
        (f"{one.get('node', '')}: ", "italic"), f"avoided until {one.get('until', '')}, {how_often}"
    )


def age(when: str, now: datetime) -> str:
    """How long ago, in the largest two units: `3d4h`, `5m10s`; empty for no time."""
    try:
        seconds = int((now - datetime.fromisoformat(when)).total_seconds())
    except (ValueError, TypeError):
        return ""
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    seconds = max(seconds, 0)
    for letter, size in units:
        count, seconds = divmod(seconds, size)
        if count or parts or size == 1:
            parts.append(f"{count}{letter}")
    return "".join(part for part in parts[:2] if not part.startswith("0") or len(parts) == 1)


def _condition(service: Obj, kind: str) -> Obj:
    conditions = (service.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def _display(service: Obj) -> dict[str, str]:
    display: dict[str, str] = (service.get("status") or {}).get("display") or {}
    return display


def _model(service: Obj) -> str:
    spec = service.get("spec") or {}
    model = spec.get("model") or {}
    return str(model.get("name") or model.get("uri") or "")


def _colored(status: str) -> Text:
    return Text(status, style=_STYLES.get(status, ""))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
