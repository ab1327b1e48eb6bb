"""Limits of one EP group's engine, and which requests can never fit them."""

from __future__ import annotations

from dataclasses import dataclass

from hortator.worker.engine import RequestMode, RequestRefusedError
from hortator.worker.engines.simulated.group_request import GroupRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """Limits of one EP group's engine."""

    dp_size: int
    chunk_budget_tokens: int = 8192
    chunked_prefill: bool = True
    max_batch_size: int = 256
    kv_blocks_total: int
    """Per rank."""
    tokens_per_block: int = 64
    max_sequence_tokens: int = 131072
    admission_lead_passes: int = 0
    prefix_cache: bool = True
    jitter: float = 0.0
    """Standard deviation of ln(pass time): seeded lognormal noise with mean 1; 0 is none."""
    slow_rank_factor: float = 1.0
    """The tokens of rank 0 cost so many times as much as those of another; everyone waits for it."""
    context_timeout_iters: int = 0
    """Passes that the engine itself holds prompts back for, see `context_wait`; 0: it does not."""
    batching_wait_iters: int = 0
    """Further passes once all ranks have prompts."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "dp_size",
            "chunk_budget_tokens",
            "max_batch_size",
            "kv_blocks_total",
            "tokens_per_block",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.admission_lead_passes not in {0, 1}:
            raise ValueError("admission_lead_passes must be 0 or 1")
        if self.jitter < 0:
            raise ValueError("jitter cannot be negative")
        if self.slow_rank_factor < 1:
            raise ValueError("slow_rank_factor cannot be under 1")
        for name in ("context_timeout_iters", "batching_wait_iters"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative")

    def blocks_of(self, request: GroupRequest) -> int:
        """KV blocks the request reserves."""
        return -(-request.reserve_tokens // self.tokens_per_block)

    def check_fits(self, request: GroupRequest) -> None:
        """Raise RequestRefusedError if this request could never run."""
        if not 0 <= request.dp_rank < self.dp_size:
            raise refusal(request, "dp_rank", f"dp_rank {request.dp_rank} of {self.dp_size} ranks")
        if request.num_prefill_tokens < 1:
            raise refusal(request, "prompt", "the prompt is empty")
        if request.num_prefill_tokens >= self.max_sequence_tokens:
            raise refusal(
                request,
                "prompt",
                f"{request.num_prefill_tokens} prompt tokens leave no room for output in sequences of "
                f"{self.max_sequence_tokens}",
            )
        if (
            not self.chunked_prefill
            and request.mode is not RequestMode.DECODE_ONLY
            and request.num_prefill_tokens > self.chunk_budget_tokens
        ):
            raise refusal(
                request,
                "prompt",
                f"{request.num_prefill_tokens} prompt tokens exceed the chunk budget of "
                f"{self.chunk_budget_tokens} and this engine does not chunk prefill",
            )
        capacity = self.kv_blocks_total * self.tokens_per_block
        if request.num_prefill_tokens > capacity:
            raise refusal(
                request, "prompt", f"{request.num_prefill_tokens} prompt tokens exceed {capacity} KV tokens"
            )
        if self.blocks_of(request) > self.kv_blocks_total:
            raise refusal(
                request,
                "max_tokens",
                f"prompt and output of {request.reserve_tokens} tokens exceed {capacity} KV tokens of a rank",
            )
        if request.num_output_tokens <= request.num_prior_tokens:
            raise refusal(request, "max_tokens", "no output token is left to generate")


def refusal(request: GroupRequest, field: str, message: str) -> RequestRefusedError:
    """The error that says why this request cannot run."""
    return RequestRefusedError(request.request_id, field, message)
