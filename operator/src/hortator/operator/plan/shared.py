"""What all groups share: accounts, NetworkPolicies, revisions, scheduler, gateway, cache.

The record of the spec comes before all else: whatever is done is done for a spec that is kept (`accepted`).
Each object is applied when it is missing or says something else, in the order of `desired.shared`. Records,
revisions and the prefetch Job never change: they are created, and a Job of another revision is deleted first.
NetworkPolicies go when they are not wanted any more, because they forbid something. Records of earlier specs
go when that of this one is there; revisions that nothing runs any more are kept up to a limit per role
(spec.rollout.revisionHistoryLimit), to go back to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hortator.api.v1alpha1 import RoleName
from hortator.operator import names
from hortator.operator.accepted import is_record
from hortator.operator.objects import Obj, Ref, ref_of
from hortator.operator.observed.reading import number, text, texts
from hortator.operator.plan.actions import Create, Delete, Item
from hortator.operator.plan.groups import applied
from hortator.operator.revision import role_of
from hortator.operator.situation import Situation


def record(situation: Situation) -> Iterator[Item]:
    """Keep the spec that is carried out."""
    yield from _created(situation, situation.desired.record, "keeps the spec that is carried out")


def shared_objects(situation: Situation) -> Iterator[Item]:
    """Bring what is shared to what is wanted."""
    for obj in situation.desired.revisions:
        yield from _created(situation, obj, "holds the pod template of a revision")
    for obj in situation.desired.shared:
        yield from applied(situation, obj)
    yield from _old_policies(situation)
    yield from _prefetch(situation)
    yield from _old_revisions(situation)
    yield from _old_records(situation)


def _created(situation: Situation, obj: Obj, what: str) -> Iterator[Item]:
    ref = ref_of(obj)
    if ref not in situation.observed.objects:
        yield Create(obj=obj, why=f"{ref} {what}")


def _old_policies(situation: Situation) -> Iterator[Item]:
    wanted = {ref_of(obj) for obj in situation.desired.shared}
    for ref in situation.observed.objects:
        if ref.kind == "NetworkPolicy" and ref not in wanted:
            yield from _deleted(situation, ref, "is not wanted any more")


def _prefetch(situation: Situation) -> Iterator[Item]:
    wanted, objects = situation.desired.prefetch, situation.observed.objects
    if wanted is not None:
        live = objects.get(ref_of(wanted))
        if live is not None and _revision(live) != _revision(wanted):
            yield from _deleted(situation, ref_of(wanted), "fills the cache for another revision")
        yield from _created(situation, wanted, "fills the model cache")
    else:
        for ref in objects:
            if ref.kind == "Job" and ref.name == names.prefetch_name(situation.meta.name):
                yield from _deleted(situation, ref, "is not needed any more")


def _deleted(situation: Situation, ref: Ref, why: str) -> Iterator[Item]:
    if ref not in situation.observed.leftovers:
        uid = text(situation.observed.objects[ref], "metadata", "uid")
        yield Delete(ref=ref, uid=uid, grace_s=None, why=f"{ref} {why}")


def _old_revisions(situation: Situation) -> Iterator[Item]:
    observed = situation.observed
    in_use = {ref_of(obj).name for obj in situation.desired.revisions}
    in_use |= {
        names.revision_name(situation.meta.name, group.role, revision)
        for group in observed.groups.values()
        for revision in (group.revision, *(pod.revision for pod in group.pods))
        if revision
    }
    unused = [
        (number(obj, "revision"), ref)
        for ref in _revisions(situation)
        if ref.name not in in_use and not is_record(obj := observed.objects[ref])
    ]
    unused.sort(key=lambda entry: (-entry[0], entry[1].name))
    seen: Counter[RoleName | None] = Counter()
    for _, ref in unused:
        role = role_of(observed.objects[ref])
        seen[role] += 1
        if seen[role] > situation.spec.rollout.revision_history_limit:
            yield from _deleted(situation, ref, "is older than the history that is kept")


def _old_records(situation: Situation) -> Iterator[Item]:
    current = ref_of(situation.desired.record)
    for ref in _revisions(situation):
        is_older = ref != current and is_record(situation.observed.objects[ref])
        if is_older and current in situation.observed.objects:
            yield from _deleted(situation, ref, "keeps a spec that is not carried out any more")


def _revisions(situation: Situation) -> list[Ref]:
    """Our ControllerRevisions."""
    observed = situation.observed
    return [
        ref for ref in observed.objects if ref.kind == "ControllerRevision" and ref not in observed.leftovers
    ]


def _revision(obj: Obj) -> str:
    return texts(obj, "metadata", "labels").get(names.LABEL_REVISION, "")
