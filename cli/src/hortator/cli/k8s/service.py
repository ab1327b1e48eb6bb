"""One LLMService on a cluster: found by its name, with what belongs to it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from hortator.api.v1alpha1 import API_VERSION, KIND, SCALER_KIND
from hortator.cli.errors import EXIT_USAGE, CommandError
from hortator.cli.k8s.client import Kube
from hortator.operator import names
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.reading import text

CHILD_KINDS = (
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ControllerRevision"),
    ("batch/v1", "Job"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "Service"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Pod"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an LLMService's state follows from."""

    children: tuple[Obj, ...]
    others: tuple[Obj, ...]
    """Nodes, other pods and events, as far as one may see them."""

    @property
    def objects(self) -> tuple[Obj, ...]:
        """All of them, each once."""
        seen = {_identity(obj): obj for obj in (*self.children, *self.others)}
        return tuple(seen.values())


def service_ref(kube: Kube, name: str) -> Ref:
    """Where an LLMService of that name is."""
    return Ref(api_version=API_VERSION, kind=KIND, namespace=kube.namespace, name=name)


async def find_service(kube: Kube, name: str | None) -> Obj:
    """The LLMService of that name, or without a name the only one of the namespace.

    Raises:
        CommandError: there is none; the message names what there is.
    """
    if name is None:
        return await _the_only_one(kube)
    found = await kube.get(service_ref(kube, name))
    if found is not None:
        return found
    raise CommandError(await _not_found(kube, name), exit_code=EXIT_USAGE)


async def surroundings(kube: Kube, name: str) -> Surroundings:
    """Everything that the operator looks at, as far as the caller may see it."""
    labels = {names.LABEL_SERVICE: name}
    children: list[Obj] = []
    for api_version, kind in CHILD_KINDS:
        children += await kube.objects_if_allowed(api_version, kind, namespace=kube.namespace, labels=labels)
    children += [
        scaler
        for scaler in await kube.objects_if_allowed(API_VERSION, SCALER_KIND, namespace=kube.namespace)
        if text(scaler, "spec", "serviceName") == name
    ]
    others = await kube.objects_if_allowed("v1", "Node", namespace=None)
    others += await kube.objects_if_allowed("v1", "Pod", namespace=None)
    others += await kube.objects_if_allowed("v1", "Event", namespace=kube.namespace)
    return Surroundings(children=tuple(children), others=tuple(others))


def group_named(service: Obj, name: str) -> Obj:
    """A group of the status by the name of its StatefulSet or its worker id.

    Raises:
        CommandError: there is none of that name.
    """
    groups: list[Any] = (service.get("status") or {}).get("groups") or []
    for group in groups:
        if name in {group.get("name"), group.get("workerId")}:
            found: Obj = group
            return found
    known = [str(group.get("workerId") or group.get("name")) for group in groups]
    owner, allowed = service["metadata"]["name"], ", ".join(known) or "none"
    line = f"group {name}: {owner} has no such group (allowed: {allowed})"
    raise CommandError(line, exit_code=EXIT_USAGE)


async def _the_only_one(kube: Kube) -> Obj:
    found = await kube.objects(API_VERSION, KIND, namespace=kube.namespace)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(
            f"namespace {kube.namespace} has no LLMService (kubectl apply -f FILE)", exit_code=EXIT_USAGE
        )
    known = ", ".join(sorted(obj["metadata"]["name"] for obj in found))
    raise CommandError(
        f"which LLMService of namespace {kube.namespace}? (allowed: {known})", exit_code=EXIT_USAGE
    )


async def _not_found(kube: Kube, name: str) -> str:
    here = [
        obj["metadata"]["name"] for obj in await kube.objects(API_VERSION, KIND, namespace=kube.namespace)
    ]
    line = f"no LLMService {name} in namespace {kube.namespace}"
    near = difflib.get_close_matches(name, here, n=3)
    if near:
        return f"{line} (did you mean {' or '.join(near)}?)"
    everywhere = await kube.objects_if_allowed(API_VERSION, KIND, namespace=None)
    elsewhere = sorted(obj["metadata"]["namespace"] for obj in everywhere if obj["metadata"]["name"] == name)
    if elsewhere:
        return f"{line} (there is one in {', '.join(elsewhere)}: add --namespace)"
    return f"{line} (there: {', '.join(sorted(here)) or 'none'})"


def _identity(obj: Obj) -> tuple[str, str, str]:
    metadata = obj["metadata"]
    return obj.get("kind", ""), metadata.get("namespace", ""), metadata["name"]
