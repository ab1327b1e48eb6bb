"""Generations that a client may come back to, by tenant and idempotency key.

A key names one generation while it runs and for `retention_s` after its end. Ended ones are kept in the
order in which they ended; beyond `max_ended` the oldest go early. Time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from hortator.gateway.generation import Generation

_Name = tuple[str, str]


class KeyedGenerations:
    """Finds the generation that a key names."""

    def __init__(self, *, retention_s: float, max_ended: int = 10_000) -> None:
        self._retention_s = retention_s
        self._max_ended = max_ended
        self._by_name: dict[_Name, Generation] = {}
        self._expires_at: OrderedDict[_Name, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, tenant: str, key: str, now: float) -> Generation | None:
        """The generation that the key names now; None: it names nothing."""
        self.expire(now)
        return self._by_name.get((tenant, key))

    def add(self, generation: Generation) -> None:
        """A generation with a key begins, or goes on."""
        name = _name(generation)
        self._by_name[name] = generation
        self._expires_at.pop(name, None)

    def ended(self, generation: Generation, now: float) -> None:
        """A generation with a key ended; forget it later."""
        name = _name(generation)
        if self._by_name.get(name) is generation:
            self._expires_at[name] = now + self._retention_s
            self._expires_at.move_to_end(name)
            if len(self._expires_at) > self._max_ended:
                oldest, _ = self._expires_at.popitem(last=False)
                del self._by_name[oldest]

    def forget(self, generation: Generation) -> None:
        """The key names this generation no more."""
        name = _name(generation)
        if self._by_name.get(name) is generation:
            del self._by_name[name]
            self._expires_at.pop(name, None)

    def expire(self, now: float) -> None:
        """Forget what ended long ago."""
        while self._expires_at:
            name, expires_at = next(iter(self._expires_at.items()))
            if expires_at > now:
                return
            del self._expires_at[name]
            del self._by_name[name]


def _name(generation: Generation) -> _Name:
    return generation.facts.tenant, generation.facts.idempotency_key


def key_hash(tenant: str, key: str) -> bytes:
    """The name of a key outside its gateway: the same at every gateway, and no way back to the key."""
    tenant_bytes = tenant.encode()
    digest = blake2b(len(tenant_bytes).to_bytes(4) + tenant_bytes, digest_size=16, person=b"hortator-key")
    digest.update(key.encode())
    return digest.digest()
