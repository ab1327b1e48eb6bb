"""The public gRPC API: InferenceService. Turns calls into generations, and gateway errors into statuses."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Any, NoReturn

import grpc
import grpc.aio

from hortator.gateway import codec
from hortator.gateway.admission import Admission
from hortator.gateway.api_keys import ApiKeyFile
from hortator.gateway.driver import Driver
from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.gateway.generation import Generation, News, Subscriber
from hortator.gateway.metrics import GatewayMetrics
from hortator.gateway.slow_clients import OpenCall, SlowClients
from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from hortator.runtime.rpc_errors import abort

SERVICE_NAME = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name

CALLERS = {
    f"/{SERVICE_NAME}/{method}": frozenset({"client", "administrator"})
    for method in ("Generate", "ListModels")
}
"""Which components may call what, where clients have certificates."""

_NO_DEADLINE_S = 1e8
"""gRPC shows the absence of a deadline as a very distant one."""

STATUS_CODES = {
    ErrorKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorKind.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    ErrorKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorKind.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    ErrorKind.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorKind.QUEUE_TIMEOUT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorKind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorKind.CANCELLED: grpc.StatusCode.CANCELLED,
    ErrorKind.QUARANTINED: grpc.StatusCode.INTERNAL,
    ErrorKind.TAKEN_OVER: grpc.StatusCode.ABORTED,
    ErrorKind.SLOW_CLIENT: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""What a caller sees of each; docs/how-to/troubleshoot.md explains them."""
_RETRYABLE = frozenset({ErrorKind.QUEUE_FULL, ErrorKind.QUEUE_TIMEOUT})

_Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Generate and ListModels."""

    def __init__(
        self,
        *,
        admission: Admission,
        driver: Driver,
        metrics: GatewayMetrics,
        api_keys: ApiKeyFile | None = None,
        slow_client_timeout_s: float = 300.0,
    ) -> None:
        """Serve what `admission` lets in; `api_keys` None: nobody is asked for one."""
        self._slow_clients = SlowClients(timeout_s=slow_client_timeout_s)
        self._api_keys = api_keys
        self._admission = admission
        self._driver = driver
        self._metrics = metrics
        self._num_calls = 0

    def register(self, server: grpc.aio.Server) -> None:
        """Serve the API on `server`."""
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, server)

    @property
    def num_calls(self) -> int:
        """Generate calls that are open."""
        return self._num_calls

    async def Generate(  # type: ignore[override]  # noqa: N802  # writes to the context instead of yielding
        self, request: inference_pb2.GenerateRequest, context: _Context
    ) -> None:
        """Stream one request's tokens."""
        call = self._slow_clients.opened()
        self._num_calls += 1
        try:
            await self._generate(request, context, call)
        except asyncio.CancelledError:
            if not call.is_cut:
                raise
        finally:
            self._num_calls -= 1
            self._slow_clients.closed(call)
        if call.is_cut:
            call.task.uncancel()
            await _abort(
                context, _too_slow(self._slow_clients.timeout_s)
            )  # heard when the client reads again

    async def ListModels(  # noqa: N802
        self,
        request: inference_pb2.ListModelsRequest,  # noqa: ARG002  # empty
        context: _Context,
    ) -> inference_pb2.ListModelsResponse:
        """The one model that is served here."""
        if self._api_keys is not None:
            try:
                self._api_keys.current().grant(_authorization(context))
            except GatewayError as error:
                await _abort(context, error)
        limits = self._admission.limits
        model = inference_pb2.Model(
            name=limits.model, max_sequence_tokens=limits.max_sequence_tokens, vocab_size=limits.vocab_size
        )
        return inference_pb2.ListModelsResponse(models=[model])

    async def _generate(
        self, request: inference_pb2.GenerateRequest, context: _Context, call: OpenCall
    ) -> None:
        accepted_at = asyncio.get_running_loop().time()
        remaining_s = context.time_remaining()
        has_deadline = remaining_s is not None and remaining_s < _NO_DEADLINE_S
        deadline_at = accepted_at + remaining_s if has_deadline and remaining_s is not None else None
        try:
            if self._api_keys is not None:
                grant = self._api_keys.current().grant(_authorization(context))
                request.tenant = grant.tenant_of(request.tenant)
            generation, subscriber = await self._admission.admit(
                codec.client_request(request),
                fingerprint=_fingerprint(request) if request.idempotency_key else b"",
                accepted_at=accepted_at,
                deadline_at=deadline_at,
            )
        except GatewayError as error:
            self._metrics.requests.labels(outcome=error.kind.value.lower()).inc()
            await _abort(context, error)
        try:
            last_news = await self._stream(generation, subscriber, context, call)
        finally:
            if generation.unsubscribe(subscriber) and generation.end is None:
                gone = _too_slow(self._slow_clients.timeout_s) if call.is_cut else _why_gone(deadline_at)
                self._driver.end_early(generation, gone)
        end = generation.end
        if end is None:
            raise RuntimeError("a stream ended before its generation")
        if end.error is not None:
            await _abort(context, end.error)
        if end.finish is not None:
            call.writes_since = asyncio.get_running_loop().time()
            await context.write(codec.completion_response(generation, end.finish, last_news))

    async def _stream(
        self, generation: Generation, subscriber: Subscriber, context: _Context, call: OpenCall
    ) -> News | None:
        """Everything up to the end of the generation, as it comes; what came with a good end is returned."""
        request_id = generation.facts.request_id
        take, write, delta_response = subscriber.take, context.write, codec.delta_response
        clock = asyncio.get_running_loop().time
        num_messages = 0
        try:
            while True:
                news = take()
                end = generation.end
                if end is not None and (news is None or end.error is None):
                    return news
                if news is not None:
                    num_messages += 1
                    call.writes_since = clock()
                    await write(delta_response(request_id, news))
                    call.writes_since = None
                else:
                    await subscriber.wait()
        finally:
            self._metrics.messages.inc(num_messages)


def _authorization(context: _Context) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return value if isinstance(value, str) else ""
    return ""


def _fingerprint(request: inference_pb2.GenerateRequest) -> bytes:
    """The same for the same request, whatever part of its output is wanted."""
    plain = inference_pb2.GenerateRequest()
    plain.CopyFrom(request)
    plain.resume_from_index = 0
    return blake2b(plain.SerializeToString(deterministic=True), digest_size=16).digest()


def _too_slow(timeout_s: float) -> GatewayError:
    return GatewayError(ErrorKind.SLOW_CLIENT, f"the client has read nothing for {timeout_s:g} s")


def _why_gone(deadline_at: float | None) -> GatewayError:
    """Why a call was cancelled: gRPC cancels the handler in both cases."""
    if deadline_at is not None and asyncio.get_running_loop().time() >= deadline_at - 0.01:
        return GatewayError(ErrorKind.DEADLINE, "the deadline passed")
    return GatewayError(ErrorKind.CANCELLED, "the client went away")


async def _abort(context: _Context, error: GatewayError) -> NoReturn:
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.kind in _RETRYABLE:
        retry_after_s = 1.0
    await abort(
        context,
        STATUS_CODES[error.kind],
        error.message,
        violations=error.violations,
        retry_after_s=retry_after_s,
        reason=error.kind.value,
    )
