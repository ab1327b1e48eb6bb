"""Worker processes as pods run them: one per ordinal, each on a loopback address of its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from live_stack import HORTATOR, wait_until

_S = TypeVar("_S", bound="Starter")

ENGINE_OPTIONS = {"dp_size": 4, "kv_blocks_total": 1000, "time_scale": 0.01}


PORTS = range(20_000, 32_768)
"""Below those that the kernel gives to connections, which would take a port before who wants it listens."""


def a_free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


@dataclass
class Process:
    """One process and what it says."""

    popen: subprocess.Popen[str]
    host: str
    admin_port: int
    log: Path
    started_at: float = field(default_factory=time.monotonic)

    def readyz(self) -> tuple[int, str]:
        """Status and text; 0 while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.admin_port}/readyz", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.host}:{self.admin_port}/metrics", timeout=2) as answer:
            return answer.read().decode()

    def address(self) -> str:
        """Of its gRPC server, once it is ready."""
        lines = (line for line in self.log.read_text().splitlines() if line.startswith('{"event": "ready"'))
        return next((json.loads(line)["address"] for line in lines), "")

    def last_words(self) -> str:
        """The last line of what it wrote: why it ended."""
        lines = [line for line in self.log.read_text().splitlines() if line and not line.startswith("{")]
        return lines[-1] if lines else ""

    def wait(self, timeout: float = 20) -> int:
        return self.popen.wait(timeout)

    def kill(self, number: int) -> None:
        self.popen.send_signal(number)


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Starter]:
    """Start processes; none is left afterwards."""
    with cleared(Starter(folder)) as starter:
        yield starter


@contextlib.contextmanager
def cleared(starter: _S) -> Iterator[_S]:
    """Kill what a starter has started."""
    try:
        yield starter
    finally:
        for process in starter.started:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGCONT)
                process.popen.kill()
                process.popen.wait()


class Starter:
    """Starts `python -m hortator.<component>` from environment variables only, as a pod does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Process] = []
        self.join_port = a_free_port()
        self.sources: dict[str, Sequence[Path]] = {}
        """By component: folders with the packages that its processes run, if not those of this checkout."""

    def start(self, component: str, *, host: str, within: Sequence[str] = (), **settings: object) -> Process:
        """Start one; `within` is a command that runs it elsewhere, as in another network namespace."""
        prefix = f"HORTATOR_{component.upper()}_"
        values = {"HOST": host, "ADMIN_HOST": host, "ADMIN_PORT": a_free_port(), "LOG_LEVEL": "INFO"}
        values |= {name.upper(): value for name, value in settings.items()}
        environment = os.environ | {prefix + name: _text(value) for name, value in values.items()}
        if component in self.sources:
            environment["PYTHONPATH"] = os.pathsep.join(map(str, self.sources[component]))
        log = self.folder / f"{component}-{len(self.started)}.log"
        with log.open("w") as output:
            popen = subprocess.Popen(
                [*within, sys.executable, "-m", f"hortator.{component}"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        process = Process(popen=popen, host=host, admin_port=int(str(values["ADMIN_PORT"])), log=log)
        self.started.append(process)
        return process

    def serving(
        self, component: str, *, host: str, within: Sequence[str] = (), **settings: object
    ) -> Process:
        """Start one and wait for its ready line."""
        process = self.start(component, host=host, within=within, **settings)
        wait_until(lambda: process.address() or process.popen.poll() is not None, what=f"{component} serves")
        assert process.popen.poll() is None, process.log.read_text()
        return process

    def member(self, ordinal: int, *, size: int = 2, epoch: int = 1, **settings: object) -> Process:
        """A process of the group `svc-a-0`, on 127.0.0.(10 + ordinal)."""
        values: Mapping[str, object] = {
            "host": f"127.0.0.{10 + ordinal}",
            "worker_id": "aggregated-0",
            "pod_name": f"svc-a-0-{ordinal}",
            "node_name": f"node-{ordinal}",
            "group_size": size,
            "epoch": epoch,
            "leader_address": f"127.0.0.10:{self.join_port}",
            "join_port": self.join_port,
            "startup_timeout_s": 30,
            "engine_options": ENGINE_OPTIONS,
        }
        return self.start("worker", **(dict(values) | settings))

    def generating(self, endpoint: str, prompt: str, *, max_tokens: int) -> subprocess.Popen[str]:
        """`hortator generate --json`; read it with `events_of` or `tokens_in`."""
        command = [*HORTATOR, "generate", prompt, "--endpoint", endpoint, "--json", "--ignore-eos"]
        return subprocess.Popen(
            [*command, "--max-tokens", str(max_tokens)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
