"""The public gRPC API: InferenceService. Turns calls into generations, and gateway errors into statuses."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from hortator.gateway import codec
from hortator.gateway.admission import Admission
from hortator.gateway.api_keys import ApiKeyFile, Grant
from hortator.gateway.driver import Driver
from hortator.gateway.errors import ErrorKind, GatewayError, over_limit
from hortator.gateway.generation import Generation, News, Subscriber
from hortator.gateway.metrics import GatewayMetrics
from hortator.gateway.open_calls import CallLimits, OpenCall, OpenCalls
from hortator.gateway.other_calls import OtherCalls
from hortator.rpc.inference.v1 import inference_pb2
from hortator.runtime.peer_calls import address_of
from hortator.runtime.rpc_errors import FieldViolation, abort

SERVICE_NAME = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name

CALLERS = {
    f"/{SERVICE_NAME}/{method}": frozenset({"client", "administrator"})
    for method in ("Generate", "ListModels")
}
"""Which components may call what, where clients have certificates."""

_NO_DEADLINE_S = 1e8
"""gRPC shows the absence of a deadline as a very distant one."""
_MAX_ERROR_CHARS = 1000
_ENTRY_BYTES = 32
"""What HTTP/2 counts for an entry of metadata beside its name and value."""

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
    ErrorKind.LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""What a caller sees of each; docs/how-to/troubleshoot.md explains them."""
_RETRYABLE = frozenset({ErrorKind.QUEUE_FULL, ErrorKind.QUEUE_TIMEOUT})

_Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService:
    """Generate and ListModels."""

    def __init__(
        self,
        *,
        admission: Admission,
        driver: Driver,
        metrics: GatewayMetrics,
        api_keys: ApiKeyFile | None = None,
        call_limits: CallLimits,
        max_message_bytes: int,
        max_metadata_bytes: int,
    ) -> None:
        """Serve what `admission` lets in; `api_keys` None: nobody is asked for one."""
        self._open_calls = OpenCalls(call_limits)
        self._max_message_bytes = max_message_bytes
        self._max_metadata_bytes = max_metadata_bytes
        self._api_keys = api_keys
        self._admission = admission
        self._driver = driver
        self._metrics = metrics
        self._num_calls = 0

    def register(self, server: grpc.aio.Server) -> None:
        """Serve the API on `server`.

        gRPC is told that Generate takes a stream, of which the one request is read by us: so that a call
        begins here when it begins, and not once its request has come.
        """
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Generate": grpc.stream_stream_rpc_method_handler(
                self.Generate,
                request_deserializer=bytes,
                response_serializer=inference_pb2.GenerateResponse.SerializeToString,
            ),
            "ListModels": grpc.unary_unary_rpc_method_handler(
                self.ListModels,
                request_deserializer=inference_pb2.ListModelsRequest.FromString,
                response_serializer=inference_pb2.ListModelsResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, methods),))
        server.add_registered_method_handlers(SERVICE_NAME, methods)

    def counting_others(self) -> OtherCalls:
        """Counts what a server is called for besides Generate."""
        return OtherCalls(
            self._open_calls, counts_itself=f"/{SERVICE_NAME}/Generate", refuse=self._refuse_other
        )

    @property
    def num_calls(self) -> int:
        """Generate calls whose request is here."""
        return self._num_calls

    async def Generate(self, _requests: object, context: _Context) -> None:  # noqa: N802  # reads from the context
        """Stream one request's tokens."""
        try:
            grant = self._grant(context)
            self._check_metadata(context)
            client = address_of(context.peer()) if grant is None else f"API key {grant.name!r}"
            call = self._open_calls.open(client)
        except GatewayError as error:
            await self._refuse(context, error)
        try:
            await self._serve(context, call, grant)
        except asyncio.CancelledError:
            if call.error is None:
                raise
        finally:
            self._open_calls.close(call)
        if call.error is not None:
            call.task.uncancel()
            self._metrics.limit_refusals.labels(limit=call.error.limit).inc()
            await _abort(context, call.error)  # heard when the client reads again

    async def ListModels(  # noqa: N802
        self,
        request: inference_pb2.ListModelsRequest,  # noqa: ARG002  # empty
        context: _Context,
    ) -> inference_pb2.ListModelsResponse:
        """The one model that is served here."""
        try:
            self._grant(context)
        except GatewayError as error:
            await _abort(context, error)
        limits = self._admission.limits
        model = inference_pb2.Model(
            name=limits.model, max_sequence_tokens=limits.max_sequence_tokens, vocab_size=limits.vocab_size
        )
        return inference_pb2.ListModelsResponse(models=[model])

    def _grant(self, context: _Context) -> Grant | None:
        """What the caller may do; None where no key is wanted.

        Raises:
            GatewayError: UNAUTHENTICATED.
        """
        return None if self._api_keys is None else self._api_keys.current().grant(_authorization(context))

    def _check_metadata(self, context: _Context) -> None:
        limit = self._max_metadata_bytes
        entries = context.invocation_metadata() or ()
        size = sum(len(name) + len(value) + _ENTRY_BYTES for name, value in entries)
        if size > limit:
            raise over_limit("max_metadata_bytes", f"{size} bytes of metadata (at most {limit})")

    async def _serve(self, context: _Context, call: OpenCall, grant: Grant | None) -> None:
        data = await context.read()
        if data is grpc.aio.EOF:  # the client asks nothing, or gRPC has refused it and has said why
            await self._refuse(context, GatewayError(ErrorKind.INVALID, "the call has no request"))
        call.waits_since = None
        self._num_calls += 1
        try:
            await self._generate(data, context, call, grant)
        finally:
            self._num_calls -= 1

    async def _generate(self, data: bytes, context: _Context, call: OpenCall, grant: Grant | None) -> None:
        accepted_at = asyncio.get_running_loop().time()
        remaining_s = context.time_remaining()
        has_deadline = remaining_s is not None and remaining_s < _NO_DEADLINE_S
        deadline_at = accepted_at + remaining_s if has_deadline and remaining_s is not None else None
        try:
            request = self._parse(data)
            if grant is not None:
                request.tenant = grant.tenant_of(request.tenant)
            generation, subscriber = await self._admission.admit(
                codec.client_request(request),
                fingerprint=_fingerprint(request) if request.idempotency_key else b"",
                accepted_at=accepted_at,
                deadline_at=deadline_at,
            )
        except GatewayError as error:
            await self._refuse(context, error)
        try:
            last_news = await self._stream(generation, subscriber, context, call)
        finally:
            if generation.unsubscribe(subscriber) and generation.end is None:
                self._driver.end_early(generation, call.error or _why_gone(deadline_at))
        end = generation.end
        if end is None:
            raise RuntimeError("a stream ended before its generation")
        if end.error is not None:
            await _abort(context, end.error)
        if end.finish is not None:
            call.waits_since = asyncio.get_running_loop().time()
            await context.write(codec.completion_response(generation, end.finish, last_news))

    def _parse(self, data: bytes) -> inference_pb2.GenerateRequest:
        limit = self._max_message_bytes
        if len(data) > limit:
            raise over_limit("max_message_bytes", f"a request of {len(data)} bytes (at most {limit})")
        try:
            return inference_pb2.GenerateRequest.FromString(data)
        except DecodeError:
            raise GatewayError(ErrorKind.INVALID, "the request is no GenerateRequest") from None

    async def _refuse(self, context: _Context, error: GatewayError) -> NoReturn:
        self._metrics.requests.labels(outcome=error.kind.value.lower()).inc()
        if error.limit:
            self._metrics.limit_refusals.labels(limit=error.limit).inc()
        await _abort(context, error)

    async def _refuse_other(self, context: _Context, error: GatewayError) -> None:
        self._metrics.limit_refusals.labels(limit=error.limit).inc()
        await _abort(context, error)

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
                    call.waits_since = clock()
                    await write(delta_response(request_id, news))
                    call.waits_since = None
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
    plain.ClearField("prior_output_ids")
    return blake2b(plain.SerializeToString(deterministic=True), digest_size=16).digest()


def _why_gone(deadline_at: float | None) -> GatewayError:
    """Why a call was cancelled: gRPC cancels the handler in both cases."""
    if deadline_at is not None and asyncio.get_running_loop().time() >= deadline_at - 0.01:
        return GatewayError(ErrorKind.DEADLINE, "the deadline passed")
    return GatewayError(ErrorKind.CANCELLED, "the client went away")


def _cut(text: str) -> str:
    """What a client says or a worker: errors travel as metadata, of which clients take 8 KiB."""
    return text if len(text) <= _MAX_ERROR_CHARS else f"{text[: _MAX_ERROR_CHARS - 3]}..."


async def _abort(context: _Context, error: GatewayError) -> NoReturn:
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.kind in _RETRYABLE:
        retry_after_s = 1.0
    await abort(
        context,
        STATUS_CODES[error.kind],
        _cut(error.message),
        violations=[
            FieldViolation(field=_cut(one.field), description=_cut(one.description))
            for one in error.violations
        ],
        retry_after_s=retry_after_s,
        reason=error.kind.value,
        metadata={"limit": error.limit} if error.limit else None,
    )
