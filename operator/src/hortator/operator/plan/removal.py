"""Groups that nobody wants any more: drained, then deleted, pods before what they are reached by.

Which groups go is a matter of names: groups are numbered over all role sets, so scaling down takes the
highest numbers, whoever is least busy. (Taking the least busy one would leave holes that the numbering
of role sets, the scale subresource and every reader of the names would have to know.)
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.operator.lifecycle import Assessment
from hortator.operator.objects import Ref
from hortator.operator.observed import GroupFacts
from hortator.operator.observed.reading import text
from hortator.operator.plan import drains
from hortator.operator.plan.actions import Delete, Item, emitted
from hortator.operator.plan.groups import cleared
from hortator.operator.situation import Situation
from hortator.operator.status.reasons import Reason
from hortator.operator.waiting import is_drained


def removals(situation: Situation) -> Iterator[Item]:
    """The next step of every group that is one too many."""
    for group, assessment in situation.surplus:
        yield from _next_step(situation, group, assessment)


def _next_step(situation: Situation, group: GroupFacts, assessment: Assessment) -> Iterator[Item]:
    if group.exists:
        if is_drained(situation, group, assessment):
            ref = situation.statefulset_ref(group.name)
            why = f"group {group.name} is not wanted any more"
            yield Delete(ref=ref, uid=group.uid, grace_s=None, why=why)
            yield emitted(Reason.SCALE_DOWN, why)
        elif group.memory.drain_started_at is None:
            yield from drains.start(situation, group, Reason.SCALE_DOWN)
        else:
            yield from drains.ask(situation, group)
        return
    yield from cleared(situation, group, is_broken=False)
    if group.pods or situation.statefulset_ref(group.name) in situation.observed.leftovers:
        return
    for ref in _beside(situation, group.name):
        live = situation.observed.objects.get(ref)
        if live is not None and ref not in situation.observed.leftovers:
            why = f"group {group.name} is gone"
            yield Delete(ref=ref, uid=text(live, "metadata", "uid"), grace_s=None, why=why)


def _beside(situation: Situation, name: str) -> tuple[Ref, ...]:
    """What carries the group's name beside the StatefulSet; the Secret goes with the LLMService."""
    namespace = situation.desired.owner.namespace
    return (
        Ref(api_version="policy/v1", kind="PodDisruptionBudget", namespace=namespace, name=name),
        Ref(api_version="v1", kind="Service", namespace=namespace, name=name),
    )
