"""The addresses behind names, kept fresh: how a peer that comes back with a new IP address is found.

A gRPC channel to a name stays with the address it has connected to, and asks again only after failures and
half a minute. In a cluster a peer's address changes whenever its pod does, so here names are looked up all
the time, and channels are opened to addresses.

- A name stands for all its addresses of one family (IPv4 if it has any): each is a peer of its own. Taking
  both families would find every peer twice.
- A lookup that fails or finds nothing changes nothing: a name service that is away must end no connection.
- IP addresses stand for themselves, and `host:port` without a name is never looked up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""IP addresses of a host name. Raises OSError."""


class Endpoints:
    """The current `ip:port` of a list of `host:port`. Nothing is looked up before `run`."""

    def __init__(
        self, addresses: Sequence[str], *, resolve: Resolve | None = None, interval_s: float = 1.0
    ) -> None:
        """Take a list.

        Args:
            addresses: `host:port`, `1.2.3.4:port` or `[::1]:port`.
            resolve: looks a name up; the system's by default.
            interval_s: pause between lookups.
        """
        self._found: dict[str, tuple[str, ...]] = {
            address: (address,) if _is_literal(address) else () for address in addresses
        }
        self._names = [address for address in addresses if not _is_literal(address)]
        self._resolve = resolve or resolve_host
        self._interval_s = interval_s
        self._listeners: list[Callable[[], None]] = []
        self._failed: set[str] = set()
        self._log = structlog.get_logger("hortator.runtime.endpoints")

    @property
    def current(self) -> tuple[str, ...]:
        """Known addresses, in the order of the list and without repeats."""
        return tuple(dict.fromkeys(found for group in self._found.values() for found in group))

    def has_moved(self, endpoint: str) -> bool:
        """This one is no longer among the addresses, and others are there instead."""
        current = self.current
        return bool(current) and endpoint not in current

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` in the event loop whenever `current` has changed."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Look names up until cancelled; returns at once when there are none."""
        while self._names:
            before = self.current
            for name in self._names:
                await self._look_up(name)
            if self.current != before:
                self._log.info("addresses changed", before=before, now=self.current)
                for listener in self._listeners:
                    listener()
            await asyncio.sleep(self._interval_s)

    async def _look_up(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            found = await self._resolve(host.strip("[]"))
        except OSError as error:
            if address not in self._failed:
                self._failed.add(address)
                self._log.info("name not found", address=address, error=str(error))
            return
        self._failed.discard(address)
        family = [one for one in found if ":" not in one] or list(found)
        if family:
            self._found[address] = tuple(_join(one, port) for one in sorted(set(family)))


async def resolve_host(host: str) -> Sequence[str]:
    """Ask the system, in a thread that nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[str]] = loop.create_future()

    def give(result: Sequence[str] | OSError) -> None:
        if answer.done():
            return
        if isinstance(result, OSError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def look_up() -> None:
        result: Sequence[str] | OSError
        try:
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            result = [str(info[4][0]) for info in infos]
        except OSError as error:
            result = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(give, result)

    threading.Thread(target=look_up, name=f"resolve-{host}", daemon=True).start()
    return await answer


def _is_literal(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _join(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
