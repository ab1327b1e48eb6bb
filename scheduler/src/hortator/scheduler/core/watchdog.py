"""When silence means trouble.

A worker's process speaks at least every half second, whatever its engine does. So a group that has work in
flight and has said nothing for max(min(factor x predicted pass, `MAX_SILENCE_S`), min) is suspect: nothing is
placed there and it is probed. A living process answers at once; if it stays silent for min it is lost, and
its requests go back to their gateways.

A group that has work in flight and speaks, but neither begins nor ends a pass nor lets go of a request for
max(stall, factor x predicted pass), is lost as well: its engine hangs, or it lies. However long it says that
its passes are, that is `MAX_STALL_S` at most.

A group with no work owes only heartbeats; its stream's end, seen by the service, is its loss. The first
passes of a worker (compilation, warm-up) trip nothing.
"""

from __future__ import annotations

from enum import Enum

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import SchedulerSettings

WARMUP_PATIENCE_S = 60.0
MAX_SILENCE_S = 2.5
MAX_STALL_S = 60.0


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
        """How long a group with work may be silent before it is suspect."""
        settings = self._settings
        patience_s = max(min(self._passes_s(group), MAX_SILENCE_S), settings.watchdog_min_s)
        return max(patience_s, WARMUP_PATIENCE_S) if self._is_warming_up(group) else patience_s

    def stall_patience_s(self, group: GroupState) -> float:
        """How long a group with work may run no pass."""
        patience_s = max(min(self._passes_s(group), MAX_STALL_S), self._settings.watchdog_stall_s)
        return max(patience_s, 2.0 * WARMUP_PATIENCE_S) if self._is_warming_up(group) else patience_s

    def _passes_s(self, group: GroupState) -> float:
        predicted_s = max(group.full_pass_s, group.running_predicted_s)
        return self._settings.watchdog_factor * predicted_s

    def _is_warming_up(self, group: GroupState) -> bool:
        return group.forward_pass_id <= self._settings.warmup_passes

    def judge(self, group: GroupState, now: float) -> Verdict | None:
        """What the group's silence means now; None: nothing (more) to do."""
        if not group.in_flight:
            return None
        if now - group.progress_at >= self.stall_patience_s(group):
            return Verdict.STALLED
        if group.probed_at is not None:
            return Verdict.SILENT if now - group.probed_at >= self._settings.watchdog_min_s else None
        return Verdict.PROBE if now - group.last_heard_at >= self.patience_s(group) else None

    def next_check_at(self, fleet: Fleet) -> float | None:
        """The earliest time at which a verdict could change."""
        earliest: float | None = None
        for group in fleet.groups.values():
            if not group.in_flight:
                continue
            if group.probed_at is not None:
                at = group.probed_at + self._settings.watchdog_min_s
            else:
                at = group.last_heard_at + self.patience_s(group)
            at = min(at, group.progress_at + self.stall_patience_s(group))
            at += 1e-6  # so that rounding cannot make the check too early
            if earliest is None or at < earliest:
                earliest = at
        return earliest
