"""A `Cluster` that only the leader may write to.

Every write is preceded by a look at the leadership, and one that is under way when the term ends is cut off:
the answer is not known then, and whoever leads next looks at what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from hortator.operator.cluster import Cluster
from hortator.operator.objects import Obj, Ref

_T = TypeVar("_T")


class NotLeaderError(Exception):
    """This process must not write any more."""


class GuardedCluster:
    """Implements `Cluster` by another one; `remaining_s` tells how long this process may still write."""

    def __init__(self, cluster: Cluster, remaining_s: Callable[[], float]) -> None:
        self._cluster = cluster
        self._remaining_s = remaining_s

    async def get(self, ref: Ref) -> Obj | None:
        """See `Cluster`."""
        return await self._cluster.get(ref)

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Obj]:
        """See `Cluster`."""
        return await self._cluster.list(api_version, kind, namespace=namespace, labels=labels, fields=fields)

    async def apply(self, obj: Obj, *, force: bool = True) -> Obj:
        """See `Cluster`. Raises NotLeaderError."""
        return await self._write(lambda: self._cluster.apply(obj, force=force))

    async def create(self, obj: Obj) -> Obj:
        """See `Cluster`. Raises NotLeaderError."""
        return await self._write(lambda: self._cluster.create(obj))

    async def replace(self, obj: Obj) -> Obj:
        """See `Cluster`. Raises NotLeaderError."""
        return await self._write(lambda: self._cluster.replace(obj))

    async def delete(self, ref: Ref, *, uid: str | None = None, grace_s: int | None = None) -> None:
        """See `Cluster`. Raises NotLeaderError."""
        await self._write(lambda: self._cluster.delete(ref, uid=uid, grace_s=grace_s))

    async def apply_status(self, obj: Obj) -> Obj:
        """See `Cluster`. Raises NotLeaderError."""
        return await self._write(lambda: self._cluster.apply_status(obj))

    async def patch_labels(self, ref: Ref, labels: Mapping[str, str | None]) -> None:
        """See `Cluster`. Raises NotLeaderError."""
        await self._write(lambda: self._cluster.patch_labels(ref, labels))

    async def scale(self, ref: Ref, replicas: int, *, resource_version: str) -> None:
        """See `Cluster`. Raises NotLeaderError."""
        await self._write(lambda: self._cluster.scale(ref, replicas, resource_version=resource_version))

    async def serves(self, api_version: str, kind: str) -> bool:
        """See `Cluster`."""
        return await self._cluster.serves(api_version, kind)

    async def _write(self, call: Callable[[], Awaitable[_T]]) -> _T:
        remaining_s = self._remaining_s()
        if remaining_s <= 0:
            raise NotLeaderError("not the leader: nothing was written")
        limit = asyncio.timeout(remaining_s)
        try:
            async with limit:
                return await call()
        except TimeoutError:
            if not limit.expired():
                raise
            raise NotLeaderError("the term as leader ended during a write") from None
