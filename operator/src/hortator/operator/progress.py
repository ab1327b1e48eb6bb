"""How far a rollout is: what has moved, what moves now, why the rest does not, and whether it takes too long.

    updated     wanted groups that run, or start with, what spec asks for
    moving      groups that drain for it, or have been started with it and were not ready since
    last step   the latest of: the spec was accepted, the model was in the cache, a pull was done or given up,
                a group began to move, a group that has moved became ready
    deadline    last step + spec.rollout.progressDeadline, while a group moves or waits for one that does; not
                while all wait for a download or a pull

Everything is read from objects that are there, so neither a lost status nor another operator sets the clock
back. A group that fails again and again makes no step, whatever it does meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hortator.operator.objects import ref_of
from hortator.operator.observed.reading import instant, seconds_later
from hortator.operator.rollout import Decision, Turn
from hortator.operator.situation import Situation, View
from hortator.operator.status.reasons import Reason, blame

_ENDS_BY_ITSELF = {Reason.ROLLING_UPDATE, Reason.MODEL_DOWNLOADING, Reason.PRE_PULLING}
_UNCLOCKED = {Reason.MODEL_DOWNLOADING, Reason.PRE_PULLING}
Phase = Literal["Complete", "Rolling", "Waiting", "Paused", "Partition"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A rollout at one moment."""

    phase: Phase
    num_updated: int
    num_groups: int
    moving: tuple[View, ...]
    """Those beside the wanted ones too."""
    blocked_by: Decision | None
    """Why no group moves now; None when one does."""
    deadline: datetime | None
    """When it has taken too long; None: nothing is on its way."""


def progress_of(situation: Situation) -> Progress:
    """How far it is. Total."""
    views = situation.views
    moving = (
        *(view for view in views if view.is_moving),
        *(view for view in situation.surge if view.is_moving or not view.is_available),
    )
    staying = [view.decision for view in views if view.turn in {Turn.WAITS, Turn.HELD}]
    waiting = [one for one in staying if one.turn is Turn.WAITS]
    blocking = min(
        (one for one in waiting or staying if one.reason is not None),
        key=lambda one: blame(one.reason or Reason.ROLLING_UPDATE),
        default=None,
    )
    is_coming = any(one.reason in _ENDS_BY_ITSELF for one in waiting)
    phase: Phase
    if situation.spec.suspend and (moving or staying):
        phase, blocking = "Waiting", None
    elif moving or is_coming:
        phase, blocking = "Rolling", None if moving else blocking
    elif waiting:
        phase = "Waiting"
    elif staying:
        phase = "Paused" if situation.spec.rollout.paused else "Partition"
    else:
        phase = "Complete"
    is_clocked = blocking is None or blocking.reason not in _UNCLOCKED
    return Progress(
        phase=phase,
        num_updated=sum(view.is_updated for view in views),
        num_groups=len(views),
        moving=moving,
        blocked_by=blocking,
        deadline=_deadline(situation) if phase == "Rolling" and is_clocked else None,
    )


def is_overdue(situation: Situation, progress: Progress) -> bool:
    """Whether it takes too long."""
    return progress.deadline is not None and situation.now >= progress.deadline


def _deadline(situation: Situation) -> datetime:
    last_step = max(_steps(situation), default=situation.now)
    return seconds_later(last_step, situation.spec.rollout.progress_deadline_s)


def _steps(situation: Situation) -> Iterator[datetime]:
    record = situation.observed.objects.get(ref_of(situation.desired.record), {})
    yield instant(record, "metadata", "creationTimestamp") or situation.now
    if situation.desired.prefetch is not None:
        job = situation.observed.objects.get(ref_of(situation.desired.prefetch), {})
        completed = instant(job, "status", "completionTime")
        if completed is not None:
            yield completed
    for view in situation.all_views:
        yield from (one.ended_at for one in view.pulls if one.ended_at is not None)
        memory = view.group.memory
        if view.turn is Turn.MOVES and memory.drain_started_at is not None:
            yield memory.drain_started_at
        if view.is_updated and memory.moved_at is not None:
            yield memory.moved_at
        if view.is_updated and view.is_available:
            yield from (pod.ready_at for pod in view.group.current_pods if pod.ready_at is not None)
