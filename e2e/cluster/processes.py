"""Child processes that cannot outlive the tests: each is told by the kernel to die with its parent.

`setpriv --pdeathsig` watches the *thread* that started the child, so start children from a thread that lives as long
as they should (the main thread, everywhere here). Ending goes by process id: SIGTERM, then SIGKILL.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.02
DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")


class LabError(Exception):
    """The lab could not do what was asked; one line."""


@dataclass(slots=True, kw_only=True)
class Process:
    """One running child."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.child.poll() is None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.is_alive:
            self.child.send_signal(number)

    def end(self, *, grace_s: float = 10) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; a stopped process is woken up first."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        try:
            self.child.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self.send(signal.SIGKILL)
        self.child.wait()

    def pause(self) -> None:
        """SIGSTOP, and wait until every thread has stopped: on a busy machine that takes some milliseconds."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: all(state == "T" for state in _thread_states(self.pid)), what=f"{self.name} stops")

    def resume(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)

    def last_lines(self, num_lines: int = 5) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-num_lines:])


@dataclass(slots=True, kw_only=True)
class Processes:
    """The children of one lab, by name; logs are `logs/NAME.log`."""

    logs: Path
    running: dict[str, Process] = field(default_factory=dict)

    def start(
        self, name: str, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a child in a session of its own; the log is appended to."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*DIES_WITH_PARENT, *map(str, command)],
                env=os.environ | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = Process(name=name, child=child, log=log)
        return self.running[name]

    def end(self, *names: str, grace_s: float = 10) -> None:
        """End some; no name: all, the last started first."""
        for name in names or list(reversed(self.running)):
            process = self.running.pop(name, None)
            if process is not None:
                process.end(grace_s=grace_s)

    def wait_until(self, condition: Callable[[], bool], *, what: str, timeout_s: float = 60) -> None:
        """Poll `condition`; a child that ended meanwhile, or the time-out, is an error with its log."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            for process in self.running.values():
                if not process.is_alive:
                    raise LabError(
                        f"{process.name} ended with {process.child.returncode}:\n{process.last_lines()}"
                    )
            if time.monotonic() > deadline:
                logs = "\n".join(f"{p.name}: {p.last_lines(2)}" for p in self.running.values())
                raise LabError(f"not within {timeout_s:g} s: {what}\n{logs}")
            time.sleep(POLL_S)


def wait_until(
    condition: Callable[[], object], *, timeout_s: float = 30, what: str, poll_s: float = 0.05
) -> None:
    """Poll until `condition()` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout_s:g} s: {what}")
        time.sleep(poll_s)


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid, a name that is never used again."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19])
    return None


def _thread_states(pid: int) -> list[str]:
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return states


def peak_rss_mib(pid: int) -> float:
    """The most memory that a process has had since it was started (`ru_maxrss` also counts its parent's before)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
