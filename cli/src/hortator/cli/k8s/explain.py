"""`hortator k8s explain`: what blocks an LLMService and what helps, by the operator's own reasoning.

The operator's pure functions run here on what the API server says now, so the answer is as good without the
operator as with it. Only the scheduler cannot be asked from outside the cluster: what it says of the groups
is taken from the status, and what groups say that are starting from their logs (see `starting`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

from hortator.api.parse import parse
from hortator.cli.k8s.client import open_cluster
from hortator.cli.k8s.options import ClusterOptions
from hortator.cli.k8s.service import Surroundings, find_service, surroundings
from hortator.cli.k8s.starting import said
from hortator.operator.desired import carried_out
from hortator.operator.objects import Obj
from hortator.operator.observed import Meta, WorkerLoad, observe
from hortator.operator.options import Images, Options
from hortator.operator.status.explain import explain


async def run(options: ClusterOptions, *, name: str | None, as_json: bool) -> None:
    """Print the explanation."""
    async with open_cluster(options) as kube:
        service = await find_service(kube, name)
        around = await surroundings(kube, service["metadata"]["name"])
        own_words = await said(kube, around.children)
    text = explained(service, around, now=datetime.now(UTC))
    text += "".join(f"  {line}\n" for line in own_words)
    if as_json:
        print(json.dumps({"name": service["metadata"]["name"], "lines": text.splitlines()}, indent=2))
    else:
        print(text, end="")


def explained(service: Obj, around: Surroundings, *, now: datetime) -> str:
    """The explanation of a live object. Pure."""
    metadata = service["metadata"]
    status = service.get("status") or {}
    meta = Meta(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        status=status,
    )
    parsed = parse(service)
    options = Options(images=Images.of_version(version("hortator")))
    spec, wanted = carried_out(service, parsed, options=options, children=around.children)
    return explain(
        spec,
        meta=meta,
        desired=wanted,
        problems=parsed.problems,
        observed=observe(around.objects, meta=meta, loads=loads_of(status)),
        now=now,
    )


def loads_of(status: Obj) -> Mapping[str, WorkerLoad]:
    """What the operator last heard from the scheduler, by worker id."""
    loads: dict[str, WorkerLoad] = {}
    for group in status.get("groups") or ():
        members: list[Obj] = group.get("members") or [{}]
        if group.get("inFlight") is None or not group.get("workerId"):
            continue
        is_draining = group.get("phase") == "Draining"
        loads[group["workerId"]] = WorkerLoad(
            worker_id=group["workerId"],
            boot_id=members[0].get("bootId") or f"{group.get('epoch', 0)}-",
            state="draining" if is_draining else "ready",
            num_in_flight=group["inFlight"],
            num_ranks=0,
            is_draining=is_draining,
        )
    return loads
