"""What a worker process has reached on its way to readiness, and when.

    members_joined   every member of the group's epoch is here (at once in a group of one)
    ranks_started    every rank has said that it is here; on ordinal 0 of a group that is launched so
    engine_started   the engine is up, with all its ranks; other members hear it from ordinal 0
    reported         a scheduler has taken this worker's report; on ordinal 0 only

What was reached stays reached: a scheduler that goes away later does not make its workers unready, because
its successor learns of them from their reports, and meanwhile they finish what they have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import StrEnum

from hortator.worker.metrics import WorkerMetrics


class StartupPhase(StrEnum):
    """In the order in which they are reached."""

    MEMBERS_JOINED = "members_joined"
    RANKS_STARTED = "ranks_started"
    ENGINE_STARTED = "engine_started"
    REPORTED = "reported"


STILL_STARTING = "still starting"
"""Event of the log whose `waits_for` says what a process waits for; `hortator k8s explain` reads it."""

_WAITING = {
    StartupPhase.MEMBERS_JOINED: "the group is not complete",
    StartupPhase.RANKS_STARTED: "ranks are being started",
    StartupPhase.ENGINE_STARTED: "the engine is starting",
    StartupPhase.REPORTED: "no scheduler has taken the report",
}

_DETAILED = {StartupPhase.MEMBERS_JOINED, StartupPhase.RANKS_STARTED, StartupPhase.ENGINE_STARTED}


class Startup:
    """The timeline of one process. Written on the event loop; `not_ready` and `timeline` only read."""

    def __init__(
        self,
        phases: Sequence[StartupPhase],
        metrics: WorkerMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._phases = tuple(phases)
        self._metrics = metrics
        self._clock = clock
        self._began_at = clock()
        self._reached_s: dict[StartupPhase, float] = {}
        self.waiting_for: Callable[[], str] = lambda: ""
        """More about what is waited for until the engine has started: members, ranks, words of a rank."""
        self.is_draining = False

    def reached(self, phase: StartupPhase) -> None:
        """Note it, the first time."""
        if phase not in self._reached_s:
            took_s = self._clock() - self._began_at
            self._reached_s[phase] = took_s
            self._metrics.startup.labels(phase.value).set(took_s)

    def not_ready(self) -> Sequence[str]:
        """Why no work should come, one reason a line; empty when ready."""
        if self.is_draining:
            return ("draining",)
        missing = next((phase for phase in self._phases if phase not in self._reached_s), None)
        if missing is None:
            return ()
        detail = self.waiting_for() if missing in _DETAILED else ""
        return (f"{_WAITING[missing]}: {detail}" if detail else _WAITING[missing],)

    def timeline(self) -> Sequence[str]:
        """`members_joined after 1.250 s`, one phase a line, as far as they are reached."""
        return tuple(
            f"{phase.value} after {self._reached_s[phase]:.3f} s"
            for phase in self._phases
            if phase in self._reached_s
        )
