"""Whether the event loop still turns: what /healthz asks where a thread answers the probes."""

from __future__ import annotations

import asyncio

INTERVAL_S = 1.0
MAX_PAUSE_S = 30.0
"""A loop that has not turned for so long does nothing useful any more."""


class LoopPulse:
    """Beats every second while the running event loop turns, until closed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._beat()

    def is_alive(self, *, within_s: float = MAX_PAUSE_S) -> bool:
        """Whether it has beaten lately. May be called from other threads."""
        return self._loop.time() - self._beat_at < within_s

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._beat_at = self._loop.time()
        self._timer = self._loop.call_later(INTERVAL_S, self._beat)
