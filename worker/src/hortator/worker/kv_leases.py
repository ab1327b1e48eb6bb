"""Leases on KV that waits to be pulled by a decode worker. Pure: time is an argument.

A lease ends by exactly one of: released by the puller, revoked (request cancelled, gateway lost), expired.
Whoever ends it must free the blocks in the engine. A lease neither expires nor can be revoked while
somebody pulls it; what was due then happens when the pull ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from hortator.worker.errors import UnknownLeaseError


@dataclass(slots=True, kw_only=True)
class _Lease:
    expires_at: float
    owner: object
    num_pulls: int = 0
    is_revoked: bool = False


class KvLeases:
    """Leases by id. `duration_s` is how long KV waits before it is given up."""

    def __init__(self, *, duration_s: float = 30.0) -> None:
        self._duration_s = duration_s
        self._leases: dict[str, _Lease] = {}
        """In the order of their expiry: all are granted for the same time."""

    def __len__(self) -> int:
        return len(self._leases)

    def grant(self, lease_id: str, owner: object, now: float) -> None:
        """Keep KV for `duration_s`. `owner` is whose loss revokes it."""
        self._leases[lease_id] = _Lease(expires_at=now + self._duration_s, owner=owner)

    def start_pull(self, lease_id: str) -> None:
        """Somebody reads the KV. Raises UnknownLeaseError."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.is_revoked:
            raise UnknownLeaseError(lease_id)
        lease.num_pulls += 1

    def end_pull(self, lease_id: str) -> bool:
        """The reader is done or gone. True: the lease was revoked meanwhile and has ended now."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return False
        lease.num_pulls -= 1
        return self._end_if_revoked(lease_id, lease)

    def release(self, lease_id: str) -> bool:
        """The puller has it all. True: the lease has ended now; False: there was none."""
        return self._leases.pop(lease_id, None) is not None

    def revoke(self, lease_id: str) -> bool:
        """Nobody will want it. True: the lease has ended now."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return False
        lease.is_revoked = True
        return self._end_if_revoked(lease_id, lease)

    def revoke_owned_by(self, owner: object) -> list[str]:
        """Revoke all leases of an owner; returns those that have ended now."""
        owned = [lease_id for lease_id, lease in self._leases.items() if lease.owner is owner]
        return [lease_id for lease_id in owned if self.revoke(lease_id)]

    def expire(self, now: float) -> list[str]:
        """End the leases whose time is up, and return them."""
        in_order = takewhile(lambda item: item[1].expires_at <= now, self._leases.items())
        due = [lease_id for lease_id, lease in in_order if not lease.num_pulls]
        for lease_id in due:
            del self._leases[lease_id]
        return due

    def next_expiry(self) -> float | None:
        """When `expire` has something to do."""
        return next((lease.expires_at for lease in self._leases.values() if not lease.num_pulls), None)

    def _end_if_revoked(self, lease_id: str, lease: _Lease) -> bool:
        if lease.is_revoked and not lease.num_pulls:
            del self._leases[lease_id]
            return True
        return False
