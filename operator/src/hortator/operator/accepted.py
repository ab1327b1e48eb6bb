"""The spec that was accepted last, kept in the cluster: it is carried out while a later one breaks a rule.

    ControllerRevision <service>-accepted-<generation>-<hash of the uid>
        revision    metadata.generation of the LLMService at that time
        data.spec   the spec as it was then

It is created before anything else is done for a spec, and never changed; older ones go once it is there. So
whatever was done was done for the newest of them, or for the present spec, and an operator that starts beside
an invalid one reads here what to go on with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hortator.api.parse import Parsed, parse
from hortator.api.v1alpha1 import API_VERSION, KIND, LLMService
from hortator.operator import names
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import is_owned_by, mapping, number, text, texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A spec without problems."""

    service: LLMService
    generation: int
    """metadata.generation that it was taken from."""


def accepted(obj: Obj, parsed: Parsed, *, known: Iterable[Obj]) -> Accepted | None:
    """What is carried out for an LLMService as the API server has it: what it says, or said last.

    `parsed` is what `obj` says; `known` are the ControllerRevisions that exist. None when it breaks a rule
    and no record of an earlier spec can be read. Total.
    """
    generation = number(obj, "metadata", "generation", default=1)
    if parsed.service is not None and not parsed.problems:
        return Accepted(service=parsed.service, generation=generation)
    uid = text(obj, "metadata", "uid")
    records = [one for one in known if is_record(one) and is_owned_by(one, uid)]
    for one in sorted(records, key=lambda record: -number(record, "revision")):
        head = {"name": text(obj, "metadata", "name"), "namespace": text(obj, "metadata", "namespace")}
        earlier = parse(
            {"apiVersion": API_VERSION, "kind": KIND, "metadata": head, "spec": mapping(one, "data", "spec")}
        )
        if earlier.service is not None and not earlier.problems:
            return Accepted(service=earlier.service, generation=number(one, "revision"))
    return None


def record_of(service: LLMService, *, generation: int, owner: Owner) -> Obj:
    """The ControllerRevision that keeps a spec."""
    labels = names.component_labels(owner.name, names.COMPONENT_ACCEPTED)
    name = names.accepted_name(owner.name, generation, owner.uid)
    obj = child("apps/v1", "ControllerRevision", name, owner=owner, labels=labels)
    obj["revision"] = generation
    obj["data"] = {"spec": service.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)}
    return obj


def is_record(obj: Obj) -> bool:
    """Whether a ControllerRevision keeps a spec, and not a pod template."""
    return texts(obj, "metadata", "labels").get(names.LABEL_COMPONENT) == names.COMPONENT_ACCEPTED
