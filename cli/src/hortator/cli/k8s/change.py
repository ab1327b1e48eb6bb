"""`hortator k8s restart` and `drain`: what a person asks of the operator, written where it looks.

    restart   spec.restart.requestedAt of the LLMService: every group, one after the other
    drain     annotation serving.hortator.dev/drain-requested of a group's StatefulSet: that group, in its
              present epoch

Either way a group is drained first, so no request fails, and then starts anew with the next epoch; on a
cordoned node it starts elsewhere. Nothing is changed but this one field.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime

from hortator.cli.console import stderr, stdout
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.k8s.client import Kube, open_cluster
from hortator.cli.k8s.options import ClusterOptions
from hortator.cli.k8s.service import find_service, group_named, service_ref
from hortator.operator import names
from hortator.operator.objects import Obj, Ref

POLL_S = 1.0


async def restart(options: ClusterOptions, *, name: str | None, wait_s: float | None, as_json: bool) -> int:
    """Ask for a restart of every group; the exit code."""
    now = _now()
    async with open_cluster(options) as kube:
        service = await find_service(kube, name)
        found = service["metadata"]["name"]
        await kube.patch(service_ref(kube, found), {"spec": {"restart": {"requestedAt": now}}})
        _say(
            {"name": found, "requestedAt": now},
            f"{found}: every group restarts, one after the other",
            as_json=as_json,
        )
        if wait_s is None:
            return 0

        def is_done(live: Obj) -> bool:
            status = live.get("status") or {}
            return (status.get("restart") or {}).get("observedRequestedAt") == now and _is_ready(live)

        return await _wait(kube, found, is_done, wait_s=wait_s)


async def drain(
    options: ClusterOptions, *, name: str | None, group: str, wait_s: float | None, as_json: bool
) -> int:
    """Ask for a drain and a new start of one group; the exit code."""
    async with open_cluster(options) as kube:
        service = await find_service(kube, name)
        found = service["metadata"]["name"]
        target = group_named(service, group)
        ref = Ref(api_version="apps/v1", kind="StatefulSet", namespace=kube.namespace, name=target["name"])
        epoch = await _epoch(kube, ref)
        annotation = {names.ANNOTATION_DRAIN_REQUESTED: str(epoch)}
        await kube.patch(ref, {"metadata": {"annotations": annotation}})
        num_in_flight = target.get("inFlight")  # known of a group that drains already
        known = "" if num_in_flight is None else f" ({num_in_flight} in flight)"
        line = f"{ref.name}: drains{known}, then starts anew with epoch {epoch + 1}"
        _say({"name": found, "group": ref.name, "epoch": epoch}, line, as_json=as_json)
        if wait_s is None:
            return 0

        def is_done(live: Obj) -> bool:
            now_there = group_named(live, target["name"])
            return int(now_there.get("epoch") or 0) > epoch and now_there.get("phase") == "Ready"

        return await _wait(kube, found, is_done, wait_s=wait_s)


async def _epoch(kube: Kube, ref: Ref) -> int:
    """That a group is in, from where it lives: the label of its pod template."""
    statefulset = await kube.get(ref)
    if statefulset is None:
        raise CommandError(f"{ref.name} does not exist (hortator k8s explain says why)")
    labels = statefulset["spec"]["template"]["metadata"].get("labels") or {}
    epoch = str(labels.get(names.LABEL_EPOCH, ""))
    if not epoch.isdecimal():
        raise CommandError(
            f"StatefulSet {ref.name}: label {names.LABEL_EPOCH} of its pod template: got {epoch!r}"
        )
    return int(epoch)


async def _wait(kube: Kube, name: str, is_done: Callable[[Obj], bool], *, wait_s: float) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        live = await find_service(kube, name)
        if is_done(live):
            return 0
        if loop.time() >= deadline:
            stderr().print(f"{name}: not done after {wait_s:g} s (hortator k8s explain {name})", markup=False)
            return EXIT_FAILED
        await asyncio.sleep(POLL_S)


def _is_ready(service: Obj) -> bool:
    conditions = (service.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _say(document: Obj, line: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(document))
    else:
        stdout().print(line, markup=False)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
