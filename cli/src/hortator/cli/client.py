"""A small client of the gateway's public API: prompts in, deltas out.

    async with GatewayClient("127.0.0.1:8080") as client:
        async for event in client.generate("To be, or not to be"):
            match event:
                case Delta(text=text): print(text, end="")
                case Completion(finish_reason=reason): print(reason)

A generation is a stream of `Delta` that ends with one `Completion`. What goes wrong is a `GenerateError` with
the status name, the fields at fault, and when to come back. Leaving the loop early cancels the request.

A call that a gateway cancels before it has said anything is made again: one that leaves while others stay
tells its connections to go, and a call that crosses that word on its way is cancelled by gRPC itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from hortator.runtime.grpc_server import open_channel
from hortator.runtime.rpc_errors import FieldViolation, details_of


class GenerateError(Exception):
    """The gateway did not do what it was asked; `str()` is `STATUS: message`."""

    def __init__(
        self,
        status: str,
        message: str,
        *,
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        """Name of the gRPC status, for example RESOURCE_EXHAUSTED."""
        self.message = message
        self.reason = reason
        """A stable word for programs, for example QUARANTINED; empty when there is none."""
        self.violations = violations
        self.retry_after_s = retry_after_s

    @property
    def is_unreachable(self) -> bool:
        """True when nobody answered: no gateway listens there."""
        return self.status == "UNAVAILABLE" and not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTurn:
    """One message of a conversation; the role is system, user or assistant."""

    role: str
    content: str


Prompt = str | Sequence[int] | Sequence[ChatTurn]
"""Text, token ids, or a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; None leaves the choice to the gateway."""

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int = 0
    seed: int = 0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """New output tokens, in order, without gaps."""

    request_id: str
    token_index: int
    """Index of the first of `token_ids` among the output tokens."""
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The last word on a generation; times in seconds, as the gateway measured them."""

    request_id: str
    finish_reason: str
    """`stop` or `length`."""
    num_prompt_tokens: int
    num_cached_prompt_tokens: int
    num_output_tokens: int
    ttft_s: float
    e2e_s: float
    hold_s: float
    first_gap_s: float
    num_replacements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A served model."""

    name: str
    max_sequence_tokens: int
    vocab_size: int
    """0: the gateway does not know."""


_NO_SAMPLING = Sampling()
_RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name}
                ],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["CANCELLED"],
                },
            }
        ]
    }
)
"""In gRPC's own words; nothing is made again once the first message of an answer has come."""
_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}


@dataclass(slots=True)
class GatewayClient:
    """A connection to one gateway. Use as an async context manager, or call `aclose`."""

    address: str
    """`host:port` of the gateway's public gRPC API."""
    _channel: grpc.aio.Channel = field(init=False)
    _stub: inference_pb2_grpc.InferenceServiceStub = field(init=False)

    def __post_init__(self) -> None:
        """Prepare to connect; the connection is made by the first call."""
        self._channel = open_channel(self.address, options=[("grpc.service_config", _RETRIES)])
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; what still streams is cancelled."""
        await self._channel.close()

    async def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        sampling: Sampling = _NO_SAMPLING,
        priority: int = 0,
        tenant: str = "",
        latency_critical: bool = False,
        idempotency_key: str = "",
        resume_from_index: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Delta | Completion, None]:
        """Stream one generation.

        Args:
            prompt: text, token ids, or chat turns.
            model: empty means the only one.
            sampling: how tokens are chosen.
            priority: -100..100; higher goes first.
            tenant: whose request this is.
            latency_critical: bypass every voluntary hold.
            idempotency_key: a retry with the same key reads the same generation.
            resume_from_index: first output token that is still needed; with a key only.
            timeout_s: deadline for the whole generation; None is none.

        Raises:
            GenerateError: the request failed or was refused.
        """
        request = inference_pb2.GenerateRequest(
            model=model,
            sampling=_sampling(sampling),
            priority=priority,
            tenant=tenant,
            latency_class=inference_pb2.LATENCY_CLASS_CRITICAL
            if latency_critical
            else inference_pb2.LATENCY_CLASS_STANDARD,
            idempotency_key=idempotency_key,
            resume_from_index=resume_from_index,
        )
        _set_prompt(request, prompt)
        call = self._stub.Generate(request, timeout=timeout_s)
        try:
            async for message in call:
                for event in _events(message):
                    yield event
        except grpc.aio.AioRpcError as error:
            raise _generate_error(error, self.address) from None
        finally:
            call.cancel()

    async def list_models(self, *, timeout_s: float | None = 10.0) -> list[Model]:
        """The models that the gateway serves.

        Raises:
            GenerateError: the gateway cannot be reached.
        """
        try:
            response = await self._stub.ListModels(inference_pb2.ListModelsRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _generate_error(error, self.address) from None
        return [
            Model(name=m.name, max_sequence_tokens=m.max_sequence_tokens, vocab_size=m.vocab_size)
            for m in response.models
        ]


def _set_prompt(request: inference_pb2.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
        return
    turns = [item for item in prompt if isinstance(item, ChatTurn)]
    if turns:
        messages = [inference_pb2.ChatMessage(role=turn.role, content=turn.content) for turn in turns]
        request.chat.CopyFrom(inference_pb2.ChatPrompt(messages=messages))
    else:
        token_ids = [item for item in prompt if isinstance(item, int)]
        request.tokens.CopyFrom(inference_pb2.TokenPrompt(token_ids=token_ids))


def _sampling(sampling: Sampling) -> inference_pb2.SamplingParameters:
    return inference_pb2.SamplingParameters(
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        ignore_eos=sampling.ignore_eos,
    )


def _events(message: inference_pb2.GenerateResponse) -> Iterator[Delta | Completion]:
    """A delta, or the end of the stream with the tokens that came with it before."""
    if message.HasField("delta"):
        yield _delta(message.request_id, message.delta)
        return
    completion = message.completion
    if completion.HasField("delta"):
        yield _delta(message.request_id, completion.delta)
    usage, timings = completion.usage, completion.timings
    yield Completion(
        request_id=message.request_id,
        finish_reason=_FINISH_REASONS.get(completion.finish_reason, "unknown"),
        num_prompt_tokens=usage.num_prompt_tokens,
        num_cached_prompt_tokens=usage.num_cached_prompt_tokens,
        num_output_tokens=usage.num_output_tokens,
        ttft_s=timings.ttft_s,
        e2e_s=timings.e2e_s,
        hold_s=timings.hold_s,
        first_gap_s=timings.first_gap_s,
        num_replacements=timings.num_replacements,
    )


def _delta(request_id: str, delta: inference_pb2.Delta) -> Delta:
    return Delta(
        request_id=request_id,
        token_index=delta.token_index,
        token_ids=tuple(delta.token_ids),
        text=delta.text,
    )


def _generate_error(error: grpc.aio.AioRpcError, address: str) -> GenerateError:
    details = details_of(error)
    message = error.details() or ""
    if error.code() is grpc.StatusCode.UNAVAILABLE and re.search(r"connect|ipv[46]:", message):
        message = f"no gateway answers at {address}"
    return GenerateError(
        error.code().name,
        message,
        reason=details.reason,
        violations=details.violations,
        retry_after_s=details.retry_after_s,
    )
