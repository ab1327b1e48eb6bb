"""One request on its rank: its tokens, how many of them have KV, and when it is done."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hortator.worker.engine import EngineRequest, Finished, FinishReason, RequestMode, TokenChunk
from hortator.worker.engines.torch_moe.plan import SamplePlan


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """The mutable state of a request.

    `tokens` is prompt plus output; KV exists for the first `num_computed` of them. `num_known` tokens were
    there at submit, so all but the last of them (all of them, unless KV was handed over) are prefill.
    """

    request: EngineRequest
    eos_token_id: int
    max_sequence_tokens: int
    tokens: list[int]
    num_known: int
    num_computed: int = 0
    num_handed_over: int = 0
    """Tokens whose KV came with the request."""
    kv_data: bytes | None = None
    """That KV, until it is on its way to the rank."""
    block_ids: list[int] | None = None
    """None until it runs."""
    num_cached_prompt_tokens: int = 0
    num_registered_blocks: int = 0
    is_ended: bool = False

    @classmethod
    def of(cls, request: EngineRequest, *, eos_token_id: int, max_sequence_tokens: int) -> Sequence:
        """The state of a request that was just submitted. Handed-over KV is added by the engine."""
        tokens = [*request.prompt_token_ids, *request.prior_output_ids]
        return cls(
            request=replace(request, kv_payload=None),
            eos_token_id=eos_token_id,
            max_sequence_tokens=max_sequence_tokens,
            tokens=tokens,
            num_known=len(tokens),
        )

    @property
    def num_prompt_tokens(self) -> int:
        """Prompt tokens, prior output not counted."""
        return len(self.request.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Output tokens, prior ones included."""
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def is_decoding(self) -> bool:
        """Only the KV of the newest token is missing, and that token is an output."""
        return self.num_computed == len(self.tokens) - 1 >= self.num_known - (self.num_handed_over > 0)

    @property
    def num_prefill_left(self) -> int:
        """Tokens still to prefill."""
        return 0 if self.is_decoding else len(self.tokens) - self.num_computed

    def num_kv_tokens(self) -> int:
        """The most tokens whose KV this request ever needs here."""
        if self.request.mode is RequestMode.PREFILL_ONLY:
            return self.num_known
        total = min(self.num_prompt_tokens + self.request.sampling.max_tokens, self.max_sequence_tokens)
        return max(total - 1, self.num_known)

    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens that end this request."""
        sampling = self.request.sampling
        return sampling.stop_token_ids + (() if sampling.ignore_eos else (self.eos_token_id,))

    def sample_plan(self) -> SamplePlan:
        """How to choose the next token; end tokens are banned until `min_tokens`."""
        sampling = self.request.sampling
        return SamplePlan(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            position=len(self.tokens),
            banned_token_ids=self.stop_token_ids() if self.num_output_tokens < sampling.min_tokens else (),
        )

    def finish_reason(self) -> FinishReason | None:
        """Why the request is done, judging by its newest output token; None while it goes on."""
        if self.num_output_tokens == 0:
            return None
        sampling = self.request.sampling
        may_stop = self.num_output_tokens > sampling.min_tokens
        if may_stop and self.tokens[-1] in self.stop_token_ids():
            return FinishReason.STOP
        if self.num_output_tokens >= sampling.max_tokens or len(self.tokens) >= self.max_sequence_tokens:
            return FinishReason.LENGTH
        if self.request.mode is RequestMode.PREFILL_ONLY and len(self.tokens) > self.num_known:
            return FinishReason.PREFILLED
        return None

    def newest_token(self) -> TokenChunk:
        """The newest output token as a chunk."""
        return TokenChunk(
            request_id=self.request.request_id,
            attempt=self.request.attempt,
            token_index=self.num_output_tokens - 1,
            token_ids=(self.tokens[-1],),
        )

    def finished(self, reason: FinishReason, message: str = "") -> Finished:
        """The last word on this request."""
        return Finished(
            request_id=self.request.request_id,
            attempt=self.request.attempt,
            reason=reason,
            num_output_tokens=self.num_output_tokens,
            num_cached_prompt_tokens=self.num_cached_prompt_tokens,
            message=message,
        )
