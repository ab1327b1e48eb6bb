"""A signal for this process when the one that started it is gone, however that was. Linux only."""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def signal_at_parent_death(number: int) -> bool:
    """Ask for it; outlives exec. False: the parent of now is gone already."""
    parent_pid = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    return os.getppid() == parent_pid
