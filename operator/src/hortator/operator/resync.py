"""Complete lists of everything watched: the first fills the inventory, later ones heal what watches missed.

A watch can be silent, begin anew after a gap, or never say that an object went. So all is listed every
`interval_s`, and whatever differs from what was known is looked at. A list that fails is repeated soon.

Schedulers that see to gangs may come and go while the operator runs, so they are looked for again each time.
Their objects are listed only, not watched: nobody but the operator makes or deletes those that it made.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from hortator.operator.cluster import (
    Cluster,
    ClusterError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from hortator.operator.inventory import Inventory
from hortator.operator.kinds import CHILDREN, EVENTS, NODES, PODS, SCALERS, SERVICES, Watched
from hortator.operator.manifests.gang import PROVIDERS, Provider
from hortator.operator.work_queue import Key

RETRY_S = 2.0


class Resync:
    """Keeps an inventory true. `told` is called with the services that should be looked at."""

    def __init__(
        self,
        cluster: Cluster,
        inventory: Inventory,
        *,
        namespaces: Sequence[str],
        told: Callable[[Iterable[Key]], None],
        interval_s: float,
        observe_nodes: bool = True,
        gang_providers: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """No `namespaces` means all; `gang_providers` are those that the operator may use."""
        self._cluster = cluster
        self._inventory = inventory
        self._gang_providers = [PROVIDERS[name] for name in gang_providers]
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._told = told
        self._interval_s = interval_s
        self._observe_nodes = observe_nodes
        self._clock = clock
        self.kinds: tuple[Watched, ...] = ()
        """What there is to watch on this API server and with these roles; known after `first`."""
        self.heard_at = clock()
        """When the API server last told anything: a list, or `hear`."""
        self._log = structlog.get_logger("hortator.operator.resync")

    def hear(self) -> None:
        """A watch has said something."""
        self.heard_at = self._clock()

    def silence_s(self) -> float:
        """For how long nothing was heard."""
        return self._clock() - self.heard_at

    async def first(self, *, not_yet: Callable[[str], None]) -> None:
        """Return when all was listed once; until then `not_yet` is told what is waited for."""
        missing: Sequence[Watched] = ()
        while True:
            try:
                if not self.kinds and await self._cluster.serves(SERVICES.api_version, SERVICES.kind):
                    self.kinds = missing = await self._find_kinds()
            except ClusterError as error:
                not_yet(str(error))
            else:
                if not self.kinds:
                    not_yet(f"the CRD {SERVICES.plural}.{SERVICES.group_version[0]} is not installed")
                else:
                    missing, why = await self._list(missing)
                    if not missing:
                        await self._find_gang_providers()
                        return
                    not_yet(why)
            await asyncio.sleep(RETRY_S)

    async def run(self) -> None:
        """List all again and again; a list that failed soon."""
        missing: Sequence[Watched] = ()
        while True:
            await asyncio.sleep(min(RETRY_S, self._interval_s) if missing else self._interval_s)
            if not missing:
                await self._find_scalers()
            missing, why = await self._list(missing or self.kinds)
            if missing:
                self._log.warning("cannot list", error=why)
            await self._find_gang_providers()

    async def _find_gang_providers(self) -> None:
        """Which of them are there now; of one that cannot be asked nothing changes."""
        before = self._inventory.gang_providers
        found: set[str] = set()
        for provider in self._gang_providers:
            try:
                is_there = await self._is_there(provider)
            except UnavailableError as error:
                self._log.warning("cannot look for", provider=provider.name, error=str(error))
                is_there = provider.name in before
            if is_there:
                found.add(provider.name)
        if found != before:
            self._log.info("gangs of other schedulers", providers=sorted(found))
            self._inventory.gang_providers = frozenset(found)
            self._told(self._inventory.services())

    async def _is_there(self, provider: Provider) -> bool:
        """Whether it can be used; its objects are listed on the way. Raises UnavailableError."""
        for api_version, kind in provider.needs:
            if await self._cluster.serves(api_version, kind):
                break
        else:
            return False
        try:
            if provider.kind is not None:
                await self._list_one(provider.kind)
        except NotFoundError:
            return False
        except ClusterError as error:
            if isinstance(error, UnavailableError):
                raise
            self._log.warning("cannot use", provider=provider.name, error=str(error))
            return False
        return True

    async def _list(self, kinds: Sequence[Watched]) -> tuple[Sequence[Watched], str]:
        """List these kinds once; those that could not be listed, and why the last of them could not."""
        missing: list[Watched] = []
        why = ""
        for kind in kinds:
            try:
                await self._list_one(kind)
            except ClusterError as error:
                if kind is SCALERS and isinstance(error, NotFoundError | InvalidError):
                    self.kinds = tuple(one for one in self.kinds if one is not SCALERS)
                    self._log.info("the CRD of LLMServiceScaler is gone: what is known of them stays")
                    continue
                missing.append(kind)
                why = str(error)
        return missing, why

    async def _find_scalers(self) -> None:
        """Their CRD may come, and go, while the operator runs."""
        if SCALERS in self.kinds:
            return
        with contextlib.suppress(ClusterError):
            if await self._cluster.serves(SCALERS.api_version, SCALERS.kind):
                self.kinds = (SCALERS, *self.kinds)
                self._log.info("the CRD of LLMServiceScaler is there")

    async def _list_one(self, kind: Watched) -> None:
        asked_at = self._clock()
        found = [
            obj
            for namespace in (self._namespaces if kind.is_namespaced else (None,))
            for obj in await self._cluster.list(
                kind.api_version,
                kind.kind,
                namespace=namespace,
                labels={} if kind is PODS and NODES in self.kinds else kind.labels,
                fields=kind.fields,
            )
        ]
        self.hear()
        self._told(
            self._inventory.replace_all(
                kind.api_version, kind.kind, found, asked_at=asked_at, told_at=self._clock()
            )
        )

    async def _find_kinds(self) -> tuple[Watched, ...]:
        if not await self._cluster.serves(SCALERS.api_version, SCALERS.kind):
            await asyncio.sleep(RETRY_S)  # an API server that starts learns of its CRDs one by one
        known = (*CHILDREN, EVENTS, SCALERS)
        found = [kind for kind in known if await self._cluster.serves(kind.api_version, kind.kind)]
        if SCALERS not in found:
            self._log.info("the CRD of LLMServiceScaler is not installed: no role is scaled apart")
        if await self._may_see_nodes():
            found.insert(0, NODES)
        missing = {kind.kind for kind in CHILDREN} - {kind.kind for kind in found}
        if missing:
            self._log.warning("the API server does not serve", kinds=sorted(missing))
        return (*found, SERVICES)

    async def _may_see_nodes(self) -> bool:
        """Nodes, and the pods of all namespaces on them; one without the other says nothing of capacity."""
        if not self._observe_nodes or self._namespaces != (None,):
            return False
        try:
            await self._cluster.list(NODES.api_version, NODES.kind)
        except ForbiddenError:
            self._log.info("no role to list Nodes: no capacity check before groups are admitted")
            return False
        return True
