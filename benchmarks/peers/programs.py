"""One program that is not ours, as a child: started, waited for, ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from hortator.cli.errors import EXIT_FAILED, CommandError

STOP_GRACE_S = 1.0
POLL_S = 0.1
NUM_LOG_LINES_SHOWN = 8


@asynccontextmanager
async def program(
    name: str, command: Sequence[str], *, log_path: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program in a session of its own for the length of the block; its output goes to the log.

    Raises:
        CommandError: it cannot be started.
    """
    with log_path.open("ab") as log:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment() | dict(variables or {}),
            )
        except OSError as error:
            raise CommandError(f"{name}: {command[0]}: {error.strerror}", exit_code=EXIT_FAILED) from None
        try:
            yield process
        finally:
            await _stop(process)


async def until(
    name: str,
    is_ready: Callable[[], Awaitable[bool]],
    *,
    process: asyncio.subprocess.Process,
    log_path: Path,
    timeout_s: float = 60.0,
) -> None:
    """Return once the program is ready.

    Raises:
        CommandError: it ended, or was not ready in time; with the last lines of its log.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while process.returncode is None:
                if await is_ready():
                    return
                await asyncio.sleep(POLL_S)
        problem = f"ended with exit code {process.returncode}"
    except TimeoutError:
        problem = f"not ready after {timeout_s:g} s"
    lines = _last_lines(log_path)
    raise CommandError([f"{name}: {problem} (log: {log_path})", *lines], exit_code=EXIT_FAILED)


def _last_lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-NUM_LOG_LINES_SHOWN:]


async def answers_ok(session: aiohttp.ClientSession, url: str, body: bytes | None = None) -> bool:
    """Whether a GET (or a POST of `body`) is answered with 200."""
    try:
        method = "GET" if body is None else "POST"
        async with session.request(
            method, url, data=body, timeout=aiohttp.ClientTimeout(total=20)
        ) as response:
            await response.read()
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def program_version(name: str) -> str:
    """The first line of what a program of the system says of itself."""
    done = subprocess.run([name, "-v"], check=False, capture_output=True, text=True)
    return (done.stdout or done.stderr).splitlines()[0]


def free_ports(number: int) -> list[int]:
    """Ports of the loopback that nobody has, all different; somebody may still take one before it is used."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _environment() -> dict[str, str]:
    """Ours without what belongs to our Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
