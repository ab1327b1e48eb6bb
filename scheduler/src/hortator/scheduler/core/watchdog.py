"""When silence means trouble.

A group that has work (in flight or running) and has said nothing for max(factor x predicted pass, min) is
suspect: nothing is placed there and it is probed. If it stays silent for as long again it is lost, and its
requests go back to their gateways. A group that has work in flight and speaks, but neither begins nor ends a
pass nor lets go of a request for `watchdog_stall_s`, is lost as well: its engine hangs, or it lies. A group
with no work owes only heartbeats; its stream's end, seen by the service, is its loss. The first passes of a
worker (compilation, warm-up) trip nothing. However long it says that its passes are, no group has more than
`MAX_PATIENCE_S`.
"""

from __future__ import annotations

from enum import Enum

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import SchedulerSettings

WARMUP_PATIENCE_S = 60.0
MAX_PATIENCE_S = 60.0


class Verdict(Enum):
    """What to do about a group's silence."""

    PROBE = "probe"
    SILENT = "silent"
    STALLED = "stalled"


class Watchdog:
    """Judges silence; keeps no state of its own."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings

    def patience_s(self, group: GroupState) -> float:
        """How long a group with work may be silent."""
        predicted_s = max(group.full_pass_s, group.running_predicted_s)
        patience_s = max(
            min(self._settings.watchdog_factor * predicted_s, MAX_PATIENCE_S), self._settings.watchdog_min_s
        )
        if group.forward_pass_id <= self._settings.warmup_passes:
            return max(patience_s, WARMUP_PATIENCE_S)
        return patience_s

    def stall_patience_s(self, group: GroupState) -> float:
        """How long a group with work may run no pass."""
        return max(self._settings.watchdog_stall_s, 2.0 * self.patience_s(group))

    def judge(self, group: GroupState, now: float) -> Verdict | None:
        """What the group's silence means now; None: nothing (more) to do."""
        if not group.in_flight:
            return None
        if now - group.progress_at >= self.stall_patience_s(group):
            return Verdict.STALLED
        silence_s = now - group.last_heard_at
        patience_s = self.patience_s(group)
        if group.probed_at is not None:
            return Verdict.SILENT if now - group.probed_at >= patience_s else None
        return Verdict.PROBE if silence_s >= patience_s else None

    def next_check_at(self, fleet: Fleet) -> float | None:
        """The earliest time at which a verdict could change."""
        earliest: float | None = None
        for group in fleet.groups.values():
            if not group.in_flight:
                continue
            since = group.last_heard_at if group.probed_at is None else group.probed_at
            at = min(since + self.patience_s(group), group.progress_at + self.stall_patience_s(group))
            at += 1e-6  # so that rounding cannot make the check too early
            if earliest is None or at < earliest:
                earliest = at
        return earliest
