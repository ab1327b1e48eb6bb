"""Writing a group's StatefulSet: always the whole object, so that what is left out goes.

    created, admitted   from what is wanted of the group now (`View.wanted`)
    moved               the same, without pods: closing and the next revision are one write
    everything else     from the live object: a note or a new epoch changes nothing else of a group that runs

The second is why neither a new version of the operator nor a changed spec touches a running template before
the group is closed. An apply over a live object names its uid and resourceVersion: a plan that was made from
an older state of the group is refused and made again.
"""

from __future__ import annotations

from typing import Any

from hortator.operator import names
from hortator.operator.desired import DesiredGroup
from hortator.operator.objects import Obj
from hortator.operator.observed import GroupFacts, Memory, write_memory
from hortator.operator.observed.reading import at, mapping, text, texts

FIRST_EPOCH = 1
_OUR_LABELS = (names.PREFIX, "app.kubernetes.io/")


def created(wanted: DesiredGroup, *, memory: Memory) -> Obj:
    """A group that is not there: no pods, first epoch."""
    return wanted.statefulset(epoch=FIRST_EPOCH, replicas=0, annotations=write_memory(memory))


def admitted(
    group: GroupFacts,
    wanted: DesiredGroup,
    *,
    memory: Memory,
    domain: tuple[str, str] | None,
    avoided: frozenset[str],
) -> Obj:
    """All pods at once, in the epoch that the closed group names, by the template of what is wanted."""
    obj = wanted.statefulset(
        epoch=epoch_of_start(group),
        replicas=wanted.num_members,
        annotations=write_memory(memory),
        domain=domain,
        avoided=avoided,
        uid=group.uid,
    )
    return _over(group, obj)


def noted(group: GroupFacts, *, memory: Memory) -> Obj:
    """The live object with other notes."""
    return _live(group, memory=memory, epoch=group.epoch, replicas=group.replicas)


def resized(group: GroupFacts, *, replicas: int) -> Obj:
    """The live object with as many pods as it should have; for a group that has more."""
    return _live(group, memory=group.memory, epoch=group.epoch, replicas=replicas)


def closed(group: GroupFacts, *, memory: Memory) -> Obj:
    """No pods, and the next epoch: in one write, before any pod of the old one is gone."""
    return _live(group, memory=memory, epoch=next_epoch(group), replicas=0)


def moved(group: GroupFacts, wanted: DesiredGroup, *, memory: Memory) -> Obj:
    """Closed, and of another revision: whoever plans next sees that its turn was taken."""
    obj = wanted.statefulset(
        epoch=next_epoch(group), replicas=0, annotations=write_memory(memory), uid=group.uid
    )
    return _over(group, obj)


def epoch_of_start(group: GroupFacts) -> int:
    """In which a closed group starts."""
    return max(group.epoch, FIRST_EPOCH)


def next_epoch(group: GroupFacts) -> int:
    """One that no pod has had, even if somebody has taken the label off the template."""
    failure = group.memory.failure
    seen = [group.epoch, failure.epoch if failure is not None else 0, *(pod.epoch for pod in group.pods)]
    return max(seen) + 1


def _live(group: GroupFacts, *, memory: Memory, epoch: int, replicas: int) -> Obj:
    live = group.statefulset
    spec = _without_nulls(mapping(live, "spec"))
    spec["replicas"] = replicas
    template = mapping(spec, "template")
    head = mapping(template, "metadata")
    head["labels"] = texts(head, "labels") | {names.LABEL_EPOCH: str(epoch)}
    spec["template"] = template | {"metadata": head}
    labels = texts(live, "metadata", "labels")
    metadata: Obj = {
        "name": text(live, "metadata", "name"),
        "namespace": text(live, "metadata", "namespace"),
        "labels": {key: value for key, value in labels.items() if key.startswith(_OUR_LABELS)},
        "annotations": write_memory(memory),
        "ownerReferences": at(live, "metadata", "ownerReferences") or [],
    }
    obj: Obj = {
        "apiVersion": text(live, "apiVersion"),
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": spec,
    }
    return _over(group, obj)


def _over(group: GroupFacts, obj: Obj) -> Obj:
    metadata = mapping(obj, "metadata") | {"uid": group.uid}
    version = text(group.statefulset, "metadata", "resourceVersion")
    if version:
        metadata["resourceVersion"] = version
    return obj | {"metadata": metadata}


def _without_nulls(value: Any) -> Any:
    """A copy without nulls: the API server writes some that it does not take."""
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_nulls(entry) for entry in value]
    return value
