"""Client of the gateway's InferenceService. Wire types stay in this module.

A failed call raises `CommandError`: one line naming the gateway, the field if one is at fault, and when to
come back if the gateway says so. Exit codes: 2 wrong input, 3 nothing answers or too busy, 1 anything else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from hortator.cli.errors import EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_USAGE, CommandError
from hortator.cli.inference.answer import Completion, Delta, GenerateOptions
from hortator.rpc.inference.v1 import inference_pb2 as pb
from hortator.rpc.inference.v1 import inference_pb2_grpc as rpc
from hortator.runtime.rpc_errors import details_of

_FINISH_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
_EXIT_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: EXIT_USAGE,
    grpc.StatusCode.NOT_FOUND: EXIT_USAGE,
    grpc.StatusCode.UNAVAILABLE: EXIT_UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: EXIT_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: EXIT_UNAVAILABLE,
}


class InferenceClient:
    """One channel to one gateway; an async context manager."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = rpc.InferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def generate(self, prompt: str, options: GenerateOptions) -> AsyncIterator[Delta | Completion]:
        """Stream one answer: deltas, then one completion. Leaving the iteration early cancels the request.

        Raises:
            CommandError: the call failed.
        """
        call = self._stub.Generate(_request(prompt, options), timeout=options.timeout_s or None)
        try:
            async for response in call:
                match response.WhichOneof("event"):
                    case "delta":
                        yield _delta(response)
                    case "completion":
                        yield _completion(response)
                    case _:
                        pass
        except grpc.aio.AioRpcError as error:
            raise self._readable(error) from None
        finally:
            call.cancel()

    def _readable(self, error: grpc.aio.AioRpcError) -> CommandError:
        details = details_of(error)
        line = f"gateway {self._address}: {error.details() or error.code().name}"
        if details.retry_after_s is not None:
            line += f" (try again in {details.retry_after_s:.1f} s)"
        return CommandError(line, exit_code=_EXIT_CODES.get(error.code(), EXIT_FAILED))


def _request(prompt: str, options: GenerateOptions) -> pb.GenerateRequest:
    try:
        sampling = pb.SamplingParameters(
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            seed=options.seed,
            stop=options.stop,
            ignore_eos=options.ignore_eos,
        )
        return pb.GenerateRequest(
            model=options.model,
            text=prompt,
            sampling=sampling,
            priority=options.priority,
            tenant=options.tenant,
            latency_class=pb.LATENCY_CLASS_CRITICAL
            if options.is_latency_critical
            else pb.LATENCY_CLASS_STANDARD,
        )
    except ValueError as error:  # a number that the field cannot hold
        raise CommandError(f"a sampling value is out of range: {error}") from None


def _delta(response: pb.GenerateResponse) -> Delta:
    return Delta(
        request_id=response.request_id,
        token_index=response.delta.token_index,
        token_ids=tuple(response.delta.token_ids),
        text=response.delta.text,
    )


def _completion(response: pb.GenerateResponse) -> Completion:
    completion = response.completion
    return Completion(
        request_id=response.request_id,
        finish_reason=_FINISH_REASONS.get(completion.finish_reason, "unknown"),
        num_prompt_tokens=completion.usage.num_prompt_tokens,
        num_cached_prompt_tokens=completion.usage.num_cached_prompt_tokens,
        num_output_tokens=completion.usage.num_output_tokens,
        ttft_s=completion.timings.ttft_s,
        e2e_s=completion.timings.e2e_s,
        hold_s=completion.timings.hold_s,
        first_gap_s=completion.timings.first_gap_s,
        num_replacements=completion.timings.num_replacements,
    )
