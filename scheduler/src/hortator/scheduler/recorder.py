"""The event recorder: everything that happened to the machine, one JSON line each, in the order it happened.

Format of a recording (`events.jsonl`):

- First line of each file, the header: ``{"hortator_recording": 1, "version": ..., "epoch": ..., "settings":
  {...}, "first_event": 0}``; `first_event` counts the events of earlier files of the same epoch.
- Then ``[now, event class, {field: value}]``, fields at their default left out (see `event_json`).
- ``{"gap": n}`` where n events were lost because the disk was slower than the scheduler.
- Last, once the scheduler has drained and no event was lost: ``{"end": n, "digest": ...}``, with the number
  of events of this epoch and the digest of every command that they led to (see `digest`).

A file over `max_file_bytes` is renamed ``events.jsonl.N`` (N grows, also over restarts) and a new one begun;
at most `max_files` are kept. The loop only encodes a line and appends it to a bounded buffer; a thread
writes. If the disk fails, recording stops, scheduling does not.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from hortator.scheduler.core.commands import Command
from hortator.scheduler.core.events import Event
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.digest import CommandDigest
from hortator.scheduler.errors import RecordingError
from hortator.scheduler.event_json import decode_event, decode_fields, encode_fields, encode_tagged

FORMAT = 1
MAX_ERROR_CHARS = 500

_dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingHeader:
    """What a recording needs to be replayed, and where it starts."""

    version: str
    epoch: int
    settings: SchedulerSettings
    first_event: int = 0
    """Events of this epoch that came before this file; replay is exact only from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingEnd:
    """What a scheduler that drained says about the whole recording."""

    num_events: int
    digest: str
    """Of the live run's commands."""


@dataclass(slots=True)
class _Buffer:
    lines: list[str] = field(default_factory=list)
    answers: list[tuple[float, Sequence[Command]]] = field(default_factory=list)
    num_bytes: int = 0
    num_events: int = 0


class EventRecorder:
    """Writes a recording. `start`, then `record` from one thread, then `close`."""

    def __init__(
        self,
        path: Path,
        *,
        settings: SchedulerSettings,
        epoch: int,
        max_file_bytes: int = 256 * 1024 * 1024,
        max_files: int = 8,
        max_buffer_bytes: int = 32 * 1024 * 1024,
        write_interval_s: float = 0.2,
    ) -> None:
        self._path = path
        self._settings = settings
        self._epoch = epoch
        self._max_file_bytes = max_file_bytes
        self._max_files = max_files
        self._max_buffer_bytes = max_buffer_bytes
        self._write_interval_s = write_interval_s
        self._buffer = _Buffer()
        self._swap = threading.Lock()  # held for an append or a swap, never for I/O
        self._gap = 0
        self._num_dropped = 0
        self._num_written = 0
        self._digest = CommandDigest()
        self._file: BinaryIO | None = None
        self._file_bytes = 0
        self._is_failed = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._log = structlog.get_logger("hortator.scheduler.recorder")

    @property
    def num_dropped(self) -> int:
        """Events lost because the buffer was full or the disk failed."""
        return self._num_dropped

    def start(self) -> None:
        """Open the file (an older one is kept under a number) and start the writing thread.

        Raises:
            OSError: the file cannot be created.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open_next()
        self._thread = threading.Thread(target=self._write_until_stopped, name="event-recorder", daemon=True)
        self._thread.start()

    def record(self, now: float, event: Event) -> None:
        """Append one event; never waits for the disk."""
        if self._buffer.num_bytes >= self._max_buffer_bytes or self._is_failed:
            self._gap += 1
            self._num_dropped += 1
            return
        line = _dumps([now, *encode_tagged(event)])
        with self._swap:
            buffer = self._buffer
            if self._gap:
                buffer.lines.append(_dumps({"gap": self._gap}))
                self._gap = 0
            buffer.lines.append(line)
            buffer.num_bytes += len(line) + 1
            buffer.num_events += 1

    def answered(self, now: float, commands: Sequence[Command]) -> None:
        """Take note of what the event of `now` led to; the thread that writes makes the digest."""
        if commands and not self._num_dropped:
            with self._swap:
                self._buffer.answers.append((now, tuple(commands)))

    def close(self) -> None:
        """Write what is left and the end, and close the file. A second call is a no-op."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_until_stopped(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(self._write_interval_s)
            try:
                self._write_buffer()
                if is_last:
                    self._write_end()
            except OSError as error:
                self._is_failed = True
                self._log.exception("recording stopped", path=str(self._path), error=str(error))
                return

    def _write_buffer(self) -> None:
        with self._swap:
            buffer, self._buffer = self._buffer, _Buffer()
        for now, commands in buffer.answers:
            self._digest.update(now, commands)
        if not buffer.lines or self._file is None:
            return
        data = ("\n".join(buffer.lines) + "\n").encode()
        self._file.write(data)
        self._file.flush()
        self._file_bytes += len(data)
        self._num_written += buffer.num_events
        if self._file_bytes >= self._max_file_bytes:
            self._open_next()

    def _write_end(self) -> None:
        """Without a digest when events were lost: no replay can be equal then."""
        if self._file is not None and not self._num_dropped:
            end = {"end": self._num_written, "digest": self._digest.hexdigest()}
            self._file.write((_dumps(end) + "\n").encode())

    def _open_next(self) -> None:
        if self._file is not None:
            self._file.close()
        older = sorted(_numbered(self._path))
        if self._path.exists():
            number = older[-1][0] + 1 if older else 1
            target = self._path.with_name(f"{self._path.name}.{number}")
            self._path.rename(target)
            older.append((number, target))
        for _, path in older[: max(0, len(older) - (self._max_files - 1))]:
            path.unlink(missing_ok=True)
        header = {
            "hortator_recording": FORMAT,
            "version": metadata.version("hortator"),
            "epoch": self._epoch,
            "settings": encode_fields(self._settings),
            "first_event": self._num_written,
        }
        self._file = self._path.open("wb")
        self._file_bytes = self._file.write((_dumps(header) + "\n").encode())
        self._file.flush()


class Recording:
    """A recorded run: `path` and the older files of the same epoch beside it."""

    def __init__(self, path: Path) -> None:
        """Read the headers.

        Raises:
            RecordingError: no such file, or not a recording.
        """
        self.path = path
        last = _read_header(path)
        files = [(last.first_event, path)]
        for _, older in _numbered(path):
            header = _read_header(older)
            if header.epoch == last.epoch and header.first_event < last.first_event:
                files.append((header.first_event, older))
        files.sort()
        self._files = [file for _, file in files]
        self.header = _read_header(self._files[0])
        self.end: RecordingEnd | None = None
        """Known after `events` has come to its end; None: it was cut short, or events were lost."""

    @property
    def is_complete(self) -> bool:
        """True if it starts at the first event of its epoch."""
        return self.header.first_event == 0

    def events(self, *, allow_gaps: bool = False) -> Iterator[tuple[float, Event]]:
        """Every ``(now, event)`` in order. A last line cut short by a crash is left out.

        Raises:
            RecordingError: a line that is no event, or a gap unless `allow_gaps`; names file and line.
        """
        last = -math.inf
        for path in self._files:
            with path.open("rb") as file:
                next(file)
                for number, line in enumerate(file, start=2):
                    if not line.endswith(b"\n"):
                        return
                    parsed = self._parse(path, number, line, allow_gaps=allow_gaps)
                    if parsed is None:
                        continue
                    if not last <= parsed[0] < math.inf:  # NaN fails, too
                        raise RecordingError(f"{path}:{number}: time {parsed[0]:g} after {last:g}")
                    last = parsed[0]
                    yield parsed

    def _parse(self, path: Path, number: int, line: bytes, *, allow_gaps: bool) -> tuple[float, Event] | None:
        try:
            value: Any = json.loads(line)
            match value:
                case [float() | int() as now, name, fields]:
                    return float(now), decode_event([name, fields])
                case {"end": int(num_events), "digest": str(digest)}:
                    self.end = RecordingEnd(num_events=num_events, digest=digest)
                    return None
                case {"gap": int(gap)} if allow_gaps and gap:
                    return None
                case {"gap": int(gap)}:
                    raise RecordingError(f"{path}:{number}: {gap} events are missing here")
                case _:
                    raise RecordingError(f"{path}:{number}: not an event: {line[:80]!r}")
        except (ValueError, OverflowError, RecursionError) as error:
            raise RecordingError(f"{path}:{number}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Its words, without what it quotes of a damaged file at length."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}..."


def _read_header(path: Path) -> RecordingHeader:
    try:
        with path.open("rb") as file:
            value = json.loads(file.readline())
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path}:1: not a recording: {one_line(error)}") from error
    match value:
        case {
            "hortator_recording": 1,
            "version": str(version),
            "epoch": int(epoch),
            "settings": dict(fields),
            "first_event": int(first_event),
        }:
            pass
        case _:
            raise RecordingError(f"{path}:1: not a recording of format {FORMAT}")
    try:
        settings = decode_fields(SchedulerSettings, fields)
    except ValueError as error:
        raise RecordingError(f"{path}:1: {one_line(error)}") from error
    return RecordingHeader(version=version, epoch=epoch, settings=settings, first_event=first_event)


def _numbered(path: Path) -> Iterator[tuple[int, Path]]:
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
    for candidate in path.parent.iterdir() if path.parent.is_dir() else ():
        match = pattern.fullmatch(candidate.name)
        if match:
            yield int(match[1]), candidate
