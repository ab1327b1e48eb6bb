"""What the operator asks schedulers; `client/scheduler.py` does it by gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hortator.operator.observed import SchedulerView
from hortator.runtime.identity import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerAt:
    """A scheduler that is ready."""

    address: str
    """`host:port`"""
    identity: Identity | None = None
    """Whose certificate it shows; None: it speaks in the clear."""


class Schedulers(Protocol):
    """The schedulers of many services."""

    async def view(self, schedulers: Sequence[SchedulerAt]) -> SchedulerView | None:
        """What the leader of these sees; None: nothing is known now."""
        ...

    def start_drain(self, scheduler: SchedulerAt, worker_id: str, *, timeout_s: float) -> None:
        """Ask a scheduler to place nothing more on a worker; a standby does nothing.

        What became of it, `view` tells.
        """
        ...
