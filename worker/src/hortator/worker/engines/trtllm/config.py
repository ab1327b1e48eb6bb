"""Options of the TensorRT-LLM engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

Phase = Literal["prefill", "decode", "aggregated"]
StatsReader = Literal["auto", "sync", "async"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTLLMConfig:
    """One EP group. Names of TensorRT-LLM's own arguments where there is one; sizes are per DP rank.

    Raises:
        ValueError: sizes do not fit together.
    """

    model: str
    """A folder, or the name of a model on the Hugging Face hub (with or without `hf://`)."""
    revision: str | None = None
    model_name: str = ""
    """What clients call it; empty: `model`."""
    phase: Phase = "aggregated"
    """Of the worker; decides how the engine admits requests."""
    tensor_parallel_size: int = 1
    """Under attention DP the number of DP ranks."""
    pipeline_parallel_size: int = 1
    moe_expert_parallel_size: int | None = None
    """None: `tensor_parallel_size`."""
    moe_tensor_parallel_size: int | None = None
    enable_attention_dp: bool = True
    """False: attention is tensor-parallel, and the group is one rank."""
    gpus_per_node: int = 8
    num_pods: int = 1
    """Of the group, told by the worker; with several, ordinal 0 starts the ranks of all of them by mpirun."""
    max_num_tokens: int = 8192
    """The chunk budget."""
    max_batch_size: int = 128
    max_seq_len: int | None = None
    """None: what the model's configuration says."""
    tokens_per_block: int = 32
    enable_chunked_prefill: bool = False
    chunked_prefill_on_mla: bool = False
    """Says that chunked prefill was seen to work with this model's latent attention on these GPUs."""
    enable_block_reuse: bool = True
    kv_blocks: int | None = None
    """KV blocks of a rank; None: what `free_gpu_memory_fraction` leaves."""
    free_gpu_memory_fraction: float = 0.8
    kv_cache_dtype: str = "auto"
    moe_backend: str | None = None
    """None: the library's choice."""
    cuda_graphs: bool = True
    cuda_graph_batch_sizes: Sequence[int] | None = None
    """None: the library's choice up to `max_batch_size` or 128."""
    mtp_layers: int = 0
    """Draft layers of multi-token prediction; 0: none."""
    transceiver: Literal["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"] = "DEFAULT"
    """What carries KV between groups; used where prefill and decode are apart."""
    trust_remote_code: bool = False
    vocab_size: int | None = None
    """None: what the model's configuration says. The same for `end_id`."""
    end_id: int | None = None
    llm_args: dict[str, JsonValue] = field(default_factory=dict)
    """Further arguments of `tensorrt_llm.LLM`; those that would make the engine wait are refused."""
    stats_reader: StatsReader = "auto"
    """How rows are read: `sync` on the RPC path, `async` on the older one."""
    no_progress_timeout_s: float = 60.0
    """With work in the engine and neither token nor row for this long it counts as hung."""
    watch_interval_s: float = 0.5
    """How often the engine is looked at."""
    exit_grace_s: float = 20.0
    """Between the death of the engine and the end of the process by force: the time to close."""
    transfer_timeout_s: float = 60.0
    """How long an abort waits for a KV transfer in flight."""
    shutdown_timeout_s: float = 8.0
    warm_up_timeout_s: float = 300.0
    """For the first token of every rank after start."""
    warm_up_quiet_s: float = 0.1
    """Rows of the warm-up have all come when none came for this long."""

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "max_num_tokens", "max_batch_size", "tokens_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.pipeline_parallel_size != 1:
            raise ValueError(
                f"pipeline_parallel_size: got {self.pipeline_parallel_size} (allowed: 1, passes overlap else)"
            )
        experts, tensor = self.ep_size, self.moe_tensor_parallel_size or 1
        if experts * tensor != self.tensor_parallel_size:
            raise ValueError(
                f"moe_expert_parallel_size {experts} times moe_tensor_parallel_size {tensor} must be "
                f"tensor_parallel_size {self.tensor_parallel_size}"
            )
        if not 0 < self.free_gpu_memory_fraction < 1:
            raise ValueError("free_gpu_memory_fraction must be between 0 and 1")

    @property
    def dp_size(self) -> int:
        """DP ranks: the GPUs of the tensor-parallel group under attention DP, else one."""
        return self.tensor_parallel_size if self.enable_attention_dp else 1

    @property
    def world_size(self) -> int:
        """MPI ranks, one per GPU."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def ep_size(self) -> int:
        """GPUs that share the experts."""
        tensor = self.moe_tensor_parallel_size or 1
        return self.moe_expert_parallel_size or self.tensor_parallel_size // tensor

    @property
    def model_source(self) -> str:
        """As the library takes it."""
        return self.model.removeprefix("hf://").removeprefix("file://")

    @property
    def draft_tokens(self) -> int:
        """Tokens that a decoding request takes of the chunk budget besides its own."""
        return self.mtp_layers
