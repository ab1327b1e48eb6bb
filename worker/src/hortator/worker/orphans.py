"""Requests whose gateway is gone, kept for a while so that another can attach. Pure: time is an argument.

An orphan goes on running, or has ended and waits with its tokens to be fetched. It is kept for `keep_s`;
beyond `max_orphans`, or `max_tokens` output tokens of all of them together, the oldest go early.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Orphan:
    expires_at: float
    num_tokens: int


class Orphans:
    """Who is kept, by the hash of its idempotency key, and until when."""

    def __init__(
        self, *, keep_s: float = 30.0, max_orphans: int = 10_000, max_tokens: int = 10_000_000
    ) -> None:
        self._keep_s = keep_s
        self._max_orphans = max_orphans
        self._max_tokens = max_tokens
        self._orphans: dict[bytes, _Orphan] = {}
        """In the order of their expiry: all are kept for the same time."""
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._orphans)

    def __contains__(self, key_hash: bytes) -> bool:
        return key_hash in self._orphans

    @property
    def num_tokens(self) -> int:
        """Output tokens that are kept."""
        return self._num_tokens

    def add(self, key_hash: bytes, num_tokens: int, now: float) -> list[bytes]:
        """Keep a request with the output it has; returns those that must go for it, perhaps itself."""
        self._orphans[key_hash] = _Orphan(now + self._keep_s, num_tokens)
        self._num_tokens += num_tokens
        return self._too_many()

    def grow(self, key_hash: bytes, num_tokens: int) -> list[bytes]:
        """An orphan has more output; returns those that must go for it."""
        self._orphans[key_hash].num_tokens += num_tokens
        self._num_tokens += num_tokens
        return self._too_many()

    def remove(self, key_hash: bytes) -> bool:
        """It is none any more: somebody attached, or it was ended. False: it was none."""
        orphan = self._orphans.pop(key_hash, None)
        if orphan is None:
            return False
        self._num_tokens -= orphan.num_tokens
        return True

    def expire(self, now: float) -> list[bytes]:
        """Those whose time is up; they are none any more."""
        due = [key_hash for key_hash, orphan in self._orphans.items() if orphan.expires_at <= now]
        for key_hash in due:
            self.remove(key_hash)
        return due

    def next_expiry(self) -> float | None:
        """When `expire` has something to do."""
        return next((orphan.expires_at for orphan in self._orphans.values()), None)

    def _too_many(self) -> list[bytes]:
        gone = []
        while len(self) > self._max_orphans or (self._num_tokens > self._max_tokens and self._orphans):
            oldest = next(iter(self._orphans))
            self.remove(oldest)
            gone.append(oldest)
        return gone
