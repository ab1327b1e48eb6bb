"""Lifecycle: how a process stops.

`run_process(main)` runs one async `main(drain)` and turns signals into a protocol:

1. The first SIGTERM or SIGINT *requests a drain*: `drain.wait()` returns. `main` stops admission, finishes
   or aborts what is in flight, closes and returns. `main` may request one itself; a first signal that comes
   after that changes nothing.
2. A second signal, or `drain_timeout_s` after the request, *forces*: `main` is cancelled.
3. A `main` that is still there `FORCE_GRACE_S` after that is left behind: the process exits at once.
4. With `parent_pid`, the death of the parent counts as a first signal with a short timeout, so that a
   killed supervisor leaves no process behind. (The pid comes from the parent itself: asking for it here
   would race with its death.)

Exit code: what `main` returns (None is 0), 1 if it raised, 128 + signal number when a signal forced the
end, 124 when the drain timeout did.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog

FORCE_GRACE_S = 2.0
PARENT_POLL_S = 0.25
PARENT_DEATH_DRAIN_TIMEOUT_S = 5.0
EXIT_FAILED = 1
EXIT_DRAIN_TIMED_OUT = 124

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """A request to stop gracefully, made once; `reason` says by whom."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason = ""

    @property
    def is_requested(self) -> bool:
        """True from the first `request` on."""
        return self._event.is_set()

    @property
    def reason(self) -> str:
        """Who asked first; empty until then."""
        return self._reason

    def request(self, reason: str) -> None:
        """Ask for a drain. Later calls change nothing."""
        if not self.is_requested:
            self._reason = reason
            self._event.set()

    async def wait(self) -> None:
        """Return once a drain is requested."""
        await self._event.wait()


Main = Callable[[Drain], Awaitable[int | None]]


def run_process(main: Main, *, drain_timeout_s: float = 30.0, parent_pid: int | None = None) -> int:
    """Run `main` to its end under the protocol above and return the exit code.

    Args:
        main: the process; it must return soon after `drain.wait()` does.
        drain_timeout_s: how long a drain may take before `main` is cancelled.
        parent_pid: pid of the process to die with, None to ignore parents.
    """
    with asyncio.Runner() as runner:
        return runner.run(supervise(main, drain_timeout_s=drain_timeout_s, parent_pid=parent_pid))


async def supervise(main: Main, *, drain_timeout_s: float = 30.0, parent_pid: int | None = None) -> int:
    """`run_process` for a loop that already runs (main thread only: it installs signal handlers)."""
    supervisor = _Supervisor(drain_timeout_s)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, functools.partial(supervisor.on_signal, number))
    try:
        return await supervisor.run(main, parent_pid)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class _Supervisor:
    def __init__(self, drain_timeout_s: float) -> None:
        self._drain = Drain()
        self._drain_timeout_s = drain_timeout_s
        self._main: asyncio.Task[int | None] | None = None
        self._forced_exit_code: int | None = None
        self._is_signalled = False
        self._log = structlog.get_logger("hortator.runtime.lifecycle")

    async def run(self, main: Main, parent_pid: int | None) -> int:
        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(self._limit_drain())]
            if parent_pid is not None:
                watchers.append(group.create_task(self._watch_parent(parent_pid)))
            self._main = group.create_task(self._guarded(main))
            try:
                return await self._finished(self._main)
            finally:
                for watcher in watchers:
                    watcher.cancel()

    async def _guarded(self, main: Main) -> int | None:
        try:
            return await main(self._drain)
        except Exception:  # noqa: BLE001  # logged with its traceback, reported as the exit code
            self._log.exception("process failed")
            return EXIT_FAILED

    async def _finished(self, main: asyncio.Task[int | None]) -> int:
        await asyncio.wait({main})
        if main.cancelled():
            return EXIT_FAILED if self._forced_exit_code is None else self._forced_exit_code
        code = main.result()
        return 0 if code is None else code

    def on_signal(self, number: signal.Signals) -> None:
        if self._is_signalled:
            self._force(128 + number, f"{number.name} again")
            return
        self._is_signalled = True
        self._log.info("drain requested", reason=number.name, timeout_s=self._drain_timeout_s)
        self._drain.request(number.name)

    def _force(self, exit_code: int, reason: str) -> None:
        if self._forced_exit_code is not None:
            return
        self._forced_exit_code = exit_code
        self._log.warning("forced stop", reason=reason, exit_code=exit_code)
        if self._main is not None:
            self._main.cancel()
        asyncio.get_running_loop().call_later(FORCE_GRACE_S, _leave, exit_code)

    async def _limit_drain(self) -> None:
        await self._drain.wait()
        await asyncio.sleep(self._drain_timeout_s)
        self._force(EXIT_DRAIN_TIMED_OUT, f"the drain took longer than {self._drain_timeout_s:g} s")

    async def _watch_parent(self, parent_pid: int) -> None:
        while os.getppid() == parent_pid:  # noqa: ASYNC110
            await asyncio.sleep(PARENT_POLL_S)  # the kernel has no portable event for this
        self._log.warning("drain requested", reason="parent died", parent_pid=parent_pid)
        self._drain.request("parent died")
        await asyncio.sleep(min(PARENT_DEATH_DRAIN_TIMEOUT_S, self._drain_timeout_s))
        self._force(EXIT_DRAIN_TIMED_OUT, "parent died and the drain took too long")


def _leave(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
