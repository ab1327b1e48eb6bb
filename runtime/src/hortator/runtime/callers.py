"""Who may call what: a server's interceptor that reads the caller's certificate.

A server names the components that may call each of its methods. A caller is taken at the word of its
certificate (`identity`): of the same service and of a named component, or `PERMISSION_DENIED`. Health and
reflection answer everybody with a certificate; a method that nobody was named for answers no one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import structlog

from hortator.runtime.identity import Identity, IdentityError

OF_ANY_SERVICE = frozenset({"operator"})
"""Components that belong to no service and look after all of them."""
_OPEN_TO_ALL = ("/grpc.health.v1.", "/grpc.reflection.")
_SAN = "x509_subject_alternative_name"

_Handler = Any
_Details = grpc.HandlerCallDetails
_Context = grpc.aio.ServicerContext[Any, Any]


class AllowedCallers(grpc.aio.ServerInterceptor):
    """Answers only the components that each method names."""

    def __init__(self, own: Identity, callers: Mapping[str, frozenset[str]]) -> None:
        """Declare who may call.

        Args:
            own: whose server this is.
            callers: components by method, ``/package.Service/Method``.
        """
        self._own = own
        self._callers = callers
        self._log = structlog.get_logger("hortator.runtime.callers")

    async def intercept_service(
        self, continuation: Callable[[_Details], Awaitable[_Handler | None]], handler_call_details: _Details
    ) -> _Handler | None:
        """Wrap the method so that it looks at the caller first."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_OPEN_TO_ALL):
            return handler
        allowed = self._callers.get(method, frozenset())

        async def check(context: _Context) -> None:
            refusal = self.refusal(context.auth_context(), method, allowed)
            if refusal:
                self._log.warning("call refused", method=method, why=refusal, peer=context.peer())
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)

        return checked(handler, check)

    def refusal(self, auth_context: Mapping[str, Any], method: str, allowed: frozenset[str]) -> str:
        """Why the caller may not call, in one line; "": it may."""
        caller = _caller(auth_context)
        name = method.rpartition("/")[2]
        if caller is None:
            return f"{name}: the certificate of the caller names no component"
        who = " or ".join(sorted(allowed)) or "nobody"
        wanted = f"{name}: may be called by {who} of {self._own.namespace}/{self._own.service}"
        if caller.component not in allowed:
            return f"{wanted}, not by {caller}"
        is_of_ours = caller == self._own.of(caller.component) or caller.component in OF_ANY_SERVICE
        return "" if is_of_ours else f"{wanted}, not by {caller}"


def _caller(auth_context: Mapping[str, Any]) -> Identity | None:
    for name in auth_context.get(_SAN, ()):
        try:
            return Identity.parse(bytes(name).decode())
        except (IdentityError, UnicodeDecodeError):
            continue
    return None


def checked(handler: _Handler, check: Callable[[_Context], Awaitable[None]]) -> _Handler:
    """The same method, which calls `check` before anything else."""
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary or handler.stream_unary:
        answer = handler.unary_unary or handler.stream_unary

        async def one(request: Any, context: _Context) -> Any:
            await check(context)
            return await answer(request, context)

        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(one, **codec)
    make = (
        grpc.stream_stream_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_stream_rpc_method_handler
    )
    stream = handler.stream_stream or handler.unary_stream
    return make(_streaming(stream, check), **codec)


def _streaming(stream: Any, check: Callable[[_Context], Awaitable[None]]) -> Any:
    """A streaming method, whether it yields its answers or writes them."""
    if inspect.isasyncgenfunction(inspect.unwrap(stream)):

        async def yielding(request: Any, context: _Context) -> Any:
            await check(context)
            async for answer in stream(request, context):
                yield answer

        return yielding

    async def writing(request: Any, context: _Context) -> None:
        await check(context)
        await stream(request, context)

    return writing
