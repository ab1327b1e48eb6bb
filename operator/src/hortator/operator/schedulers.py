"""What the operator asks schedulers; `client/scheduler.py` does it by gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hortator.operator.observed import WorkerLoad


class Schedulers(Protocol):
    """The schedulers of many services, by address (`host:port`)."""

    async def workers(self, addresses: Sequence[str]) -> Mapping[str, WorkerLoad] | None:
        """All workers by their ids, as the leader of these sees them; None: nothing is known now."""
        ...

    def start_drain(self, address: str, worker_id: str, *, timeout_s: float) -> None:
        """Ask a scheduler to place nothing more on a worker; a standby does nothing.

        What became of it, `workers` tells.
        """
        ...
