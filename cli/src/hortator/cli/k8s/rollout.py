"""`hortator k8s rollout`: how far it is, which revisions there are, back to one of them, pause and resume.

    status    what the operator wrote into status.rollout
    history   the ControllerRevisions of the pod templates, with what changed and which groups run them
    undo      writes the fields of a revision into the spec: the operator then rolls as for any other change
    pause, resume   spec.rollout.paused

The LLMService is changed only as it was read: when somebody else was faster nothing is written.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from hortator.api.parse import parse
from hortator.cli.console import stderr, stdout
from hortator.cli.errors import EXIT_FAILED
from hortator.cli.k8s import revisions
from hortator.cli.k8s.client import Kube, open_cluster
from hortator.cli.k8s.options import ClusterOptions
from hortator.cli.k8s.revisions import Revision
from hortator.cli.k8s.service import find_service, service_ref
from hortator.cli.k8s.status import age
from hortator.operator import names
from hortator.operator.objects import Obj

POLL_S = 1.0
OVERDUE = "ProgressDeadlineExceeded"


async def status(options: ClusterOptions, *, name: str | None, wait_s: float | None, as_json: bool) -> int:
    """Say how far it is, once or until it is done; the exit code."""
    async with open_cluster(options) as kube:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (wait_s or 0.0)
        told = ""
        while True:
            service = await find_service(kube, name)
            line = told_of(service)
            is_last = wait_s is None or is_done(service) or is_overdue(service) or loop.time() >= deadline
            if as_json and is_last:
                print(json.dumps(_document(service)))
            elif not as_json and line != told:
                stdout().print(line, markup=False)
                told = line
            if is_last:
                break
            await asyncio.sleep(POLL_S)
    if is_overdue(service):
        return EXIT_FAILED
    if wait_s is not None and not is_done(service):
        found = service["metadata"]["name"]
        stderr().print(f"{found}: not done after {wait_s:g} s (hortator k8s explain {found})", markup=False)
        return EXIT_FAILED
    return 0


async def history(options: ClusterOptions, *, name: str | None, as_json: bool) -> None:
    """List the revisions."""
    async with open_cluster(options) as kube:
        service = await find_service(kube, name)
        found = await _history(kube, service)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        stdout().print(render(found, now=datetime.now(UTC)))


async def undo(
    options: ClusterOptions, *, name: str | None, role: str | None, number: int | None, as_json: bool
) -> int:
    """Go back to a revision; the exit code."""
    async with open_cluster(options) as kube:
        service = await find_service(kube, name)
        targets = revisions.chosen(await _history(kube, service), role=role, number=number)
        spec = revisions.restored(service, targets)
        await _change(kube, service, revisions.merge_patch(service["spec"], spec))
    found = service["metadata"]["name"]
    also = _also_changed(service, spec, targets)
    if as_json:
        document = {
            "name": found,
            "revisions": {one.role: one.number for one in targets},
            "alsoChanges": also,
        }
        print(json.dumps(document))
        return 0
    back = " and ".join(f"{one.role} goes back to revision {one.number} ({one.hash})" for one in targets)
    stdout().print(f"{found}: {back}", markup=False)
    for other in also:
        stdout().print(f"{found}: {other} shares fields with it and changes too", markup=False)
    if (service["spec"].get("rollout") or {}).get("paused"):
        stdout().print(f"{found}: the rollout is paused (hortator k8s rollout resume {found})", markup=False)
    return 0


async def set_paused(options: ClusterOptions, *, name: str | None, is_paused: bool, as_json: bool) -> int:
    """Pause or resume; the exit code."""
    async with open_cluster(options) as kube:
        service = await find_service(kube, name)
        await kube.patch(
            service_ref(kube, service["metadata"]["name"]), {"spec": {"rollout": {"paused": is_paused}}}
        )
    found = service["metadata"]["name"]
    line = "no group moves until it is resumed" if is_paused else "groups move to what spec asks for"
    if as_json:
        print(json.dumps({"name": found, "paused": is_paused}))
    else:
        stdout().print(f"{found}: {line}", markup=False)
    return 0


def told_of(service: Obj) -> str:
    """One line about a service's rollout."""
    name, rollout = service["metadata"]["name"], _rollout(service)
    if not _is_observed(service) or not rollout.get("phase"):
        return f"{name}: the operator has not looked at the latest change yet (hortator k8s doctor)"
    overdue = f" ({OVERDUE})" if is_overdue(service) else ""
    ready = _condition(service, "Ready")
    is_amiss = rollout["phase"] == "Complete" and ready.get("status") != "True"
    amiss = f"; not ready: {ready.get('reason', 'unknown')}" if is_amiss else ""
    return f"{name}: {rollout['phase']}{overdue}: {rollout.get('message', '')}{amiss}"


def is_done(service: Obj) -> bool:
    """All groups run what the present spec asks for, and serve."""
    is_complete = _is_observed(service) and _rollout(service).get("phase") == "Complete"
    return is_complete and _condition(service, "Ready").get("status") == "True"


def is_overdue(service: Obj) -> bool:
    """The operator says that it takes too long."""
    return _is_observed(service) and _condition(service, "Progressing").get("reason") == OVERDUE


def render(found: list[Revision], *, now: datetime) -> Table:
    """The revisions for people."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("role", "revision", "hash", "age", "groups", "", "what changed"):
        table.add_column(column, overflow="fold")
    before: dict[str, Obj] = {}
    for one in found:
        lines = revisions.changes(before.get(one.role), one.fields)
        before[one.role] = one.fields
        table.add_row(
            one.role,
            str(one.number),
            one.hash,
            age(one.created_at, now),
            str(one.num_groups),
            "wanted" if one.is_wanted else "",
            "\n".join(lines),
        )
    return table


async def _history(kube: Kube, service: Obj) -> list[Revision]:
    labels = {names.LABEL_SERVICE: service["metadata"]["name"]}
    children: list[Obj] = []
    for kind in ("ControllerRevision", "StatefulSet"):
        children += [
            {"kind": kind, **one}
            for one in await kube.objects("apps/v1", kind, namespace=kube.namespace, labels=labels)
        ]
    return revisions.history(service, children)


async def _change(kube: Kube, service: Obj, patch: Any) -> None:
    """Write to the spec of a service as it was read."""
    metadata = service["metadata"]
    body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "spec": patch}
    await kube.patch(service_ref(kube, metadata["name"]), body)


def _also_changed(service: Obj, spec: Obj, targets: list[Revision]) -> list[str]:
    before = revisions.wanted_hashes(service)
    after = parse({**service, "spec": spec})
    now = revisions.wanted_hashes({**service, "spec": spec}) if after.service is not None else {}
    named = {one.role for one in targets}
    return [role for role, hashed in now.items() if role not in named and before.get(role) != hashed]


def _document(service: Obj) -> Obj:
    return {
        "name": service["metadata"]["name"],
        "done": is_done(service),
        "overdue": is_overdue(service),
        "rollout": _rollout(service),
    }


def _rollout(service: Obj) -> Obj:
    found: Obj = (service.get("status") or {}).get("rollout") or {}
    return found


def _condition(service: Obj, kind: str) -> Obj:
    conditions = (service.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def _is_observed(service: Obj) -> bool:
    status = service.get("status") or {}
    return bool(status.get("observedGeneration") == service["metadata"].get("generation"))
