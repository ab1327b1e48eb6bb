"""`hortator k8s doctor`: is this cluster fit for LLMServices? One line per check, with the fix.

A check that fails is a reason why services do not work; a warning is one why some may not. Checks go on
after a failure as far as that makes sense.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime

from hortator.api.v1alpha1 import API_VERSION, GROUP, KIND, PLURAL
from hortator.api.v1alpha1.scaler import SCALER_KIND
from hortator.cli.checks import render
from hortator.cli.console import stdout
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.k8s.client import Access, Kube, NotAllowedError, open_cluster
from hortator.cli.k8s.options import ClusterOptions
from hortator.operator import names
from hortator.operator.objects import Obj, Ref
from hortator.runtime.checks import Check

MIN_MINOR = 29
GPU = "nvidia.com/gpu"
LEASE_GRACE_S = 30.0

NEEDED = (
    Access(verb="get", group=GROUP, resource=PLURAL),
    Access(verb="list", group=GROUP, resource=PLURAL),
    Access(verb="patch", group=GROUP, resource=PLURAL),
    Access(verb="patch", group="apps", resource="statefulsets"),
    Access(verb="list", group="", resource="pods"),
    Access(verb="get", group="", resource="pods", subresource="log"),
)
"""What the commands under `hortator k8s` do."""


async def run(options: ClusterOptions, *, operator_namespace: str | None, as_json: bool) -> int:
    """Print all checks; the exit code is 1 when one has failed."""
    async with open_cluster(options) as kube:
        checks = [check async for check in diagnose(kube, operator_namespace=operator_namespace)]
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        stdout().print(render(checks))
    return EXIT_FAILED if any(check.verdict == "failed" for check in checks) else 0


async def diagnose(kube: Kube, *, operator_namespace: str | None) -> AsyncIterator[Check]:
    """Every check in order; after the first, none raises."""
    yield _version(await kube.version())
    is_installed = await kube.serves(API_VERSION, KIND)
    yield Check(
        name="CRD",
        verdict="ok" if is_installed else "failed",
        found=f"{API_VERSION} {KIND} is {'served' if is_installed else 'not served'}",
        fix="" if is_installed else "kubectl apply -f manifests/install.yaml",
    )
    are_scaled = await kube.serves(API_VERSION, SCALER_KIND)
    yield Check(
        name="CRD",
        verdict="ok" if are_scaled else "warning",
        found=f"{API_VERSION} {SCALER_KIND} is {'served' if are_scaled else 'not served'}",
        fix="" if are_scaled else "to scale roles apart: kubectl apply -f manifests/crd-scaler.yaml",
    )
    async for check in _guarded("permissions", _permissions(kube)):
        yield check
    async for check in _guarded("nodes", _nodes(kube)):
        yield check
    async for check in _guarded("operator", _operator(kube, operator_namespace)):
        yield check


async def _guarded(name: str, checks: AsyncIterator[Check]) -> AsyncIterator[Check]:
    try:
        async for check in checks:
            yield check
    except NotAllowedError as error:
        yield Check(
            name=name, verdict="warning", found=f"not known: {error}", fix="ask with more permissions"
        )
    except CommandError as error:
        yield Check(name=name, verdict="failed", found=str(error))


def _version(version: str) -> Check:
    found = re.match(r"v(\d+)\.(\d+)", version)
    is_enough = found is not None and (int(found.group(1)), int(found.group(2))) >= (1, MIN_MINOR)
    return Check(
        name="API server",
        verdict="ok" if is_enough else "failed",
        found=version or "of an unknown version",
        fix="" if is_enough else f"Kubernetes 1.{MIN_MINOR} or newer is needed",
    )


async def _permissions(kube: Kube) -> AsyncIterator[Check]:
    missing = [access for access in NEEDED if not await kube.may(access)]
    if not missing:
        yield Check(
            name="permissions",
            verdict="ok",
            found=f"you may do all that these commands do in {kube.namespace}",
        )
    for access in missing:
        yield Check(
            name="permissions",
            verdict="warning",
            found=f"you may not {access} in {kube.namespace}",
            fix="ask for a role with it",
        )


async def _nodes(kube: Kube) -> AsyncIterator[Check]:
    nodes = await kube.objects("v1", "Node", namespace=None)
    ready = [node for node in nodes if _is_ready(node)]
    away = sorted(node["metadata"]["name"] for node in nodes if not _is_ready(node))
    yield Check(
        name="nodes",
        verdict="failed" if not ready else "warning" if away else "ok",
        found=f"{len(ready)} of {len(nodes)} ready" + (f", not: {', '.join(away)}" if away else ""),
        fix="kubectl describe node" if away or not ready else "",
    )
    gpus = {node["metadata"]["name"]: _num_gpus(node) for node in ready if _num_gpus(node)}
    yield Check(
        name="GPUs",
        verdict="ok" if gpus else "warning",
        found=f"{sum(gpus.values())} {GPU} on {len(gpus)} nodes" if gpus else f"no node offers {GPU}",
        fix="" if gpus else "install the device plugin; without GPUs only Simulated and TorchMoE run",
    )


async def _operator(kube: Kube, namespace: str | None) -> AsyncIterator[Check]:
    leases = await _leases(kube, namespace)
    if not leases:
        where = f"in namespace {namespace}" if namespace else "in any namespace that you may see"
        yield Check(
            name="operator",
            verdict="failed",
            found=f"no Lease {names.OPERATOR_NAME} {where}: it has never run",
            fix="kubectl apply -f manifests/install.yaml",
        )
    for lease in leases:
        yield _alive(lease, now=datetime.now(UTC))


async def _leases(kube: Kube, namespace: str | None) -> list[Obj]:
    if namespace is not None:
        ref = Ref(
            api_version="coordination.k8s.io/v1", kind="Lease", namespace=namespace, name=names.OPERATOR_NAME
        )
        found = await kube.get(ref)
        return [] if found is None else [found]
    everywhere = await kube.objects("coordination.k8s.io/v1", "Lease", namespace=None)
    return [lease for lease in everywhere if lease["metadata"]["name"] == names.OPERATOR_NAME]


def _alive(lease: Obj, *, now: datetime) -> Check:
    spec = lease.get("spec") or {}
    holder, where = spec.get("holderIdentity") or "", lease["metadata"]["namespace"]
    try:
        silent_s = (now - datetime.fromisoformat(str(spec.get("renewTime")))).total_seconds()
    except ValueError:
        silent_s = float("inf")
    limit_s = float(spec.get("leaseDurationSeconds") or 0) + LEASE_GRACE_S
    if holder and silent_s <= limit_s:
        return Check(name="operator", verdict="ok", found=f"{holder} leads in namespace {where}")
    return Check(
        name="operator",
        verdict="failed",
        found=f"nobody leads in namespace {where}"
        + (f"; {holder} was last heard {silent_s:.0f} s ago" if holder else ""),
        fix=f"kubectl -n {where} get pods (what serves goes on serving meanwhile)",
    )


def _is_ready(node: Obj) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _num_gpus(node: Obj) -> int:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    try:
        return int(allocatable.get(GPU, 0))
    except ValueError:
        return 0
