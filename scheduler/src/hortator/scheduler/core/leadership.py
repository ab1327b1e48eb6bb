"""Who leads: one of several schedulers, found without a word between them.

Workers and gateways are the *witnesses*: each has a stream to every scheduler and tells all of them the
newest epoch that it knows and whether the leader of that epoch is there for it (`LeaderSeen`). Nothing else
is needed, since a leader is worth what witnesses obey. Rules:

1. A standby leads once more than half of the witnesses that it sees (at least one) have had no leader for
   `patience_s`. It takes an epoch above all that it has heard of. A witness that knows of no epoch is new and
   has not looked around yet: it counts only where none knows of any.
2. A leader that hears of a higher epoch is a standby again, at once.
3. One that resigns is a standby, and leads no more in this process.
4. Schedulers that alternate (each is seen by another half) must not do so for ever: every loss of the lead
   within `calm_s` makes the patience for the next one `PATIENCE_FACTOR` times longer.
5. A new scheduler waits for `settling_s` after its first witness, until others have come that know a leader.

Two may lead for a moment. That harms nobody: a witness obeys the highest epoch that it has heard of, from one
scheduler only, and refuses what comes in an older one. How quickly one follows another matters, and is what
the settings are for.

Pure: time is an argument. `look` after every event, and when `next_look_at` says so.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

TAG_BITS = 10
PATIENCE_FACTOR = 4.0
MAX_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipSettings:
    """How long to wait. Seconds."""

    patience_s: float = 0.05
    """Most witnesses must have been without a leader for so long; some may only have reconnected."""
    settling_s: float = 0.75
    calm_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Lead:
    """This scheduler leads from now on."""

    epoch: int


@dataclass(frozen=True, slots=True)
class StepDown:
    """This scheduler is a standby from now on."""

    newer_epoch: int
    """0: it resigned."""


Change = Lead | StepDown


@dataclass(frozen=True, slots=True)
class _Sight:
    epoch: int
    is_led: bool


class Leadership:
    """One scheduler's view; see the rules in the module docstring."""

    def __init__(self, settings: LeadershipSettings, *, tag: int, epoch: int = 0) -> None:
        """Begin.

        Args:
            settings: how long to wait.
            tag: the last bits of every epoch taken, so that no two schedulers take the same one.
            epoch: lead from the beginning in this one; 0: begin as a standby.
        """
        self._settings = settings
        self._tag = tag % (1 << TAG_BITS)
        self.epoch = epoch
        """The epoch led in; 0: a standby."""
        self._newest = epoch
        self._witnesses: dict[str, _Sight] = {}
        self._num_unled = 0
        self._num_informed = 0
        """Witnesses that know of an epoch."""
        self._num_informed_unled = 0
        self._settled_at: float | None = None
        self._unled_since: float | None = None
        """Since when most witnesses have had no leader."""
        self._losses: deque[float] = deque(maxlen=8)
        self._has_resigned = False

    @property
    def is_leader(self) -> bool:
        """Whether this scheduler leads."""
        return self.epoch != 0

    @property
    def newest_epoch(self) -> int:
        """The newest epoch heard of, our own included."""
        return self._newest

    @property
    def num_witnesses(self) -> int:
        """Workers and gateways that have said what they see."""
        return len(self._witnesses)

    @property
    def num_unled(self) -> int:
        """Those of them that have no leader."""
        return self._num_unled

    def unled_since(self) -> float | None:
        """Since when most witnesses have had no leader; None: they have one."""
        return self._unled_since

    def saw(self, witness: str, *, epoch: int, is_there: bool, now: float) -> None:
        """A witness says what it knows of the leader."""
        self._forget(witness)
        self._witnesses[witness] = _Sight(epoch, is_there)
        self._tally(self._witnesses[witness], 1)
        self._newest = max(self._newest, epoch)
        if self._settled_at is None:
            self._settled_at = now + self._settings.settling_s * self._own_factor
        self._count(now)

    def lost(self, witness: str, now: float) -> None:
        """A witness is gone, or its stream is."""
        self._forget(witness)
        self._count(now)

    def resign(self) -> StepDown | None:
        """Lead no more; None: it was a standby."""
        self._has_resigned = True
        if not self.is_leader:
            return None
        self.epoch = 0
        return StepDown(newer_epoch=0)

    def look(self, now: float, *, wall_ms: int) -> Change | None:
        """What has changed. `wall_ms`: the wall clock, a floor for epochs: it outlives processes."""
        if self.is_leader:
            if self._newest <= self.epoch:
                return None
            self.epoch = 0
            self._losses.append(now)
            return StepDown(newer_epoch=self._newest)
        due_at = self.next_look_at()
        if due_at is None or now < due_at:
            return None
        above = max(wall_ms, (self._newest >> TAG_BITS) + 1)
        self.epoch = self._newest = (above << TAG_BITS) | self._tag
        self._unled_since = None
        return Lead(epoch=self.epoch)

    def next_look_at(self) -> float | None:
        """When this scheduler will lead if nothing changes; None: not by waiting."""
        since, settled_at = self._unled_since, self._settled_at
        if self.is_leader or self._has_resigned or since is None or settled_at is None:
            return None
        return max(since + self._patience_s(since), settled_at)

    def _patience_s(self, now: float) -> float:
        recent = sum(now - lost_at < self._settings.calm_s for lost_at in self._losses)
        return min(self._settings.patience_s * self._own_factor * PATIENCE_FACTOR**recent, MAX_PATIENCE_S)

    @property
    def _own_factor(self) -> float:
        """1 to 2: schedulers that wait for the same moment would all lead, so each waits by its tag."""
        return 1.0 + self._tag / (1 << TAG_BITS)

    def _forget(self, witness: str) -> None:
        old = self._witnesses.pop(witness, None)
        if old is not None:
            self._tally(old, -1)

    def _tally(self, sight: _Sight, change: int) -> None:
        if not sight.is_led:
            self._num_unled += change
        if sight.epoch:
            self._num_informed += change
            if not sight.is_led:
                self._num_informed_unled += change

    def _count(self, now: float) -> None:
        num_unled, num_asked = self._num_unled, len(self._witnesses)
        if self._num_informed:
            num_unled, num_asked = self._num_informed_unled, self._num_informed
        if 2 * num_unled <= num_asked:
            self._unled_since = None
        elif self._unled_since is None:
            self._unled_since = now


def first_epoch(wall_ms: int, tag: int) -> int:
    """Of a scheduler that leads from its start: above that of every process before it."""
    return (wall_ms << TAG_BITS) | (tag % (1 << TAG_BITS))
