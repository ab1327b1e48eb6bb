"""`python -m hortator.worker.launch.tethered PROGRAM WORDS...`: become a program that ends with its parent.

The kernel sends SIGTERM when the parent is gone. Asked for here and not between fork and exec of the worker,
which has threads.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from hortator.runtime.parent_death import signal_at_parent_death


def tethered(words: Sequence[str]) -> list[str]:
    """The command line that does it."""
    return [sys.executable, "-m", "hortator.worker.launch.tethered", *words]


def main(words: Sequence[str]) -> NoReturn:
    """Does not return."""
    if not signal_at_parent_death(signal.SIGTERM):
        raise SystemExit("the parent process is gone")
    os.execv(words[0], list(words))  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
