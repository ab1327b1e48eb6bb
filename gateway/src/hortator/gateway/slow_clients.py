"""Calls whose client does not read: found, and ended, lest they stay for ever.

What a client does not read waits in its call (all of its output at the most), and the write of the next
message waits with it. That harms nobody else; but nothing ends a call whose connection lives, and a client
may open ever new ones. So a write may take `timeout_s` and no longer.

Nothing is armed per message: each call notes when its write began, and all calls are looked at now and then.
"""

from __future__ import annotations

import asyncio


class OpenCall:
    """One call, as its handler's task keeps it."""

    __slots__ = ("is_cut", "task", "writes_since")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.writes_since: float | None = None
        """When the write that waits began; None: none does. Set by the handler."""
        self.is_cut = False
        """The handler is cancelled because its client does not read."""


class SlowClients:
    """All open calls of a server."""

    def __init__(self, *, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._calls: set[OpenCall] = set()
        self._timer: asyncio.TimerHandle | None = None

    def opened(self) -> OpenCall:
        """The current task's call."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call is handled in a task")
        call = OpenCall(task)
        self._calls.add(call)
        self._arm()
        return call

    def closed(self, call: OpenCall) -> None:
        """It has ended."""
        self._calls.discard(call)

    def _arm(self) -> None:
        if self._timer is None and self._calls:
            self._timer = asyncio.get_running_loop().call_later(self.timeout_s / 4, self._look)

    def _look(self) -> None:
        self._timer = None
        since = asyncio.get_running_loop().time() - self.timeout_s
        for call in self._calls:
            if call.writes_since is not None and call.writes_since <= since and not call.is_cut:
                call.is_cut = True
                call.task.cancel()
        self._arm()
