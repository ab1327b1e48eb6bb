"""Garbage collection of a server: what start-up made stays out of every collection, and those are rarer.

A full collection of a process with many live objects takes milliseconds, in which nothing else happens;
servers that answer within milliseconds feel it in their tail. Reference counting frees nearly all anyway.
"""

from __future__ import annotations

import gc

DEFAULT_THRESHOLD = 50_000
"""Allocations between collections of the youngest garbage."""


def settle(threshold: int = DEFAULT_THRESHOLD) -> None:
    """Call once, when everything that lives as long as the process has been made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(threshold, 20, 50)
