"""A second process in the pod of ordinal 0 runs a command in the other pods of its group, by their doors.

It uses what the worker beside it has written to start ranks: the key, and where each member's sshd is. So it
works from when ranks are started until the group ends, and nobody else can do it.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hortator.worker.launch.keys import FOLDER_PREFIX, program

SSH_CONFIG = "ssh_config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What became of a command on one host."""

    host: str
    output: str
    problem: str
    """Why there is no output; empty: there is."""


def launch_folder(parent: Path | None = None) -> Path | None:
    """Of the launch that is under way in this pod; None: there is none, or this is not ordinal 0."""
    found = Path(parent or tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/{SSH_CONFIG}")
    return max(_readable(found), default=(0.0, None))[1]


def hosts_of(ssh_config: str) -> tuple[str, ...]:
    """Members other than ordinal 0, by ordinal."""
    return tuple(re.findall(r"(?m)^Host (?!\*)(\S+)$", ssh_config))


async def visit(folder: Path, host: str, command: str, *, timeout_s: float) -> Visit:
    """Run a command there."""
    ssh = (program("ssh") or "ssh", "-F", str(folder / SSH_CONFIG), host, command)
    return await answer_of(ssh, host, timeout_s=timeout_s)


async def answer_of(command: Sequence[str], host: str, *, timeout_s: float) -> Visit:
    """Run a command of this machine that answers for a host."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return Visit(host=host, output="", problem=f"no answer within {timeout_s:g} s")
    said = output.decode(errors="replace")
    if said.strip():
        return Visit(host=host, output=said, problem="")
    lines = errors.decode(errors="replace").strip().splitlines()
    why = lines[-1] if lines else "it said nothing"
    return Visit(host=host, output="", problem=f"exit code {process.returncode}: {why}")


def _readable(files: Iterator[Path]) -> Iterator[tuple[float, Path]]:
    for file in files:
        try:
            yield file.stat().st_mtime, file.parent
        except OSError:
            continue
