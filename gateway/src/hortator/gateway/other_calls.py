"""Calls other than Generate: health, reflection, the list of models. They count like any open call.

A health watch stays open for as long as its client likes. Uncounted, a few connections full of them would
take all the calls that the server has for everybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from hortator.gateway.errors import GatewayError
from hortator.gateway.open_calls import OpenCalls
from hortator.runtime.callers import checked
from hortator.runtime.peer_calls import address_of

_Handler = Any
_Details = grpc.HandlerCallDetails
_Context = grpc.aio.ServicerContext[Any, Any]


class OtherCalls(grpc.aio.ServerInterceptor):
    """Lets a call in if its client has not too many open; whose it is says its address."""

    def __init__(
        self,
        open_calls: OpenCalls,
        *,
        counts_itself: str,
        refuse: Callable[[_Context, GatewayError], Awaitable[None]],
    ) -> None:
        """Count all methods but the one that does so itself, `/package.Service/Method`."""
        self._open_calls = open_calls
        self._counts_itself = counts_itself
        self._refuse = refuse

    async def intercept_service(
        self, continuation: Callable[[_Details], Awaitable[_Handler | None]], handler_call_details: _Details
    ) -> _Handler | None:
        """Wrap the method so that it counts first."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method == self._counts_itself:
            return handler
        return checked(handler, self._let_in)

    async def _let_in(self, context: _Context) -> None:
        open_calls = self._open_calls
        try:
            call = open_calls.open(address_of(context.peer()))
        except GatewayError as error:
            await self._refuse(context, error)
        else:
            call.waits_since = None
            # The stubs want a class of theirs; gRPC calls whatever it is given.
            context.add_done_callback(lambda _: open_calls.close(call))  # type: ignore[arg-type]
