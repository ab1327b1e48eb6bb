"""The Jobs by which nodes pull an image before a group moves: made when they are needed, gone when not.

At most `MAX_AT_ONCE` are at work at a time, of the groups that move first: a registry serves others too. They
come last in a plan, so that a cluster that refuses them holds up nothing else; it is asked again every minute
as long as one is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.operator.objects import Ref
from hortator.operator.observed.reading import seconds_later, text
from hortator.operator.plan.actions import Create, Delete, Emit, Item, emitted, wake
from hortator.operator.pulls import (
    LIMIT_S,
    REFUSED_LIMIT_S,
    REFUSED_RETRY_S,
    Pull,
    PullState,
    is_pull,
    within_s,
)
from hortator.operator.situation import Situation, View
from hortator.operator.status.reasons import Reason

MAX_AT_ONCE = 8


def pulls(situation: Situation) -> Iterator[Item]:
    """Bring the Jobs to what is needed now."""
    observed = situation.observed
    needed = _needed(situation)
    for ref, obj in observed.objects.items():
        if is_pull(obj) and ref not in observed.leftovers:
            one = needed.get(ref)
            if one is None or one.is_stale:
                why = f"{ref} is not needed any more" if one is None else f"{ref} was ended and is made again"
                yield Delete(ref=ref, uid=text(obj, "metadata", "uid"), grace_s=None, why=why)
    refusal = observed.pull_refusal
    retry_at = seconds_later(refusal.at, REFUSED_RETRY_S) if refusal is not None else situation.now
    num_at_work = sum(_is_at_work(one) and one.since is not None for one in needed.values())
    for ref, one in needed.items():
        if ref not in observed.objects:
            if refusal is not None:
                yield from wake(situation.now, retry_at)
                yield from wake(situation.now, seconds_later(refusal.since, REFUSED_LIMIT_S))
            if num_at_work < MAX_AT_ONCE and situation.now >= retry_at:
                num_at_work += 1
                yield Create(obj=one.job, why=f"node {one.node} is to pull image {one.image}")
        elif one.state is PullState.PENDING and one.since is not None:
            yield from wake(situation.now, seconds_later(one.since, LIMIT_S))


def given_up(view: View) -> Iterator[Emit]:
    """What is said of a group that begins to move although a node has not pulled its image."""
    for one in view.pulls:
        if one.state is PullState.GIVEN_UP:
            said = f": {one.told}" if one.told else ""
            message = (
                f"group {view.wanted.name} moves although node {one.node} has not pulled image {one.image} "
                f"within {within_s(one):g} s{said}"
            )
            yield emitted(Reason.PRE_PULL_FAILED, message, is_warning=True)


def _needed(situation: Situation) -> dict[Ref, Pull]:
    """By Job, those of groups that move first at the front."""
    views = sorted(situation.all_views, key=lambda view: (-view.wanted.index, view.wanted.role))
    return {one.ref: one for view in views for one in view.pulls}


def _is_at_work(one: Pull) -> bool:
    return one.state is not PullState.DONE
