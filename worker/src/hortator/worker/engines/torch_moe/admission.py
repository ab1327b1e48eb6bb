"""What a request must satisfy to run here. Each refusal names the field at fault in public words."""

from __future__ import annotations

from hortator.worker.engine import EngineRequest, RequestMode, RequestRefusedError
from hortator.worker.engines.torch_moe import kv_payload
from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.engines.torch_moe.sequence import Sequence
from hortator.worker.engines.torch_moe.shape import ModelShape


def admit(
    request: EngineRequest, *, config: TorchMoEConfig, shape: ModelShape, weights_digest: str
) -> Sequence:
    """The sequence of a request that can run. Raises RequestRefusedError."""

    def refuse(field: str, message: str) -> RequestRefusedError:
        return RequestRefusedError(request.request_id, field, message)

    if not 0 <= request.dp_rank < config.dp_size:
        raise refuse("dp_rank", f"DP rank {request.dp_rank} is not one of {config.dp_size}")
    if not request.prompt_token_ids:
        raise refuse("prompt", "the prompt is empty")
    _check_sampling(request, shape)
    sequence = Sequence.of(
        request, eos_token_id=shape.eos_token_id, max_sequence_tokens=shape.max_sequence_tokens
    )
    if not all(0 <= token < shape.vocab_size for token in sequence.tokens):
        raise refuse("prompt", f"token ids must be in 0 .. {shape.vocab_size - 1}")
    if sequence.num_known >= shape.max_sequence_tokens and sequence.finish_reason() is None:
        raise refuse(
            "prompt",
            f"{sequence.num_known} tokens leave no room for an answer in {shape.max_sequence_tokens}",
        )
    num_blocks = -(-sequence.num_kv_tokens() // config.tokens_per_block)
    if num_blocks > config.kv_blocks:
        raise refuse("max_tokens", f"needs {num_blocks} KV blocks, a DP rank has {config.kv_blocks}")
    if request.mode is RequestMode.DECODE_ONLY:
        _accept_kv(request, sequence, shape, weights_digest)
    return sequence


def _check_sampling(request: EngineRequest, shape: ModelShape) -> None:
    sampling = request.sampling
    checks = (
        ("max_tokens", sampling.max_tokens >= 1, "must be at least 1"),
        ("min_tokens", 0 <= sampling.min_tokens <= sampling.max_tokens, "must be in 0 .. max_tokens"),
        ("temperature", 0 <= sampling.temperature < float("inf"), "must be 0 or more"),
        ("top_p", 0 < sampling.top_p <= 1, "must be more than 0, at most 1"),
        ("top_k", sampling.top_k >= 0, "must be 0 or more"),
        (
            "stop_token_ids",
            all(0 <= token < shape.vocab_size for token in sampling.stop_token_ids),
            f"must be in 0 .. {shape.vocab_size - 1}",
        ),
    )
    for field, is_good, message in checks:
        if not is_good:
            raise RequestRefusedError(
                request.request_id, field, f"{field} {message}, not {getattr(sampling, field)}"
            )


def _accept_kv(request: EngineRequest, sequence: Sequence, shape: ModelShape, weights_digest: str) -> None:
    """Check the KV that came along and hang it on the sequence."""
    if not request.prior_output_ids:
        raise RequestRefusedError(
            request.request_id, "prior_output_ids", "decoding needs the first token from the prefill"
        )
    if request.kv_payload is None:
        raise RequestRefusedError(request.request_id, "kv_payload", "decoding needs the KV of the prompt")
    try:
        sequence.num_handed_over, sequence.kv_data = kv_payload.unpack(
            request.kv_payload,
            weights_digest=weights_digest,
            token_ids=sequence.tokens,
            bytes_per_token=shape.kv_bytes_per_token,
        )
    except kv_payload.KvPayloadError as error:
        raise RequestRefusedError(request.request_id, "kv_payload", str(error)) from error
    sequence.num_computed = sequence.num_handed_over
