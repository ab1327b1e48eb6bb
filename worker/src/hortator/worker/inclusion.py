"""Inclusion: which dispatches are inside the loads that a report carries.

A scheduler numbers the batches it dispatches to one worker 1, 2, 3, ... within its epoch. A report must say
up to which of them the loads in it are complete, or the scheduler counts work twice or not at all:

    included = highest s such that every batch with number <= s is settled

where *settled* means that each member is inside the engine, or will never be (late, cancelled, refused).

A number that nobody has mentioned (its manifest was lost with a connection, or it was used before this
process started) is a gap. A gap counts as settled `gap_wait_s` after a higher number was seen. A new batch
with a number that was used already means that the scheduler counts from 1 again (a new epoch, or it had
given this worker up): what went before is forgotten. Pure: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Gap:
    first: int
    last: int
    settles_at: float


class InclusionTracker:
    """Tracks `included`. Numbers are told apart by `generation`, which grows when counting begins again."""

    def __init__(self, *, gap_wait_s: float) -> None:
        self._gap_wait_s = gap_wait_s
        self.generation = 0
        self._highest = 0
        self._open: set[int] = set()
        self._gaps: list[_Gap] = []

    def restart(self) -> None:
        """Forget everything: numbers count from 1 again."""
        self.generation += 1
        self._highest = 0
        self._open.clear()
        self._gaps.clear()

    def opened(self, dispatch_seq: int, now: float) -> None:
        """A batch became known (call it once for each). Numbers below 1 are not tracked."""
        if dispatch_seq < 1:
            return
        if dispatch_seq <= self._highest:
            if self._open_in_gap(dispatch_seq):
                return
            self.restart()
        if dispatch_seq > self._highest + 1:
            gap = _Gap(self._highest + 1, dispatch_seq - 1, now + self._gap_wait_s)
            self._gaps.append(gap)
        self._highest = dispatch_seq
        self._open.add(dispatch_seq)

    def _open_in_gap(self, dispatch_seq: int) -> bool:
        for position, gap in enumerate(self._gaps):
            if gap.first <= dispatch_seq <= gap.last:
                parts = (
                    _Gap(gap.first, dispatch_seq - 1, gap.settles_at),
                    _Gap(dispatch_seq + 1, gap.last, gap.settles_at),
                )
                self._gaps[position : position + 1] = [part for part in parts if part.first <= part.last]
                self._open.add(dispatch_seq)
                return True
        return False

    def settled(self, dispatch_seq: int, generation: int) -> None:
        """Every member of the batch, opened in that generation, is accounted for."""
        if generation == self.generation:
            self._open.discard(dispatch_seq)

    def included(self, now: float) -> int:
        """The number to report; 0 before the first batch is settled."""
        self._gaps = [gap for gap in self._gaps if gap.settles_at > now]
        lowest_unsettled = self._highest + 1
        if self._open:
            lowest_unsettled = min(self._open)
        if self._gaps:
            lowest_unsettled = min(lowest_unsettled, self._gaps[0].first)
        return lowest_unsettled - 1
