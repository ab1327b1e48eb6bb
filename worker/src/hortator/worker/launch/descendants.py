"""Everything that this process has started, however deep, ends with it.

A daemon that sshd or mpirun has started may put itself into a session of its own; its parent is gone then,
and it would become a child of the machine's first process. `adopt_orphans` makes it ours instead, so that
`end_all` finds it. In a container the worker is the first process, and the kernel ends all others with it;
this is for the time before, and for workers outside of containers.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
KILL_TIMEOUT_S = 5.0


def adopt_orphans() -> None:
    """From now on."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(of: int | None = None) -> set[int]:
    """Processes below one (this one), dead ones that nobody has waited for left out."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = [of or os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.add(child)
            waiting.append(child)
    return found


async def end_all(timeout_s: float = KILL_TIMEOUT_S) -> set[int]:
    """Kill them; who is left after the timeout (in a system call that does not end)."""
    ends_at = time.monotonic() + timeout_s
    while left := descendants():
        if time.monotonic() > ends_at:
            return left
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.02)
    return set()


def _processes() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state != "Z":
            yield int(folder.name), int(parent)
