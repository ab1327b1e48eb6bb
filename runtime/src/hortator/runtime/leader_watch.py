"""Which of several peers leads, as those see it who are led: by the highest epoch, and silence is noticed.

Every peer may say that it leads, in an epoch (a number that no two of them use). Rules:

1. The leader is the peer that spoke in the highest epoch ever heard of. Whatever comes in an older one, or
   from another peer in the same one, is not obeyed. So one who is led obeys one peer at a time, whoever
   else believes that it leads.
2. The leader *is there* while its stream is up, it has not resigned, and it spoke less than `timeout_s` ago.
   It may be away and come back; its epoch stays the newest until a higher one is heard of.

Pure: time is an argument. Used alike by everybody who is led; what they see is told to the peers that might
lead instead.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderSeen:
    """What one who is led knows of its leader."""

    epoch: int = 0
    """The newest heard of; 0: none."""
    is_there: bool = False


class LeaderWatch:
    """Follows the rules in the module docstring; `seen` is the outcome."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._leader: str | None = None
        """Its stream is up and it has not resigned."""
        self._owner: str | None = None
        """The first peer that spoke in the newest epoch."""
        self._heard_at = 0.0
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """The newest epoch heard of; 0: none."""
        return self._epoch

    def leader(self, now: float) -> str | None:
        """The peer that leads and is there."""
        return self._leader if now < self._heard_at + self._timeout_s else None

    def seen(self, now: float) -> LeaderSeen:
        """What the peers should know."""
        return LeaderSeen(epoch=self._epoch, is_there=self.leader(now) is not None)

    def next_check_at(self) -> float | None:
        """When the leader will have been silent for too long; None while there is none to wait for."""
        return None if self._leader is None else self._heard_at + self._timeout_s

    def spoke(self, peer: str, epoch: int, now: float) -> bool:
        """A peer said something in an epoch (0: it does not lead); whether it is to be obeyed."""
        if epoch == 0 or epoch < self._epoch or (epoch == self._epoch and peer != self._owner):
            if peer == self._leader:  # it says itself that it leads no more
                self._leader = None
            return False
        self._epoch = epoch
        self._leader = self._owner = peer
        self._heard_at = now
        return True

    def lost(self, peer: str) -> None:
        """A peer's stream ended, or it resigned."""
        if peer == self._leader:
            self._leader = None
