"""What a policy is: a pure answer to "what should be released now?".

A policy reads the fleet and the waiting queue and returns at most one planned batch per call; the machine
commits it and asks again until the answer is None. A policy may keep its own small state (a round-robin
pointer), never the requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.waiting import WaitingQueue


class Seat(NamedTuple):
    """One request on one rank of the planned batch's group."""

    request: RequestState
    dp_rank: int
    num_prefill_tokens: int
    """Prompt tokens not in the rank's prefix cache."""
    kv_blocks: int
    """What the sequence will hold: the prompt and, where it is decoded too, a guess of its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """What the machine is asked to dispatch."""

    group: GroupState
    seats: list[Seat]
    predicted_pass_s: float
    passed_over: list[RequestState]
    """Considered and not seated: each was carried over once more."""


class Policy(Protocol):
    """When to release, and where to place prefills (or whole requests, Aggregated)."""

    name: str
    gathers_decode: bool
    """Whether decode-ready requests are gathered for `decode_window_s` (else placed one by one)."""

    def plan(self, fleet: Fleet, waiting: WaitingQueue, now: float) -> PlannedBatch | None:
        """The next batch to release now, or None."""
        ...

    def wakeup(self, fleet: Fleet, waiting: WaitingQueue, now: float) -> float | None:
        """When `plan` could answer otherwise without any event; None: only events matter."""
        ...


class PolicyFactory(Protocol):
    """Makes a policy from the settings."""

    def __call__(self, settings: SchedulerSettings) -> Policy:
        """A fresh policy."""
        ...
