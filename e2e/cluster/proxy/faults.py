"""What a test makes go wrong between a client and the API server, and a record of what went through.

A fault says which requests it is about and what happens to them. The first fault that matches counts.
"""

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from cluster.proxy.messages import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Which requests, how many of them, and what happens."""

    methods: str = ""  # words; none: all
    path: str = ""  # regular expression, searched in path and query
    watches: bool | None = None  # only watches, only others, or both
    arrived_before: float | None = None  # time.monotonic(); none: all
    share: float = 1.0  # of the requests that match
    times: int | None = None  # at most so often
    # what happens, in this order
    delay_s: float = 0.0
    answer: int | None = None  # this status, and the request is not forwarded
    retry_after_s: int | None = None
    message: str = "made to fail by the lab"
    lose: Literal["", "request", "reply"] = ""  # close the connection before or after it was forwarded
    silent: bool = False  # the answer stops arriving; when the fault ends, the connection is closed

    def matches(self, request: Request) -> bool:
        """Whether the fault is about this request."""
        return (
            (not self.methods or request.method in self.methods.split())
            and (self.watches is None or self.watches == request.is_watch)
            and (self.arrived_before is None or request.arrived_at < self.arrived_before)
            and re.search(self.path, request.target) is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """One request that was answered."""

    asked_at: float  # time.monotonic()
    at: float  # of the answer
    method: str
    target: str
    status: int  # 0: the connection was closed instead
    is_fault: bool


@dataclass(slots=True)
class Faults:
    """The faults of one proxy, changed by a test while it runs; safe between threads."""

    seed: int = 0
    _active: list[tuple[Fault, list[int]]] = field(default_factory=list)
    _passed: list[Passed] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """The faults hold within the block."""
        entries = [(fault, [0]) for fault in faults]
        with self._lock:
            self._active = [*entries, *self._active]
        try:
            yield
        finally:
            with self._lock:
                self._active = [entry for entry in self._active if all(entry is not mine for mine in entries)]

    def choose(self, request: Request) -> Fault | None:
        """The fault for this request; counts it."""
        with self._lock:
            for fault, count in self._active:
                if not fault.matches(request) or (fault.times is not None and count[0] >= fault.times):
                    continue
                if fault.share < 1 and self._random.random() >= fault.share:
                    continue
                count[0] += 1
                return fault
        return None

    def is_silent(self, request: Request) -> bool:
        """Whether a running answer must stop arriving now."""
        with self._lock:
            return any(fault.silent and fault.matches(request) for fault, _ in self._active)

    def record(self, request: Request, status: int, *, is_fault: bool) -> None:
        """Note a request that is over (a watch: that began)."""
        entry = Passed(
            asked_at=request.arrived_at,
            at=time.monotonic(),
            method=request.method,
            target=request.target,
            status=status,
            is_fault=is_fault,
        )
        with self._lock:
            self._passed.append(entry)

    def passed(self, *, since: float = 0.0, writes: bool | None = None) -> list[Passed]:
        """What went through since a `time.monotonic()`: everything, only writes, or only reads."""
        with self._lock:
            found = list(self._passed)
        return [
            entry
            for entry in found
            if entry.at >= since and (writes is None or writes == (entry.method not in {"GET", "HEAD"}))
        ]
