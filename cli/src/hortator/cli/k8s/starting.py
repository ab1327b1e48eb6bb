"""What groups that are starting say for themselves: whom they wait for, which the API server does not know.

A process that hosts an engine writes `still starting` into its log now and then, with what it waits for:
members that have not joined, a rank that has said nothing while others have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from hortator.cli.errors import CommandError
from hortator.cli.k8s.client import Kube
from hortator.operator import names
from hortator.operator.objects import Obj
from hortator.worker.startup import STILL_STARTING

TAIL = 5000
"""Lines that are looked at: ranks may say a lot meanwhile."""


async def said(kube: Kube, children: Iterable[Obj]) -> Sequence[str]:
    """One line for each such pod that has said something, by name; none of a log that one may not read."""
    lines = []
    for pod in sorted(name for obj in children if (name := starting_host(obj))):
        pieces = kube.logs(pod, container=names.ENGINE_CONTAINER, follow=False, previous=False, tail=TAIL)
        try:
            log = b"".join([piece async for piece in pieces])
        except CommandError:
            continue
        words = last_words(log.decode(errors="replace"))
        if words:
            lines.append(f"pod {pod} says: {words}")
    return lines


def starting_host(obj: Obj) -> str:
    """The name of a pod that runs, is not ready and would host an engine; empty: it is something else."""
    if obj["kind"] != "Pod":
        return ""
    name, status = str(obj["metadata"]["name"]), obj.get("status") or {}
    labels = obj["metadata"].get("labels") or {}
    if labels.get(names.LABEL_COMPONENT) != names.COMPONENT_ENGINE or not name.endswith("-0"):
        return ""
    is_ready = any(
        one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or ()
    )
    is_running = any("running" in (one.get("state") or {}) for one in status.get("containerStatuses") or ())
    return name if is_running and not is_ready else ""


def last_words(log: str) -> str:
    """What it waited for when it last said so; empty: it never did."""
    for line in reversed(log.splitlines()):
        if STILL_STARTING not in line:
            continue
        try:
            return str(json.loads(line)["waits_for"])
        except (ValueError, KeyError, TypeError):
            continue
    return ""
