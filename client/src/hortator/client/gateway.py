"""A connection to one gateway: prompts in, deltas out, a call for each generation.

    async with GatewayClient("127.0.0.1:8080") as client:
        async for event in client.generate("To be, or not to be"):
            match event:
                case Delta(text=text): print(text, end="")
                case Completion(finish_reason=reason): print(reason)

A generation is a stream of `Delta` that ends with one `Completion`. What goes wrong is a `GenerateError` with
the status name, the fields at fault, and when to come back. Leaving the loop early cancels the request.

A call that a gateway cancels before it has said anything is made again: one that leaves while others stay
tells its connections to go, and a call that crosses that word on its way is cancelled by gRPC itself.
Everything else that goes wrong is told; `Client` is who tries again. A gateway that answers no ping while a
call is open is gone. One that sends tokens out of order, or ends an answer in the middle, is at fault: that
is told like everything else.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc.aio

from hortator.client.access import ANYBODY, Access
from hortator.client.codec import decode_events, encode_sampling, set_prompt
from hortator.client.errors import ended_early, generate_error, wrong_token
from hortator.client.messages import Completion, Delta, Model, Prompt, Sampling
from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc

NO_SAMPLING = Sampling()
"""The gateway chooses everything."""
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
PING_EVERY_S = 1.0
PING_TIMEOUT_S = 1.5
"""A gateway whose node is gone, or that was stopped, is noticed within both."""
_OPTIONS = (
    ("grpc.service_config", _RETRIES),
    ("grpc.keepalive_time_ms", int(1000 * PING_EVERY_S)),
    ("grpc.keepalive_timeout_ms", int(1000 * PING_TIMEOUT_S)),
    ("grpc.http2.ping_timeout_ms", int(1000 * PING_TIMEOUT_S)),
    ("grpc.keepalive_permit_without_calls", 0),
)


@dataclass(slots=True)
class GatewayClient:
    """A connection to one gateway. Use as an async context manager, or call `aclose`."""

    address: str
    """`host:port` of the gateway's public gRPC API."""
    access: Access = ANYBODY
    """Certificates and API key to show."""
    _channel: grpc.aio.Channel = field(init=False)
    _stub: inference_pb2_grpc.InferenceServiceStub = field(init=False)

    def __post_init__(self) -> None:
        """Prepare to connect; the connection is made by the first call."""
        self._channel = self.access.open_channel(self.address, "gateway", options=_OPTIONS)
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
        sampling: Sampling = NO_SAMPLING,
        priority: int = 0,
        tenant: str = "",
        latency_critical: bool = False,
        idempotency_key: str = "",
        resume_from_index: int = 0,
        prior_output_ids: Sequence[int] = (),
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
            prior_output_ids: the output tokens before that: all of them, or none. With them, what nobody runs
                any more goes on after them instead of beginning again.
            timeout_s: deadline for the whole generation; None is none.

        Raises:
            GenerateError: the request failed or was refused.
        """
        request = inference_pb2.GenerateRequest(
            model=model,
            sampling=encode_sampling(sampling),
            priority=priority,
            tenant=tenant,
            latency_class=inference_pb2.LATENCY_CLASS_CRITICAL
            if latency_critical
            else inference_pb2.LATENCY_CLASS_STANDARD,
            idempotency_key=idempotency_key,
            resume_from_index=resume_from_index,
            prior_output_ids=prior_output_ids,
        )
        set_prompt(request, prompt)
        call = self._stub.Generate(request, timeout=timeout_s, metadata=self.access.metadata())
        num_tokens = resume_from_index
        try:
            async for message in call:
                for event in decode_events(message):
                    if isinstance(event, Delta):
                        if event.token_index != num_tokens:
                            raise wrong_token(self.address, event.token_index, num_tokens)
                        num_tokens += len(event.token_ids)
                    yield event
                    if isinstance(event, Completion):
                        return
            raise ended_early(self.address)
        except grpc.aio.AioRpcError as error:
            raise generate_error(error, self.address) from None
        finally:
            call.cancel()

    async def list_models(self, *, timeout_s: float | None = 10.0) -> list[Model]:
        """The models that the gateway serves.

        Raises:
            GenerateError: the gateway cannot be reached.
        """
        try:
            response = await self._stub.ListModels(
                inference_pb2.ListModelsRequest(), timeout=timeout_s, metadata=self.access.metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise generate_error(error, self.address) from None
        return [
            Model(name=m.name, max_sequence_tokens=m.max_sequence_tokens, vocab_size=m.vocab_size)
            for m in response.models
        ]
