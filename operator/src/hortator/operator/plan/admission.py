"""Which closed groups may start now, and where.

A group that needs devices (GPUs) starts alone: room for all its pods is looked for first, in one topology
domain if that is asked for, and the next one is looked at when every pod of this one has a node. Two groups
that each hold half of the nodes serve nobody. Groups without devices all start at once: their pods wait for
nothing that another pod could hold. Without sight of nodes every group is started and kube-scheduler decides;
the gang timeout gives back what it could not complete. So it is where spec.placement.gang.provider is None,
and where another scheduler sees to gangs: that one decides, once it has been told of the group (`gang`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from hortator.operator.capacity import Room
from hortator.operator.lifecycle import Stage
from hortator.operator.observed import Memory
from hortator.operator.plan import gang, rendering
from hortator.operator.plan.actions import Apply, Item, wake
from hortator.operator.situation import Situation, View
from hortator.operator.waiting import (
    device_group_being_placed,
    is_provider_missing,
    memory_of_next_start,
    model_wait_of,
    next_start,
    room_in,
)

LOOK_FOR_ROOM_S = 10.0
"""While a group waits for room: nothing tells a service of pods of others that end."""


def admissions(situation: Situation) -> Iterator[Item]:
    """Start what may start: every group without devices, and at most one with."""
    if situation.spec.suspend:
        return
    is_waiting_for_room = False
    is_taken = device_group_being_placed(situation) is not None
    for view in sorted(situation.all_views, key=lambda view: (view.wanted.role_set, view.wanted.index)):
        if view.stage is not Stage.CLOSED or view.group.pods or model_wait_of(situation, view) is not None:
            continue
        if is_provider_missing(situation, view):
            continue
        memory = memory_of_next_start(view)
        start = next_start(situation, view)
        if start is not None:
            yield from wake(situation.now, start)
            continue
        room = room_in(situation, view)
        if room is not None:
            if is_taken or not room.fits:
                is_waiting_for_room |= not room.fits
                continue
            is_taken = True
        yield from _admitted(situation, view, memory, room)
    if is_waiting_for_room:
        yield from wake(situation.now, situation.now + timedelta(seconds=LOOK_FOR_ROOM_S))


def _admitted(situation: Situation, view: View, memory: Memory, room: Room | None) -> Iterator[Item]:
    key = situation.spec.placement.topology_key
    domain = (key, room.domain) if key and room is not None and room.domain else None
    is_other = view.group.revision != view.wanted.revision
    noted = replace(
        memory,
        moved_at=situation.now if is_other else memory.moved_at,
        admitted_at=situation.now,
        restart_observed=situation.requested_restart or memory.restart_observed,
        members={},
        vacated_at=None,
    )
    where = f" in {domain[1]}" if domain else ""
    avoided = room.avoided if room is not None else frozenset()
    if avoided:
        where += f", not on {', '.join(sorted(avoided))}"
    yield from gang.told_of_start(view)
    yield Apply(
        obj=rendering.admitted(view.group, view.wanted, memory=noted, domain=domain, avoided=avoided),
        why=f"group {view.wanted.name} starts with {view.wanted.num_members} pods{where}",
    )
