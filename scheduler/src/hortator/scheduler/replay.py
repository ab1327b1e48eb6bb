"""Replay: a recording through a fresh machine, which must say the same commands again.

The machine is a function of its events and their times, so a recorded run is a test case: `summarize` gives
the digest of every command, equal for equal recordings and the same code.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hortator.scheduler.core.commands import Command
from hortator.scheduler.core.events import Event
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.errors import RecordingError
from hortator.scheduler.event_json import encode_tagged
from hortator.scheduler.recorder import Recording


class Handles(Protocol):
    """The one door of a machine."""

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event at `now`."""
        ...


MachineFactory = Callable[[SchedulerSettings, int], Handles]
"""Makes a fresh machine from settings and epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One recorded event and what a fresh machine answers to it."""

    now: float
    event: Event
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySummary:
    """A whole recording in a few numbers."""

    version: str
    """Of the program that recorded."""
    epoch: int
    policy: str
    num_events: int
    span_s: float
    """From the first to the last event."""
    events_by_kind: Mapping[str, int]
    commands_by_kind: Mapping[str, int]
    digest: str
    """SHA-256 over every command with its time."""


class CommandDigest:
    """SHA-256 over commands, their order and their times."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, now: float, commands: Sequence[Command]) -> None:
        """Add what one event led to."""
        for command in commands:
            line = json.dumps([now, *encode_tagged(command)], separators=(",", ":"), sort_keys=True)
            self._hash.update(line.encode() + b"\n")

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


def replay(
    path: Path, *, allow_gaps: bool = False, machine_factory: MachineFactory | None = None
) -> Iterator[Replayed]:
    """Every event of the recording at `path` with the commands of a fresh machine.

    Args:
        path: the recording (its older files are found beside it).
        allow_gaps: also replay recordings that miss their beginning or events in between; then the commands
            are those of a machine that never saw the missing events.
        machine_factory: for tests and what-if; default the scheduler's own machine.

    Raises:
        RecordingError: not a recording, a broken line, or missing events.
    """
    recording = Recording(path)
    if not recording.is_complete and not allow_gaps:
        raise RecordingError(f"{path}: starts at event {recording.header.first_event}, the first are gone")
    make = machine_factory or _fresh_machine
    machine = make(recording.header.settings, recording.header.epoch)
    for now, event in recording.events(allow_gaps=allow_gaps):
        yield Replayed(now=now, event=event, commands=tuple(machine.handle(event, now)))


def summarize(
    path: Path, *, allow_gaps: bool = False, machine_factory: MachineFactory | None = None
) -> ReplaySummary:
    """Replay all of it. Raises as `replay` does."""
    header = Recording(path).header
    events: Counter[str] = Counter()
    commands: Counter[str] = Counter()
    digest = CommandDigest()
    first_at: float | None = None
    last_at = 0.0
    for step in replay(path, allow_gaps=allow_gaps, machine_factory=machine_factory):
        first_at = step.now if first_at is None else first_at
        last_at = step.now
        events[type(step.event).__name__] += 1
        commands.update(type(command).__name__ for command in step.commands)
        digest.update(step.now, step.commands)
    return ReplaySummary(
        version=header.version,
        epoch=header.epoch,
        policy=header.settings.policy,
        num_events=events.total(),
        span_s=0.0 if first_at is None else last_at - first_at,
        events_by_kind=dict(sorted(events.items())),
        commands_by_kind=dict(sorted(commands.items())),
        digest=digest.hexdigest(),
    )


def _fresh_machine(settings: SchedulerSettings, epoch: int) -> Handles:
    from hortator.scheduler.core.machine import SchedulerMachine  # noqa: PLC0415

    return SchedulerMachine(settings, epoch=epoch)
