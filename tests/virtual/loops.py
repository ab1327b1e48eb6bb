"""Event loops in virtual time: each process has one of its own, and a world turns them.

Theory of operation:

- A loop has callbacks that are ready and timers, and no selector: whatever comes from outside comes by
  `World.at`. Its clock is the world's.
- The world turns every loop that has something to do, in the order of their names, until none has; then the
  clock jumps to the next timer or delivery. Nothing depends on how long anything takes.
- A process that is stopped (SIGSTOP) is not turned: what comes to it waits, its timers are late.
- A process that is killed is never turned again. Its coroutines are closed when the world ends, in a loop that
  reaches nobody: their `finally` blocks must run, but no one may notice.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any


class _NoSelector:
    def select(self, timeout: float | None = None) -> list[object]:
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module docstring."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self._selector = _NoSelector()
        self._clock_resolution = 1e-9
        self._offset_s = 0.0
        self.set_exception_handler(self._failed)

    def time(self) -> float:
        return self.process.world.now + self._offset_s

    def next_at(self) -> float | None:
        """When there is something to do; now, if there is."""
        if self._ready:
            return self.time()
        timers = self._scheduled
        while timers and timers[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(timers)._scheduled = False
        return timers[0]._when if timers else None

    def turn(self) -> None:
        """Run what is ready now."""
        self._thread_id = threading.get_ident()
        asyncio._set_running_loop(self)
        try:
            self._run_once()
        finally:
            asyncio._set_running_loop(None)
            self._thread_id = None

    def bury(self) -> None:
        """Let every coroutine end, with nobody to notice."""
        for _ in range(200):
            tasks = asyncio.all_tasks(self)
            if not tasks and not self._ready:
                break
            for task in tasks:
                task.cancel()
            for _ in range(20):
                next_at = self.next_at()
                if next_at is None:
                    break
                self._offset_s += max(next_at - self.time(), 0.0)
                self.turn()
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False
        self.close()

    def _process_events(self, event_list: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _failed(self, loop: object, context: dict[str, Any]) -> None:
        if not self.process.is_dead:
            self.process.world.problems.append(
                f"{self.process.name}: {context.get('exception') or context['message']!r}"
            )


class Process:
    """One process: a name, addresses, a loop, and a coroutine that is its life."""

    def __init__(self, world: World, name: str, host: str) -> None:
        self.world = world
        self.name = name
        self.host = host
        self.loop = VirtualLoop(self)
        self.is_stopped = False
        self.is_dead = False
        self.servers: dict[str, Any] = {}
        """What listens here, by address."""
        self.on_death: list[Callable[[], None]] = []
        self.admin: Any = None
        """Who answers for probes and metrics here."""
        self.engine: Any = None
        self.main: asyncio.Task[Any]

    def live(self, main: Coroutine[Any, Any, Any]) -> None:
        self.main = self.loop.create_task(main)
        self.main.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not self.is_dead and not task.cancelled() and task.exception() is not None:
            self.world.problems.append(f"{self.name} ended with {task.exception()!r}")
        self.die()

    def die(self) -> None:
        """At once, as by SIGKILL or at the end of `main`."""
        if self.is_dead:
            return
        self.is_dead = True
        self.servers.clear()
        for tell in self.on_death:
            tell()
        self.world.buried.append(self)
        if self.world.processes.get(self.name) is self:
            del self.world.processes[self.name]


class World:
    """The clock, the processes, and what is on its way."""

    def __init__(self) -> None:
        self.now = 0.0
        self.processes: dict[str, Process] = {}
        self.buried: list[Process] = []
        self.problems: list[str] = []
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._num_coming = 0
        self.num_turns = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do something then, outside of every loop."""
        self._num_coming += 1
        heapq.heappush(self._coming, (max(when, self.now), self._num_coming, what))

    def start(self, name: str, host: str, main: Callable[[Process], Coroutine[Any, Any, Any]]) -> Process:
        process = self.processes[name] = Process(self, name, host)
        process.live(main(process))
        return process

    def run(self, *, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Turn the loops until then, or until `done`; whether it is."""
        while True:
            next_at = self._turn_all()
            if done():
                return True
            if self._coming:
                next_at = min(next_at, self._coming[0][0])
            if next_at > until:
                self.now = max(self.now, until)
                return False
            self.now = max(self.now, next_at)
            while self._coming and self._coming[0][0] <= self.now:
                heapq.heappop(self._coming)[2]()

    def close(self) -> None:
        """Nobody lives on."""
        for process in list(self.processes.values()):
            process.die()
        for process in self.buried:
            process.loop.bury()
        self.buried.clear()

    def _turn_all(self) -> float:
        """Until nobody has anything to do now; when somebody has."""
        while True:
            is_idle, next_at = True, math.inf
            for process in list(self.processes.values()):
                if process.is_stopped or process.is_dead:
                    continue
                at = process.loop.next_at()
                if at is None:
                    continue
                if at <= self.now:
                    process.loop.turn()
                    self.num_turns += 1
                    is_idle = False
                elif at < next_at:
                    next_at = at
            if is_idle:
                return next_at
