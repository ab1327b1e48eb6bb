"""Settings of the simulated engine."""

from __future__ import annotations

from dataclasses import dataclass

from hortator.worker.engines.simulated import h800
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_model import GroupConfig
from hortator.worker.engines.simulated.tokens import TokenSource


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedConfig:
    """One EP group of simulated H800 GPUs. Sizes that do not fit together raise ValueError when used."""

    preset: str = "deepseek-h800"
    """Whose engine: `deepseek-h800`, `rtp-h800` (slower prefill) or `sglang-h100`."""
    dp_size: int = 16
    ep_size: int | None = None
    """GPUs of the group, a multiple of `dp_size`; None: `dp_size`."""
    gpus_per_node: int = 8
    chunk_budget_tokens: int = 8192
    chunked_prefill: bool = True
    max_batch_size: int = 256
    kv_blocks_total: int | None = None
    """Per rank. None: what the HBM of an H800 leaves beside the weights (needs EP16 or more)."""
    tokens_per_block: int = 64
    max_sequence_tokens: int = 131072
    prefix_cache: bool = True
    admission_lead_passes: int = 0
    """1 simulates an overlap scheduler, which fetches the next batch as the current pass starts."""
    two_batch_overlap: bool | None = None
    """None takes the faster one for each pass."""
    expert_skew: float = h800.PREFILL_EXPERT_SKEW
    """Tokens of the hottest EP rank over the mean, prefill."""
    decode_expert_skew: float = h800.DECODE_EXPERT_SKEW
    expert_slots: int = h800.DEFAULT_EXPERT_SLOTS
    kv_cache_dtype: str = "auto"
    """`fp8` halves KV: twice the blocks, hand-overs of half the bytes."""
    jitter: float = 0.0
    """Standard deviation of ln(pass time), seeded."""
    seed: int = 0
    time_scale: float = 1.0
    """Wall seconds per simulated second; 0.001 makes an engine that is practically always idle."""
    model_name: str = "deepseek-v3"
    vocab_size: int = 129280
    first_token_id: int = 3
    """Token ids below it (specials such as end-of-sequence) are never emitted."""

    def __post_init__(self) -> None:
        if not self.time_scale > 0:
            raise ValueError(f"time_scale must be more than 0, not {self.time_scale}")

    def pass_cost(self) -> PassCost:
        """The cost model of this group."""
        return PassCost(
            self.preset,
            dp_size=self.dp_size,
            ep_size=self.ep_size,
            gpus_per_node=self.gpus_per_node,
            expert_skew=self.expert_skew,
            decode_expert_skew=self.decode_expert_skew,
            two_batch_overlap=self.two_batch_overlap,
            expert_slots=self.expert_slots,
            kv_cache_dtype=self.kv_cache_dtype,
        )

    def group_config(self, cost: PassCost) -> GroupConfig:
        """The limits of this group."""
        kv_blocks_total = self.kv_blocks_total
        if kv_blocks_total is None:
            kv_blocks_total = cost.kv_blocks_total(self.tokens_per_block)
        return GroupConfig(
            dp_size=self.dp_size,
            chunk_budget_tokens=self.chunk_budget_tokens,
            chunked_prefill=self.chunked_prefill,
            max_batch_size=self.max_batch_size,
            kv_blocks_total=kv_blocks_total,
            tokens_per_block=self.tokens_per_block,
            max_sequence_tokens=self.max_sequence_tokens,
            admission_lead_passes=self.admission_lead_passes,
            prefix_cache=self.prefix_cache,
            jitter=self.jitter,
            seed=self.seed,
        )

    def token_source(self) -> TokenSource:
        """Where the tokens come from."""
        return TokenSource(self.vocab_size, self.first_token_id)
