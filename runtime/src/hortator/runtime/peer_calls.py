"""Open calls of one address at a server whose callers are all ours.

Gateways, workers and schedulers hold a stream or two of each other and ask now and then. A certificate says
who may call what (`callers`); how often is left to nobody's good will: one peer gone mad, or whoever reaches
a port without TLS, must not take the memory and the file handles of the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_network
from typing import Any

import grpc
import grpc.aio
import structlog

from hortator.runtime.callers import checked

MAX_CALLS_PER_PEER = 16_384
"""A whole service on one machine, each hand-over of KV a call, comes nowhere near."""
_NETWORK_BITS = 64

_Handler = Any
_Details = grpc.HandlerCallDetails
_Context = grpc.aio.ServicerContext[Any, Any]


class PeerCalls(grpc.aio.ServerInterceptor):
    """Lets a call in if its address has not too many open; the others are RESOURCE_EXHAUSTED."""

    def __init__(self, *, max_calls: int = MAX_CALLS_PER_PEER) -> None:
        self._max_calls = max_calls
        self._open: Counter[str] = Counter()
        self._told: set[str] = set()
        self._log = structlog.get_logger("hortator.runtime.peer_calls")

    async def intercept_service(
        self, continuation: Callable[[_Details], Awaitable[_Handler | None]], handler_call_details: _Details
    ) -> _Handler | None:
        """Wrap the method so that it counts first."""
        handler = await continuation(handler_call_details)
        return None if handler is None else checked(handler, self._let_in)

    async def _let_in(self, context: _Context) -> None:
        peer = address_of(context.peer())
        if self._open[peer] >= self._max_calls:
            if peer not in self._told:
                self._told.add(peer)
                self._log.warning("too many calls", peer=peer, limit=self._max_calls)
            message = f"{peer} has {self._max_calls} calls open, the limit of an address"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        self._open[peer] += 1
        # The stubs want a class of theirs; gRPC calls whatever it is given.
        context.add_done_callback(lambda _: self._close(peer))  # type: ignore[arg-type]

    def _close(self, peer: str) -> None:
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]
            self._told.discard(peer)


def address_of(peer: str) -> str:
    """Who calls from `peer` (gRPC's words: `ipv4:10.0.0.1:4711`), in words for people.

    Of IPv6 the network: whoever has one address there has all of it.
    """
    host = peer.partition(":")[2].rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
    try:
        address = ip_address(host)
    except ValueError:  # a path of a socket
        return peer
    if address.version == 4:
        return str(address)
    own = address.ipv4_mapped
    return str(ip_network((int(address), _NETWORK_BITS), strict=False)) if own is None else str(own)
