"""Child processes of one stack: started, watched, restarted, stopped. Knows nothing of what they serve.

Rules:

1. A server says `{"event": "ready", "address": ..., "admin_port": ...}` on its standard output once it
   serves; ports are chosen by the kernel and learned from that line. Everything it writes goes to its log
   file.
2. A child lives in a process group of its own: Ctrl-C in a terminal reaches only the parent, which stops the
   children in order, and a group can be killed with everything that the child itself started.
3. A child that ends before its first ready line is an error of the whole stack. One that served and then ends
   is started again: after BACKOFF_FIRST_S, doubled at each death, back to the first after HEALTHY_AFTER_S.
4. `stop` asks (SIGTERM), waits, and then kills; after `kill` nothing of the child is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from hortator.cli.errors import EXIT_FAILED, EXIT_USAGE, CommandError
from hortator.cli.running import RunningProcess
from hortator.runtime import grpc_polling

BACKOFF_FIRST_S = 0.5
BACKOFF_LAST_S = 30.0
HEALTHY_AFTER_S = 60.0
NUM_LOG_LINES_SHOWN = 8
_MAX_LINE_BYTES = 1 << 20

ProcessState = Literal["starting", "ready", "died", "stopping", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessChanged:
    """One step in a child's life, for whoever shows progress."""

    name: str
    state: ProcessState
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to run."""

    name: str
    module: str
    """`python -m MODULE --settings FILE --die-with-parent`."""
    settings: Callable[[], Mapping[str, object]]
    """Asked at every start, so that a restart can name addresses learned since."""
    stop_timeout_s: float = 35.0
    """From SIGTERM to SIGKILL."""


@dataclass(slots=True, kw_only=True)
class Child:
    """One child process over all its lives."""

    spec: ProcessSpec
    folder: Path
    """Of the stack: `settings/` and `logs/` are in it."""
    on_change: Callable[[ProcessChanged], None]
    address: str = ""
    admin_port: int = 0
    num_restarts: int = 0
    _process: Process | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """The spec's name."""
        return self.spec.name

    @property
    def is_ready(self) -> bool:
        """Serving now."""
        return self._ready.is_set()

    @property
    def log_path(self) -> Path:
        """Where its output goes."""
        return self.folder / "logs" / f"{self.name}.log"

    def running(self) -> RunningProcess:
        """The child as `stack.json` names it."""
        pid = self._process.pid if self._process else 0
        return RunningProcess(name=self.name, pid=pid, address=self.address, admin_port=self.admin_port)

    async def wait_ready(self) -> None:
        """Return once the child serves."""
        await self._ready.wait()

    async def keep_running(self) -> None:
        """Start the child and start it again whenever it dies; return when it was stopped.

        Raises:
            CommandError: it ended before it ever served; the last lines of its log are in the error.
        """
        backoff_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            was_ready, lived_s, code = await self._live()
            if self._stop.is_set():
                break
            if not was_ready and not self.num_restarts:
                is_usage = code == EXIT_USAGE
                raise CommandError(self._explain(code), exit_code=EXIT_USAGE if is_usage else EXIT_FAILED)
            if lived_s >= HEALTHY_AFTER_S:
                backoff_s = BACKOFF_FIRST_S
            when = f"starts again in {backoff_s:g} s (log: {self.log_path})"
            self._change("died", f"{_exit_text(code)}; {when}")
            self.num_restarts += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self._stop.wait()
            backoff_s = min(2 * backoff_s, BACKOFF_LAST_S)
        self._change("stopped")

    async def stop(self) -> None:
        """Ask the child to drain and end, wait for it, and kill what is left after `stop_timeout_s`."""
        self._stop.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._change("stopping")
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.spec.stop_timeout_s):
                await process.wait()
        except TimeoutError:
            self._change("stopping", f"still there after {self.spec.stop_timeout_s:g} s: killed")
        finally:
            self.kill()

    def kill(self) -> None:
        """End the child and everything in its process group at once."""
        self._stop.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _live(self) -> tuple[bool, float, int]:
        """One life: whether it served, for how many seconds it lived, its exit code."""
        self._change("starting")
        settings_path = self.folder / "settings" / f"{self.name}.json"
        settings_path.write_text(json.dumps(self.spec.settings(), indent=2) + "\n")
        started_at = time.monotonic()
        with self.log_path.open("a") as log:
            command = [sys.executable, "-m", self.spec.module, "--settings", str(settings_path)]
            self._process = process = await asyncio.create_subprocess_exec(
                *command, "--die-with-parent",
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
                start_new_session=True, limit=_MAX_LINE_BYTES, env=grpc_polling.ENVIRONMENT | os.environ,
            )  # fmt: skip
            try:
                await self._read(process, log)
                code = await process.wait()
            finally:
                if process.returncode is None or not self._stop.is_set():
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)  # whatever a dead child left of its group
        was_ready = self._ready.is_set()
        self._ready.clear()
        return was_ready, time.monotonic() - started_at, code

    async def _read(self, process: Process, log: TextIO) -> None:
        assert process.stdout is not None  # noqa: S101  # it was started with a pipe
        while line := await process.stdout.readline():
            text = line.decode(errors="replace")
            log.write(text)
            log.flush()
            if not self._ready.is_set():
                self._take_ready_line(text)

    def _take_ready_line(self, text: str) -> None:
        try:
            event = json.loads(text)
            if event.get("event") != "ready":
                return
            self.address, self.admin_port = str(event["address"]), int(event.get("admin_port") or 0)
        except (ValueError, KeyError, AttributeError, TypeError):
            return  # a log line
        self._ready.set()
        self._change("ready", self.address)

    def _change(self, state: ProcessState, detail: str = "") -> None:
        self.on_change(ProcessChanged(name=self.name, state=state, detail=detail))

    def _explain(self, code: int) -> list[str]:
        try:
            tail = self.log_path.read_text(errors="replace").splitlines()[-NUM_LOG_LINES_SHOWN:]
        except OSError:
            tail = []
        lines = [f"  {readable_log_line(line)}" for line in tail]
        return [f"{self.name}: {_exit_text(code)} before it was ready; its last lines:", *lines]


def readable_log_line(line: str) -> str:
    """What a line of a process's log says to a person: of a JSON line, level, event and the error, if any."""
    try:
        entry = json.loads(line)
        text = f"{entry['level']}: {entry['event']}"
    except (ValueError, KeyError, TypeError):
        return line
    if entry.get("error"):
        text += f": {entry['error']}"
    if entry.get("exception"):
        text += f": {str(entry['exception']).splitlines()[-1]}"
    return text


def _exit_text(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
