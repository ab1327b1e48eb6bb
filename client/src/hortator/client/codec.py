"""Plain values to protos and back."""

from __future__ import annotations

from collections.abc import Iterator

from hortator.client.messages import ChatTurn, Completion, Delta, Prompt, Sampling
from hortator.rpc.inference.v1 import inference_pb2

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}


def set_prompt(request: inference_pb2.GenerateRequest, prompt: Prompt) -> None:
    """Put a prompt of any kind into a request."""
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


def encode_sampling(sampling: Sampling) -> inference_pb2.SamplingParameters:
    """Sampling on the wire."""
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


def decode_events(message: inference_pb2.GenerateResponse) -> Iterator[Delta | Completion]:
    """A delta, or the end of the stream with the tokens that came with it before; none of a newer kind."""
    if message.HasField("delta"):
        yield _delta(message.request_id, message.delta)
        return
    if not message.HasField("completion"):
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
