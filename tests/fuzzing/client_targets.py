"""The client library: what gateways answer, and the details of their errors.

Whoever iterates gets every token once and in order and one completion, or a `GenerateError`, in good time.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from fuzzing.frames import conversation, conversations, said
from fuzzing.lives import live
from fuzzing.protos import around, wire
from fuzzing.target import Target
from hortator.client.errors import GenerateError
from hortator.client.messages import Completion, Delta
from hortator.client.resuming import Client
from hortator.rpc.inference.v1 import inference_pb2 as pb

GATEWAYS = ("127.0.0.1:1", "127.0.0.1:2")
RETRY_FOR_S = 5.0
CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


class Network:
    """In place of an `Access`: channels on which the messages of an input are the answers, call after call, each until its error."""

    def __init__(self, answers: list[pb.GenerateResponse | status_pb2.Status]) -> None:
        self._answers = answers

    def metadata(self) -> tuple[()]:
        return ()

    def open_channel(self, address: str, component: str, *, options: Any = ()) -> Any:
        return self

    async def close(self) -> None:
        pass

    def unary_stream(self, *_: Any, **__: Any) -> Any:
        return lambda request, **_: _Call(self._answers, request)

    def unary_unary(self, *_: Any, **__: Any) -> Any:
        return self._list_models

    async def _list_models(self, request: pb.ListModelsRequest, **_: Any) -> pb.ListModelsResponse:
        raise _error(status_pb2.Status(code=14))


class _Call:
    def __init__(self, answers: list[Any], request: pb.GenerateRequest) -> None:
        self._answers = answers
        self._request = pb.GenerateRequest.FromString(request.SerializeToString())

    def __aiter__(self) -> _Call:
        return self

    async def __anext__(self) -> pb.GenerateResponse:
        await asyncio.sleep(0.01)
        if not self._answers:
            raise _error(status_pb2.Status(code=14, message="gone"))
        answer = self._answers.pop(0)
        if isinstance(answer, pb.GenerateResponse):
            return answer
        if answer.code == 0:
            raise StopAsyncIteration
        raise _error(answer)

    def cancel(self) -> None:
        pass


def _error(status: status_pb2.Status) -> grpc.aio.AioRpcError:
    code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details=status.message)


def answers(data: bytes) -> None:
    """a: a message of a gateway; e: the end of a call, with its details (of code OK: the end without an error)."""
    messages = list(said({b"a": pb.GenerateResponse, b"e": status_pb2.Status}, data))

    async def life() -> None:
        async with Client(GATEWAYS, retry_for_s=RETRY_FOR_S, access=Network(messages)) as client:
            num_tokens, is_complete = 0, False
            try:
                async with asyncio.timeout(20 * RETRY_FOR_S):
                    async for event in client.generate("hello"):
                        assert not is_complete
                        match event:
                            case Delta():
                                assert event.token_index == num_tokens, (event.token_index, num_tokens)
                                num_tokens += len(event.token_ids)
                            case Completion():
                                is_complete = True
            except GenerateError as error:
                _is_told(error)
            else:
                assert is_complete, "a stream that ends without its completion"
            with contextlib.suppress(GenerateError):
                await client.list_models()

    live(life)


def _is_told(error: GenerateError) -> None:
    str(error).encode()
    assert error.status in grpc.StatusCode.__members__
    assert error.retry_after_s is None or 0 <= error.retry_after_s < float("inf")


def _details(*details: Any) -> status_pb2.Status:
    status = status_pb2.Status(code=8, message="full")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


_DELTA = pb.Delta(token_ids=[1, 2], text="ab")
_ANSWERS = (
    pb.GenerateResponse(request_id="r0", delta=_DELTA),
    pb.GenerateResponse(request_id="r0", delta=pb.Delta(token_index=2, token_ids=[3], text="c")),
    pb.GenerateResponse(request_id="r0", completion=pb.Completion(finish_reason=pb.FINISH_REASON_STOP)),
    pb.GenerateResponse(request_id="r0", completion=pb.Completion(delta=_DELTA)),
)
_BROKEN = status_pb2.Status(code=14, message="gone")
_ENDS = (
    _BROKEN,
    _details(
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1)),
        error_details_pb2.ErrorInfo(reason="QUEUE_FULL"),
        error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field="prompt", description="long")]
        ),
    ),
)
_LAST = pb.GenerateResponse(delta=pb.Delta(token_index=(1 << 32) - 1, token_ids=[1, 2]))

TARGETS = (
    Target(
        "client-answers",
        answers,
        conversations(
            {
                b"a": around(*_ANSWERS) | wire(pb.GenerateResponse),
                b"e": around(*_ENDS) | wire(status_pb2.Status),
            },
            max_size=6,
        ),
        cases=(
            conversation(
                *((b"a", message) for message in _ANSWERS[:2]), (b"e", _BROKEN), (b"a", _ANSWERS[2])
            ),
            conversation((b"a", _ANSWERS[0]), (b"e", _ENDS[1])),
        ),
        bugs={
            "a message of a kind to come was taken for the end": conversation(
                (b"a", pb.GenerateResponse(request_id="r0")), (b"a", _ANSWERS[0]), (b"a", _ANSWERS[2])
            ),
            "an answer that ends in good order without its completion": conversation(
                (b"a", _ANSWERS[0]), (b"e", status_pb2.Status())
            ),
            "tokens are missing": conversation((b"a", _ANSWERS[1]), (b"a", _ANSWERS[2])),
            "tokens come twice": conversation((b"a", _ANSWERS[0]), (b"a", _ANSWERS[0]), (b"a", _ANSWERS[2])),
            "an index after which none can be asked for": conversation(
                (b"a", _LAST), (b"e", _BROKEN), (b"a", _ANSWERS[2])
            ),
        },
    ),
)
