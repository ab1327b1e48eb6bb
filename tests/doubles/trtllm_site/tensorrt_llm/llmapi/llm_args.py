"""Arguments of `LLM`: an unknown one raises (facts s1: pydantic, extra="forbid")."""

import functools
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from tensorrt_llm import _profile


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KvCacheConfig(_Strict):
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float = 0.9
    host_cache_size: int | None = None
    event_buffer_max_size: int = 0
    enable_partial_reuse: bool = True
    copy_on_partial_reuse: bool = True
    dtype: str = "auto"
    tokens_per_block: int = 32


class AttentionDpConfig(_Strict):
    enable_balance: bool = False
    timeout_iters: int = 50
    batching_wait_iters: int = 10


class SchedulerConfig(_Strict):
    capacity_scheduler_policy: Literal["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"] = (
        "GUARANTEED_NO_EVICT"
    )
    context_chunking_policy: str | None = None


class CudaGraphConfig(_Strict):
    batch_sizes: list[int] | None = None
    max_batch_size: int = 0
    enable_padding: bool = False


class CacheTransceiverConfig(_Strict):
    backend: Literal["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"] | None = None
    max_tokens_in_buffer: int | None = None


class MTPDecodingConfig(_Strict):
    decoding_type: Literal["MTP"] = "MTP"
    num_nextn_predict_layers: int = 1


class MoeConfig(_Strict):
    backend: str = "AUTO"
    max_num_tokens: int | None = None


_FIELDS: dict[str, Any] = {
    "model": (str, ...),
    "revision": (str | None, None),
    "skip_tokenizer_init": (bool, False),
    "trust_remote_code": (bool, False),
    "tensor_parallel_size": (int, 1),
    "pipeline_parallel_size": (int, 1),
    "moe_expert_parallel_size": (int | None, None),
    "moe_tensor_parallel_size": (int | None, None),
    "gpus_per_node": (int | None, None),
    "enable_attention_dp": (bool, False),
    "attention_dp_config": (AttentionDpConfig | None, None),
    "max_batch_size": (int, 2048),
    "max_num_tokens": (int, 8192),
    "max_seq_len": (int | None, None),
    "kv_cache_config": (KvCacheConfig, KvCacheConfig()),
    "moe_config": (MoeConfig, MoeConfig()),
    "scheduler_config": (SchedulerConfig, SchedulerConfig()),
    "enable_chunked_prefill": (bool, False),
    "cuda_graph_config": (CudaGraphConfig | None, CudaGraphConfig()),
    "disable_overlap_scheduler": (bool, False),
    "cache_transceiver_config": (CacheTransceiverConfig | None, None),
    "speculative_config": (MTPDecodingConfig | None, None),
    "stream_interval": (int, 1),
    "enable_iter_perf_stats": (bool, False),
    "return_perf_metrics": (bool, False),
    "batch_wait_timeout_ms": (float, 0.0),
    "batch_wait_timeout_iters": (int, 0),
    "batch_wait_max_tokens_ratio": (float, 0.0),
    "load_format": (str, "auto"),
}
_NEWER: dict[str, Any] = {"max_stats_len": (int, 1000), "env_overrides": (dict[str, str] | None, None)}


@functools.cache
def torch_llm_args(profile):
    """The class of one line."""
    fields = _FIELDS | (_NEWER if profile.has_priority else {})
    return create_model("TorchLlmArgs", __base__=_Strict, **fields)


def __getattr__(name):
    if name == "TorchLlmArgs":
        return torch_llm_args(_profile.current.profile)
    raise AttributeError(name)
