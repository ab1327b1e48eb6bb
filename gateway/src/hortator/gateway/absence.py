"""When a gateway has been without a leader for so long that it places by itself.

Rules:

1. A leader is away once its stream is over or it resigns; or once it has missed two of the words that it
   promised. One that is only slow cannot be told from one that is gone: both of them are away.
2. After `after_s` of that a gateway is *alone*, until a leader speaks again, the same one or another.
3. Who looks much later than was due was away itself: what the leader said meanwhile may be still unread. Its
   silence counts from then on.

Pure: time is an argument.
"""

from __future__ import annotations

MISSED_WORDS = 2
LATE_S = 0.1
"""A look that comes so much later than it was due says that this process did not run."""


class LeaderAbsence:
    """Follows the rules in the module docstring."""

    def __init__(self, *, after_s: float) -> None:
        """Nobody has led yet, so nobody is away. `after_s`: 0 means never alone."""
        self._after_s = after_s
        self._silence_s: float | None = None
        """Of a leader that is there; None: it has not said how often it speaks."""
        self._heard_at: float | None = None
        self._away_since: float | None = None
        self.is_alone = False

    def speaks_every(self, heartbeat_s: float) -> None:
        """The leader says how often it does."""
        self._silence_s = MISSED_WORDS * heartbeat_s if heartbeat_s > 0 else None

    def heard(self, now: float) -> bool:
        """A leader spoke; whether that ends a time alone."""
        was_alone, self.is_alone = self.is_alone, False
        self._heard_at = now
        self._away_since = None
        return was_alone

    def lost(self, now: float) -> None:
        """The leader's stream is over, or it resigned."""
        if self._heard_at is not None and self._away_since is None:
            silent_since = self._silent_since
            self._away_since = now if silent_since is None else min(now, silent_since)

    def next_look_at(self) -> float | None:
        """When `look` has something to say if nobody speaks before; None: not by waiting."""
        if self.is_alone or not self._after_s:
            return None
        since = self._silent_since if self._away_since is None else self._away_since
        return None if since is None else since + self._after_s

    def look(self, now: float) -> bool:
        """Whether a time alone begins now."""
        due_at = self.next_look_at()
        if due_at is None or now < due_at:
            return False
        if self._away_since is None and now - due_at > LATE_S:
            self._heard_at = now
            return False
        self._away_since = due_at - self._after_s
        self.is_alone = True
        return True

    @property
    def _silent_since(self) -> float | None:
        if self._heard_at is None or self._silence_s is None:
            return None
        return self._heard_at + self._silence_s
