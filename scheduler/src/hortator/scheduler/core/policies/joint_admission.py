"""Aggregated: when a group admits newcomers, because any prefill in a pass delays every running decode.

Question answered: do those who wait for this group lose more by waiting on than its running sequences would
by a pass that is longer?

Admitting has a price that hardly depends on how many are admitted (see `mixed_passes`): all running sequences
wait `extra_s` longer for their next token. Waiting has a price that grows with each held request and with
time. As with the economic order quantity, the sum is least when both are equal, so newcomers are admitted
when what they have waited for together reaches

    harm = extra_s x running x rho / (1 - rho) / first_token_weight

where rho is the share of the group's batch slots (or KV blocks, if more) that is taken: on an empty group
nothing is held; near its limit, where a longer pass means that slots come free later for everybody, much is.
Newcomers without a slot do not count: they do not wait for the admission. `FULL_SET` newcomers per rank go at
once (more would only make the pass longer), and nobody is held for longer than `max_hold`.

As many are admitted together as wait, and groups become ready one after another, so N groups share one queue
and each admits N times less often than the queue is emptied.
"""

from __future__ import annotations

from itertools import islice

from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.core.waiting import WaitingQueue

FULL_SET = 2
"""Newcomers per rank from which on another one costs as much as it saves."""
_MAX_OCCUPANCY = 0.98


def joint_admission_at(
    settings: SchedulerSettings, group: GroupState, waiting: WaitingQueue, now: float
) -> float:
    """Time from which the group may be given those that wait; O(FULL_SET x ranks)."""
    spec = group.spec
    num_admissible = min(len(waiting), sum(free for free in group.free_slots() if free > 0))
    if num_admissible == 0 or num_admissible >= FULL_SET * spec.dp_size:
        return now
    running = sum(group.batch_size)
    occupancy = min(
        _MAX_OCCUPANCY,
        max(
            running / (spec.max_batch_size * spec.dp_size),
            sum(group.kv_used) / (spec.kv_blocks_total * spec.dp_size),
        ),
    )
    harm = group.mixed_passes.extra_s * running * occupancy / (1.0 - occupancy)
    # Before this group's last admission a request waited for a slot, not for this rule.
    held_since = [
        max(request.waiting_since, group.last_dispatch_at) for request in islice(waiting, num_admissible)
    ]
    at = (harm / settings.first_token_weight + sum(held_since)) / num_admissible
    return max(now, min(at, min(held_since) + settings.max_hold_s))
