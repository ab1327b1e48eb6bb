"""Replay: a recording through a fresh machine, which must say the same commands again.

The machine is a function of its events and their times, so a recorded run is a test case. A scheduler that
drained leaves the digest of its commands in the recording; `Replay.verdict` says whether the fresh machine's
is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from hortator.scheduler.core.commands import Command
from hortator.scheduler.core.events import Event
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.digest import CommandDigest
from hortator.scheduler.errors import RecordingError
from hortator.scheduler.recorder import Recording, RecordingHeader, one_line


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


class Verdict(StrEnum):
    """A replay beside the live run."""

    SAME = "same"
    """The same commands at the same times."""
    DIFFERENT = "different"
    """Other commands: other code, or the recording is not what was written."""
    UNKNOWN = "unknown"
    """Not comparable: the recording was cut short, or misses events."""


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
    live_digest: str | None
    """The same of the live run, as it was recorded; None: the recording does not say."""
    verdict: Verdict


class Replay:
    """One recording, replayed once: iterate over `steps`, then ask for `verdict`."""

    def __init__(
        self, path: Path, *, allow_gaps: bool = False, machine_factory: MachineFactory | None = None
    ) -> None:
        """Read the header.

        Args:
            path: the recording (its older files are found beside it).
            allow_gaps: also replay recordings that miss their beginning or events in between; then the
                commands are those of a machine that never saw the missing events.
            machine_factory: for tests and what-if; default the scheduler's own machine.

        Raises:
            RecordingError: not a recording, or its beginning is missing.
        """
        self._recording = Recording(path)
        if not self._recording.is_complete and not allow_gaps:
            first_event = self._recording.header.first_event
            raise RecordingError(f"{path}: starts at event {first_event}, the first are gone")
        self._allow_gaps = allow_gaps
        self._make = machine_factory or _fresh_machine
        self._digest = CommandDigest()
        self._num_events = 0

    @property
    def header(self) -> RecordingHeader:
        """How the recording began."""
        return self._recording.header

    def steps(self) -> Iterator[Replayed]:
        """Every event with the commands of a fresh machine.

        Raises:
            RecordingError: a broken line, a gap, or an event that no scheduler can have taken (its cause: the
                error of the machine).
        """
        path = self._recording.path
        try:
            machine = self._make(self.header.settings, self.header.epoch)
        except ValueError as error:
            raise RecordingError(f"{path}:1: {one_line(error)}") from error
        for now, event in self._recording.events(allow_gaps=self._allow_gaps):
            try:
                commands = tuple(machine.handle(event, now))
            except Exception as error:
                number = self._num_events + 1
                what = f"event {number} ({type(event).__name__}) cannot be taken"
                raise RecordingError(f"{path}: {what}: {type(error).__name__}: {one_line(error)}") from error
            self._num_events += 1
            self._digest.update(now, commands)
            yield Replayed(now=now, event=event, commands=commands)

    @property
    def digest(self) -> str:
        """Of the commands so far."""
        return self._digest.hexdigest()

    @property
    def live_digest(self) -> str | None:
        """Of the live run; None: the recording does not say."""
        end = self._recording.end
        return None if end is None else end.digest

    @property
    def verdict(self) -> Verdict:
        """Whether these are the commands of the live run; after the last of `steps`."""
        end = self._recording.end
        if end is None or not self._recording.is_complete:
            return Verdict.UNKNOWN
        is_same = (end.num_events, end.digest) == (self._num_events, self.digest)
        return Verdict.SAME if is_same else Verdict.DIFFERENT


def replay(
    path: Path, *, allow_gaps: bool = False, machine_factory: MachineFactory | None = None
) -> Iterator[Replayed]:
    """Every event of the recording at `path` with the commands of a fresh machine. See `Replay`."""
    return Replay(path, allow_gaps=allow_gaps, machine_factory=machine_factory).steps()


def summarize(
    path: Path, *, allow_gaps: bool = False, machine_factory: MachineFactory | None = None
) -> ReplaySummary:
    """Replay all of it. Arguments and errors as of `Replay`."""
    run = Replay(path, allow_gaps=allow_gaps, machine_factory=machine_factory)
    events: Counter[str] = Counter()
    commands: Counter[str] = Counter()
    first_at: float | None = None
    last_at = 0.0
    for step in run.steps():
        first_at = step.now if first_at is None else first_at
        last_at = step.now
        events[type(step.event).__name__] += 1
        commands.update(type(command).__name__ for command in step.commands)
    return ReplaySummary(
        version=run.header.version,
        epoch=run.header.epoch,
        policy=run.header.settings.policy,
        num_events=events.total(),
        span_s=0.0 if first_at is None else last_at - first_at,
        events_by_kind=dict(sorted(events.items())),
        commands_by_kind=dict(sorted(commands.items())),
        digest=run.digest,
        live_digest=run.live_digest,
        verdict=run.verdict,
    )


def _fresh_machine(settings: SchedulerSettings, epoch: int) -> Handles:
    from hortator.scheduler.core.machine import SchedulerMachine  # noqa: PLC0415

    return SchedulerMachine(settings, epoch=epoch)
