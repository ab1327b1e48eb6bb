"""Which LLMService is looked at next: each once at a time, and after news that came meanwhile once more.

- `add` asks for a look soon: within `settle_s`, so that a burst of news is one look.
- A look says when it wants the next one, or fails; failures in a row wait longer and longer (with jitter, so
  that what failed together does not come back together), or as long as the API server asked.
- News always beat a waiting time, except that of an error: a broken API server is not asked more often
  because more happens.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Key = tuple[str, str]
"""Namespace and name of an LLMService."""

SETTLE_S = 0.05
BASE_BACKOFF_S = 0.5
MAX_BACKOFF_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A look that went well; `wake_after_s`: when time alone may change what is to be done."""

    wake_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A look that failed and is to be repeated."""

    retry_after_s: float | None = None
    """What the API server asked for."""
    has_progressed: bool = False
    """Something was written before it failed: the pauses begin anew."""


Look = Callable[[Key], Awaitable[Done | Failed]]
"""Must not raise."""


@dataclass(slots=True)
class _Entry:
    is_dirty: bool = False
    is_running: bool = False
    num_failures: int = 0
    not_before: float = 0.0
    timer: asyncio.TimerHandle | None = None
    timer_at: float = field(default=float("inf"))


class WorkQueue:
    """Runs `look` for the keys that need one, at most `num_workers` at a time."""

    def __init__(
        self,
        look: Look,
        *,
        num_workers: int = 4,
        settle_s: float = SETTLE_S,
        base_backoff_s: float = BASE_BACKOFF_S,
        max_backoff_s: float = MAX_BACKOFF_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`jitter` gives 0 to 1."""
        self._look = look
        self._num_workers = num_workers
        self._settle_s = settle_s
        self._base_backoff_s = base_backoff_s
        self._max_backoff_s = max_backoff_s
        self._jitter = jitter
        self._entries: dict[Key, _Entry] = {}
        self._due: asyncio.Queue[Key | None] = asyncio.Queue()
        self._queued: set[Key] = set()
        self._is_closed = False

    @property
    def num_due(self) -> int:
        """Keys that wait for a worker."""
        return len(self._queued)

    def add(self, key: Key) -> None:
        """Something about a key has changed."""
        entry = self._entries.setdefault(key, _Entry())
        entry.is_dirty = True
        if not entry.is_running:
            self._wake_at(key, entry, max(self._now() + self._settle_s, entry.not_before))

    async def run(self) -> None:
        """Work until `close`; what runs then is finished."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._num_workers):
                group.create_task(self._work(), name=f"reconcile-{number}")

    def close(self) -> None:
        """Begin nothing more; `run` returns when what is under way has ended."""
        self._is_closed = True
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
        for _ in range(self._num_workers):
            self._due.put_nowait(None)

    async def _work(self) -> None:
        while not self._is_closed:
            key = await self._due.get()
            if key is None or self._is_closed:
                return
            self._queued.discard(key)
            entry = self._entries[key]
            entry.is_dirty, entry.is_running = False, True
            try:
                outcome = await self._look(key)
            finally:
                entry.is_running = False
            self._after(key, entry, outcome)

    def _after(self, key: Key, entry: _Entry, outcome: Done | Failed) -> None:
        now = self._now()
        match outcome:
            case Failed(retry_after_s=asked, has_progressed=has_progressed):
                if has_progressed:
                    entry.num_failures = 0
                delay_s = min(self._base_backoff_s * 2.0**entry.num_failures, self._max_backoff_s)
                delay_s *= 0.5 + 0.5 * self._jitter()
                entry.num_failures = min(entry.num_failures + 1, 32)
                entry.not_before = now + max(delay_s, asked or 0.0)
                self._wake_at(key, entry, entry.not_before)
            case Done(wake_after_s=wake_after_s):
                entry.num_failures, entry.not_before = 0, 0.0
                if entry.is_dirty:
                    self._wake_at(key, entry, now + self._settle_s)
                elif wake_after_s is not None:
                    self._wake_at(key, entry, now + max(wake_after_s, self._settle_s))
                elif entry.timer is None:
                    del self._entries[key]

    def _wake_at(self, key: Key, entry: _Entry, at: float) -> None:
        is_soon_enough = entry.timer is not None and entry.timer_at <= at
        if key in self._queued or is_soon_enough or self._is_closed:
            return
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer_at = at
        entry.timer = asyncio.get_running_loop().call_at(at, self._wake, key, entry)

    def _wake(self, key: Key, entry: _Entry) -> None:
        entry.timer, entry.timer_at = None, float("inf")
        if entry.is_running:
            entry.is_dirty = True
            return
        self._queued.add(key)
        self._due.put_nowait(key)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
