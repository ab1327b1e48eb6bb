"""`python -m hortator.worker.launch.tethered PROGRAM WORDS...`: become a program that ends with its parent.

The kernel sends SIGTERM when the parent is gone. Asked for here and not between fork and exec of the worker,
which has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def tethered(words: Sequence[str]) -> list[str]:
    """The command line that does it."""
    return [sys.executable, "-m", "hortator.worker.launch.tethered", *words]


def main(words: Sequence[str]) -> NoReturn:
    """Does not return."""
    parent_pid = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent process is gone")
    os.execv(words[0], list(words))  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
