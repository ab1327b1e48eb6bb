"""The line that says why a process ends, where people and Kubernetes look for it.

Kubernetes shows what a container wrote to its termination log as the message of its last state. The file is
there only inside a pod; elsewhere standard error is all.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

TERMINATION_LOG = Path("/dev/termination-log")
MAX_CHARS = 2_000


def say_last_words(message: str, *, termination_log: Path = TERMINATION_LOG) -> None:
    """Write one line to standard error, and to the termination log if there is one."""
    line = " ".join(message.split())[:MAX_CHARS]
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
    if termination_log.exists():
        with suppress(OSError):
            termination_log.write_text(line + "\n")
