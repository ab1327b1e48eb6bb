"""Which tenants ask for more than their share of what the cluster can do.

A tenant's share is its weight over the weights of all who have asked for anything of late, times the
cluster's token rate. Nobody is refused for asking for more, and who is alone has everything. But a policy
that looks at ages and at the backlog must not let the tenant with the longest queue decide how long passes
are: see `hearing`.

Work is counted in spans of `MEMORY_S`, the last of which fades while the next one fills: O(1) per arrival,
and a tenant that asks for nothing is forgotten after one to two spans. Whole numbers are added up, so the
same arrivals give the same answer on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping

MEMORY_S = 10.0
TOLERANCE = 1.5
"""Shares that a tenant may ask for before it floods: a burst is no flood."""


class TenantRates:
    """Prompt tokens asked for, by tenant."""

    __slots__ = ("_before", "_now", "_span", "_weight", "_weights")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._span = 0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._weight = 0.0  # of all in either

    def observe(self, tenant: str, num_tokens: int, now: float) -> None:
        """A request arrived, accepted or not: who is refused for flooding still floods."""
        self._turn(now)
        if tenant not in self._now and tenant not in self._before:
            self._weight += self._weights.get(tenant, 1.0)
        self._now[tenant] = self._now.get(tenant, 0) + num_tokens

    def num_shares(self, tenant: str, now: float, *, tokens_per_s: float) -> float:
        """How many times its share of `tokens_per_s` the tenant asks for; 0 where there is no other."""
        self._turn(now)
        weight = self._weights.get(tenant, 1.0)
        if self._weight <= weight or tokens_per_s <= 0.0:
            return 0.0
        faded = now / MEMORY_S - self._span
        asked = self._now.get(tenant, 0) + (1.0 - faded) * self._before.get(tenant, 0)
        return asked / MEMORY_S / (tokens_per_s * weight / self._weight)

    def asks_too_much(self, tenant: str, now: float, *, tokens_per_s: float) -> bool:
        """Whether the tenant floods."""
        return self.num_shares(tenant, now, tokens_per_s=tokens_per_s) > TOLERANCE

    def share(self, tenant: str) -> float:
        """The tenant's part of all weights; 1 for one that is alone."""
        weight = self._weights.get(tenant, 1.0)
        return weight / max(weight, self._weight)

    @property
    def num_tenants(self) -> int:
        """Who have asked for anything of late, at least."""
        return max(len(self._now), len(self._before))

    def _turn(self, now: float) -> None:
        span = int(now / MEMORY_S)
        if span == self._span:
            return
        self._before = self._now if span == self._span + 1 else {}
        self._now = {}
        self._span = span
        self._weight = sum((self._weights.get(tenant, 1.0) for tenant in self._before), 0.0)
