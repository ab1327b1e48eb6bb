"""The prefill side of a KV hand-over: leases, and the KV they keep in the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from hortator.worker.engine import Engine
from hortator.worker.engine_queue import EngineQueue
from hortator.worker.errors import UnknownLeaseError
from hortator.worker.gateway_link import GatewayLink
from hortator.worker.kv_leases import KvLeases
from hortator.worker.metrics import WorkerMetrics


class KvExport:
    """Grants and ends leases, and frees the blocks with each end. Lease ids are engine request ids."""

    def __init__(
        self,
        engine: Engine,
        queue: EngineQueue,
        leases: KvLeases,
        metrics: WorkerMetrics,
        on_change: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._leases = leases
        self._metrics = metrics
        self._on_change = on_change
        """Called when a lease was granted or freed, or a pull ended."""

    @property
    def num_leases(self) -> int:
        """KV hand-overs that have not happened yet."""
        return len(self._leases)

    def next_expiry(self) -> float | None:
        """When `expire` must be called."""
        return self._leases.next_expiry()

    def grant(self, lease_id: str, owner: GatewayLink, now: float) -> None:
        """KV of a prefilled request waits from now on."""
        self._leases.grant(lease_id, owner, now)
        self._changed()

    async def export(self, lease_id: str) -> AsyncIterator[bytes]:
        """The KV in chunks. Raises UnknownLeaseError."""
        self._leases.start_pull(lease_id)
        try:
            async for chunk in self._engine.export_kv(lease_id):
                yield chunk
        except KeyError as error:
            raise UnknownLeaseError(lease_id) from error
        finally:
            if self._leases.end_pull(lease_id):
                self._queue.release_kv(lease_id)
            self._changed()

    def release(self, lease_id: str) -> bool:
        """The puller has it all. False: there was no such lease."""
        is_ended = self._leases.release(lease_id)
        if is_ended:
            self._free(lease_id)
        return is_ended

    def revoke(self, lease_id: str) -> None:
        """The request was cancelled."""
        if self._leases.revoke(lease_id):
            self._free(lease_id)

    def revoke_owned_by(self, owner: GatewayLink) -> None:
        """The gateway is gone, its requests with it."""
        for lease_id in self._leases.revoke_owned_by(owner):
            self._free(lease_id)

    def expire(self, now: float) -> int:
        """End the leases whose time is up; returns how many."""
        due = self._leases.expire(now)
        for lease_id in due:
            self._free(lease_id)
        return len(due)

    def _free(self, lease_id: str) -> None:
        self._queue.release_kv(lease_id)
        self._changed()

    def _changed(self) -> None:
        self._metrics.kv_leases.set(len(self._leases))
        self._on_change()
