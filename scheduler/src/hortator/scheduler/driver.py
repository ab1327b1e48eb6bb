"""The driver: the machine and everybody who watches it. Still no clock, no task and no socket of its own.

One door, as the machine's: `handle(event, now)`. Each event is recorded before it is decided, so that a
recording ends with the event that broke something; metrics and the tally are derived afterwards from the
event and its commands.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from hortator.scheduler.core.commands import Command, Dispatch, Reject
from hortator.scheduler.core.events import Event, PolicyChanged, RequestFinished
from hortator.scheduler.core.model import Batch, Placement, RejectReason
from hortator.scheduler.core.snapshot import SchedulerSnapshot
from hortator.scheduler.metrics import SchedulerMetrics

MAX_RECENT_PLACEMENTS = 1000


class Machine(Protocol):
    """What the driver needs of the scheduler core."""

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event at `now` (seconds, never going back) and say what is to be done."""
        ...

    def next_wakeup(self) -> float | None:
        """When `TimerFired` is wanted next, None if never."""
        ...

    def snapshot(self, now: float) -> SchedulerSnapshot:
        """The whole machine as plain values."""
        ...


class Records(Protocol):
    """What the driver needs of an event recorder."""

    def record(self, now: float, event: Event) -> None:
        """Keep one event; must not wait."""
        ...

    def answered(self, now: float, commands: Sequence[Command]) -> None:
        """Take note of what the event of `now` led to; must not wait."""
        ...


@dataclass(frozen=True, slots=True)
class PlacedRequest:
    """One placement and the batch it is part of."""

    batch: Batch
    placement: Placement


class Tally:
    """What operators ask for and the machine has no reason to remember."""

    def __init__(self) -> None:
        self.recent_placements: deque[PlacedRequest] = deque(maxlen=MAX_RECENT_PLACEMENTS)
        """Newest last."""
        self.num_rejected: Counter[RejectReason] = Counter()
        self.num_finished = 0
        """Requests that gateways reported as finished with at least one token."""

    def observe(self, event: Event, commands: Sequence[Command]) -> None:
        """Take note of one event and its commands."""
        if isinstance(event, RequestFinished) and event.num_output_tokens:
            self.num_finished += 1
        for command in commands:
            if isinstance(command, Dispatch):
                batch = command.batch
                self.recent_placements.extend(
                    PlacedRequest(batch, placement) for placement in batch.placements
                )
            elif isinstance(command, Reject):
                self.num_rejected[command.reason] += 1


class Driver:
    """A machine with metrics, a tally and, if wanted, a recorder."""

    def __init__(
        self,
        machine: Machine,
        *,
        metrics: SchedulerMetrics,
        policy: str,
        recorder: Records | None = None,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Watch `machine`.

        Args:
            machine: a fresh one; nobody else may call its `handle`.
            metrics: where observations go.
            policy: the policy the machine starts with.
            recorder: gets every event; None records nothing.
            stopwatch: seconds, for the time decisions take; never given to the machine.
        """
        self._machine = machine
        self._metrics = metrics
        self._policy = policy
        self._recorder = recorder
        self._stopwatch = stopwatch
        self._log = structlog.get_logger("hortator.scheduler.driver")
        self.tally = Tally()

    @property
    def policy(self) -> str:
        """The policy in force."""
        return self._policy

    def handle(self, event: Event, now: float) -> list[Command]:
        """Record, decide, observe. An event on which the core raises is logged, counted and has no commands.

        Why go on after a bug in the core: what it holds is soft, gateways and workers report again, and a
        process that died of one event would be given the same one after its restart.
        """
        if self._recorder is not None:
            self._recorder.record(now, event)
        started = self._stopwatch()
        try:
            commands = self._machine.handle(event, now)
        except Exception:  # noqa: BLE001  # see the docstring
            self._log.exception("core failed", core_event=repr(event)[:500])
            self._metrics.observe_core_error(event)
            return []
        if self._recorder is not None:
            self._recorder.answered(now, commands)
        self._metrics.observe(now, event, commands, self._stopwatch() - started)
        self.tally.observe(event, commands)
        if isinstance(event, PolicyChanged):
            self._policy = event.policy
        return commands

    def next_wakeup(self) -> float | None:
        """When `TimerFired` is wanted next, None if never."""
        return self._machine.next_wakeup()

    def snapshot(self, now: float) -> SchedulerSnapshot:
        """The whole machine as plain values."""
        return self._machine.snapshot(now)
