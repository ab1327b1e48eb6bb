"""A `LeaderWatch` in the running event loop: says when what it sees changes, silence included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hortator.runtime.leader_watch import LeaderSeen, LeaderWatch

DEFAULT_TIMEOUT_S = 2.0


class LeaderFollower:
    """Told what every peer says, it calls `on_change` after the leader or what is seen of it has changed."""

    def __init__(self, *, timeout_s: float, on_change: Callable[[], None]) -> None:
        """Must be called in a running loop; `on_change` is called in it, from within the other methods."""
        self._watch = LeaderWatch(timeout_s=timeout_s)
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.leader: str | None = None
        """The peer that leads and is there."""
        self.seen = LeaderSeen()
        """What the peers should know."""

    @property
    def epoch(self) -> int:
        """The newest epoch heard of; 0: none."""
        return self._watch.epoch

    def spoke(self, peer: str, epoch: int) -> bool:
        """A peer said something in an epoch (0: it does not lead); whether it is to be obeyed."""
        is_obeyed = self._watch.spoke(peer, epoch, self._loop.time())
        if not (is_obeyed and peer == self.leader and epoch == self.seen.epoch):  # said with every message
            self._look()
        return is_obeyed

    def lost(self, peer: str) -> None:
        """A peer's stream ended, or it resigned."""
        self._watch.lost(peer)
        self._look()

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._loop.time()
        leader, seen = self._watch.leader(now), self._watch.seen(now)
        if self._timer is None:
            self._arm()
        if (leader, seen) != (self.leader, self.seen):
            self.leader, self.seen = leader, seen
            self._on_change()

    def _arm(self) -> None:
        """One timer, moved on only when it fires: the leader speaks often."""
        due_at = self._watch.next_check_at()
        if due_at is not None and due_at > self._loop.time():
            self._timer = self._loop.call_at(due_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._look()
