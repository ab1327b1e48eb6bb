"""Real processes: each stack is a `hortator up` of its own, found through a state folder of its own.

The folder is in the environment of everything that a stack starts, so what it leaves behind is found by that,
whoever the parent is by then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent
HORTATOR = (sys.executable, "-m", "hortator.cli.main")
START_TIMEOUT_S = 90
POLL_S = 0.05


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def series(self, name: str) -> list[dict[str, str]]:
        """The labels of every series of that name; none: there is no such metric."""
        return [sample.labels for sample in self.samples if sample.name == name]

    def value(self, name: str, **labels: str) -> float:
        """The sum over the series with these labels; there must be one."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)


@dataclass
class Up:
    """A running `hortator up`."""

    process: subprocess.Popen[str]
    state_dir: Path
    name: str
    log: Path

    def info(self) -> dict:
        """What stack.json says now."""
        return json.loads((self.state_dir / self.name / "stack.json").read_text())

    def pid_of(self, name: str) -> int:
        return next(process["pid"] for process in self.info()["processes"] if process["name"] == name)

    def cli(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against this stack."""
        return subprocess.run(
            [*HORTATOR, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start_cli(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*HORTATOR, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def state(self) -> dict:
        result = self.cli("state", "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.state_dir)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def metrics(self, name: str) -> Metrics:
        """What the process of that name counts now."""
        port = next(process["admin_port"] for process in self.info()["processes"] if process["name"] == name)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return Metrics(answer.read().decode())

    def left(self) -> list[int]:
        """Processes of this stack that exist: `hortator up` and all that it or its children started."""
        return processes_under(self.state_dir)


def processes_under(state_dir: Path) -> list[int]:
    """Every process with this state folder in its environment; zombies have none."""
    wanted = f"HORTATOR_STATE_DIR={state_dir}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def ranks_of(pid: int) -> list[int]:
    """The processes of the DP ranks of a worker with the real engine."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child) for child in children if b"rank_process" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def environment(state_dir: Path) -> dict[str, str]:
    return os.environ | {"HORTATOR_STATE_DIR": str(state_dir), "COLUMNS": "160", "PYTHONUNBUFFERED": "1"}


def is_alive(pid: int) -> bool:
    """Zombies do not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, *, timeout: float = 30, what: str = "") -> None:
    """Poll until `condition()` is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(POLL_S)


@contextlib.contextmanager
def running(manifest: Path, name: str, folder: Path, *arguments: str) -> Iterator[Up]:
    """`hortator up -f manifest` until the block ends; afterwards none of its processes is there."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "up.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*HORTATOR, "up", "-f", str(manifest), *arguments],
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    up = Up(process=process, state_dir=folder, name=name, log=log)
    try:
        wait_until(
            lambda: (folder / name / "stack.json").exists() or process.poll() is not None,
            timeout=START_TIMEOUT_S,
            what="stack.json",
        )
        assert process.poll() is None, log.read_text()
        yield up
    finally:
        if process.poll() is None:
            up.stop()
        wait_until(lambda: not up.left(), timeout=10, what=f"end of {up.left()}")


def events_of(process: subprocess.Popen[str]) -> Iterator[dict]:
    """The JSON lines of `generate --json` as they come."""
    for line in process.stdout:
        yield json.loads(line)


def tokens_in(events) -> tuple[list[int], dict | None]:
    """All token ids, checked to come once and in order, and the completion."""
    token_ids, completion = [], None
    for event in events:
        if "delta" in event:
            assert event["delta"]["token_index"] == len(token_ids)
            token_ids += event["delta"]["token_ids"]
        else:
            completion = event["completion"]
    return token_ids, completion
