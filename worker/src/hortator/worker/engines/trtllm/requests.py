"""A request of the port in the library's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hortator.worker.engine import EngineRequest, RequestMode, RequestRefusedError
from hortator.worker.engines.trtllm import hand_over
from hortator.worker.engines.trtllm.capabilities import Capabilities
from hortator.worker.engines.trtllm.library import Library
from hortator.worker.engines.trtllm.rank_books import RankLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `generate_async` is called with, and what the books must know."""

    call: dict[str, Any]
    mode: RequestMode
    """PREFILL_ONLY with one token to go runs as AGGREGATED: it leaves nothing to decode."""
    num_prefill_tokens: int
    num_tokens: int
    """Prompt and all output that it can have."""
    num_first: int
    """Output tokens that the engine knows of before it generates: the first one, of a DECODE_ONLY request."""


class Translator:
    """Checks and translates. What could fail in the executor is refused here: the executor would die."""

    def __init__(
        self,
        library: Library,
        capabilities: Capabilities,
        *,
        model_name: str,
        dp_size: int,
        limits: RankLimits,
        max_sequence_tokens: int,
        end_id: int,
        is_placing: bool,
    ) -> None:
        self._library = library
        self._capabilities = capabilities
        self._model_name = model_name
        self._dp_size = dp_size
        self.limits = limits
        self.max_sequence_tokens = max_sequence_tokens
        self._end_id = end_id
        self._is_placing = is_placing

    def prepare(self, request: EngineRequest, serial: int) -> Prepared:
        """Raises RequestRefusedError. `serial` is unique: it salts what must not be reused."""
        num_prompt, num_prior = len(request.prompt_token_ids), len(request.prior_output_ids)
        num_output = min(request.sampling.max_tokens, self.max_sequence_tokens - num_prompt)
        self._check(request, num_output)
        mode = request.mode
        if mode is RequestMode.PREFILL_ONLY and num_output - num_prior <= 1:
            mode = RequestMode.AGGREGATED
        num_first = 1 if mode is RequestMode.DECODE_ONLY else 0
        prior = request.prior_output_ids[: num_prior - num_first]
        call: dict[str, Any] = {
            "inputs": [*request.prompt_token_ids, *prior],
            "sampling_params": self._sampling(request, num_output - len(prior), len(prior)),
            "streaming": True,
        }
        if self._is_placing:
            call["scheduling_params"] = self._library.scheduling_params(
                attention_dp_rank=request.dp_rank, attention_dp_relax=False
            )
        disaggregated = self._disaggregated(request, mode)
        if disaggregated is not None:
            call["disaggregated_params"] = disaggregated
        if self._capabilities.cache_salt:
            hashes = request.block_hashes
            # the first block's hash is salted with the tenant: its equal prefixes share it, no others do
            call["cache_salt"] = f"{hashes[0]:016x}" if hashes else f"alone-{serial}"
        return Prepared(
            call=call,
            mode=mode,
            num_prefill_tokens=num_prompt + num_prior,
            num_tokens=num_prompt + (num_prior if mode is RequestMode.PREFILL_ONLY else num_output),
            num_first=num_first,
        )

    def is_complete(self, request: EngineRequest) -> bool:
        """Nothing is left to generate."""
        num_output = min(
            request.sampling.max_tokens, self.max_sequence_tokens - len(request.prompt_token_ids)
        )
        return 0 < num_output <= len(request.prior_output_ids)

    def _check(self, request: EngineRequest, num_output: int) -> None:
        limits, num_prompt = self.limits, len(request.prompt_token_ids)
        num_prefill = num_prompt + len(request.prior_output_ids)
        if not 0 <= request.dp_rank < self._dp_size:  # negative ones would wrap, others kill the executor
            raise _refused(request, "dp_rank", f"dp_rank {request.dp_rank} of {self._dp_size} ranks")
        if num_prompt < 1:
            raise _refused(request, "prompt", "the prompt is empty")
        if num_prefill >= self.max_sequence_tokens:
            raise _refused(
                request,
                "prompt",
                f"{num_prefill} prompt tokens leave no room for output in sequences of "
                f"{self.max_sequence_tokens}",
            )
        if request.sampling.max_tokens < 1:
            raise _refused(request, "max_tokens", "max_tokens must be at least 1")
        is_prefilled_here = request.mode is not RequestMode.DECODE_ONLY
        if is_prefilled_here and not limits.chunked_prefill and num_prefill > limits.chunk_budget_tokens:
            raise _refused(
                request,
                "prompt",
                f"{num_prefill} prompt tokens exceed the chunk budget of "
                f"{limits.chunk_budget_tokens} and this "
                "engine does not chunk prefill",
            )
        capacity = limits.kv_blocks_total * limits.tokens_per_block
        if num_prefill > capacity:
            raise _refused(
                request, "prompt", f"{num_prefill} prompt tokens exceed {capacity} KV tokens of a rank"
            )
        kept = num_prefill if request.mode is RequestMode.PREFILL_ONLY else num_prompt + num_output
        if blocks_for(kept, limits) > limits.kv_blocks_total:
            raise _refused(
                request,
                "max_tokens",
                f"prompt and output of {kept} tokens exceed {capacity} KV tokens of a rank",
            )

    def _sampling(self, request: EngineRequest, max_tokens: int, num_prior: int) -> Any:
        sampling = request.sampling
        values: dict[str, Any] = {
            "max_tokens": max_tokens,
            "end_id": self._end_id,
            "ignore_eos": sampling.ignore_eos,
            "detokenize": False,
            "return_perf_metrics": True,
        }
        if sampling.temperature > 0:
            values["temperature"] = sampling.temperature
            values["seed"] = sampling.seed
            if sampling.top_p < 1:
                values["top_p"] = sampling.top_p
            if sampling.top_k > 0:
                values["top_k"] = sampling.top_k
        if sampling.min_tokens > num_prior:
            values["min_tokens"] = sampling.min_tokens - num_prior
        if sampling.stop_token_ids:
            values["stop_token_ids"] = list(sampling.stop_token_ids)
            if self._capabilities.stop_token_kept:
                values["include_stop_str_in_output"] = True
        return self._library.sampling_params(**values)

    def _disaggregated(self, request: EngineRequest, mode: RequestMode) -> Any:
        match mode:
            case RequestMode.PREFILL_ONLY:
                return self._library.disaggregated_params(request_type="context_only")
            case RequestMode.DECODE_ONLY:
                return self._library.disaggregated_params(**self._handed_over(request))
            case _:
                return None

    def _handed_over(self, request: EngineRequest) -> dict[str, Any]:
        if not request.prior_output_ids:
            raise _refused(request, "prior_output_ids", "decode needs the first token that prefill sampled")
        try:
            return hand_over.decode(
                request.kv_payload or b"",
                model_name=self._model_name,
                prompt_token_ids=request.prompt_token_ids,
                output_token_ids=request.prior_output_ids,
            )
        except hand_over.HandOverError as error:
            raise _refused(request, "kv_payload", str(error)) from None


def blocks_for(num_tokens: int, limits: RankLimits) -> int:
    """KV blocks of so many tokens."""
    return -(-num_tokens // limits.tokens_per_block)


def _refused(request: EngineRequest, field: str, message: str) -> RequestRefusedError:
    return RequestRefusedError(request.request_id, field, message)
