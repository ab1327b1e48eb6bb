"""What a role tells TensorRT-LLM beyond its shape: a few fields of its own, further arguments by name.

An argument that Hortator sets itself, or that makes the engine hold back or hide what was placed, is refused
(`rules`, from the tables below) before any pod is made; the worker looks again at what it is given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.lists import ListMap
from hortator.api.v1alpha1.text import Text

KvCacheDtype = Literal["auto", "fp8"]
MoeBackend = Literal["AUTO", "CUTLASS", "CUTEDSL", "DEEPGEMM", "TRTLLM", "TRITON", "VANILLA", "WIDEEP"]

MAX_ARGS = 32
MAX_GRAPHS = 64

ArgName = Annotated[
    str,
    Text(
        pattern=r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?",
        max_length=128,
        allowed="a name like trust_remote_code or kv_cache_config.host_cache_size",
    ),
]

ARGS_OF_FIELDS: Final[Mapping[str, str]] = {
    "model": "model.uri",
    "revision": "model.revision",
    "tensor_parallel_size": "parallelism",
    "pipeline_parallel_size": "parallelism.pipeline",
    "context_parallel_size": "parallelism",
    "moe_expert_parallel_size": "parallelism.expert",
    "moe_tensor_parallel_size": "parallelism.expertTensor",
    "moe_cluster_parallel_size": "parallelism",
    "enable_attention_dp": "parallelism.attentionDP",
    "gpus_per_node": "gpusPerNode",
    "max_batch_size": "maxBatchSize",
    "max_num_tokens": "chunkBudgetTokens",
    "max_seq_len": "maxSequenceTokens",
    "enable_chunked_prefill": "chunkedPrefill",
    "skip_tokenizer_init": "nothing: workers take token ids",
    "kv_cache_config": "its fields, one by one",
    "kv_cache_config.dtype": "kvCacheDtype",
    "kv_cache_config.free_gpu_memory_fraction": "memoryFraction",
    "kv_cache_config.max_tokens": "kvBlocks",
    "kv_cache_config.tokens_per_block": "tokensPerBlock",
    "kv_cache_config.enable_block_reuse": "nothing: prefix caches are counted on",
    "kv_cache_config.enable_partial_reuse": "nothing: blocks are counted whole",
    "moe_config": "its fields, one by one",
    "moe_config.backend": "moeBackend",
    "speculative_config": "mtpLayers",
    "speculative_config.decoding_type": "mtpLayers",
    "speculative_config.num_nextn_predict_layers": "mtpLayers",
    "cuda_graph_config": "cudaGraph",
    "cuda_graph_config.batch_sizes": "cudaGraph.batchSizes",
    "cuda_graph_config.max_batch_size": "cudaGraph.batchSizes",
    "cuda_graph_config.enable_padding": "nothing: graphs are padded",
    "cache_transceiver_config": "its fields, one by one",
}
"""Argument, and the field that says it instead."""

ARGS_THAT_WAIT: Final[Mapping[str, str]] = {
    "attention_dp_config": "give its fields one by one",
    "attention_dp_config.enable_balance": "prefills wait until all ranks have some: staggering does that",
    "attention_dp_config.timeout_iters": "belongs to enable_balance",
    "attention_dp_config.batching_wait_iters": "belongs to enable_balance",
    "attention_dp_config.enable_kv_cache_aware_routing": "requests leave their rank",
    "batch_wait_timeout_iters": "batches that the scheduler has released wait again",
    "batch_wait_max_tokens_ratio": "batches that the scheduler has released wait again",
    "disable_overlap_scheduler": "follows from the role, which declares when a batch enters a pass",
    "scheduler_config": "give its fields one by one",
    "scheduler_config.capacity_scheduler_policy": "pauses or holds requests that were placed",
    "scheduler_config.waiting_queue_policy": "requests overtake each other inside the engine",
    "stream_interval": "the end of a pass is seen by its tokens",
    "enable_iter_perf_stats": "passes without tokens are seen by statistics alone",
    "orchestrator_type": "ray has no statistics",
}
"""Argument, and what it would do."""

BATCH_WAIT = "batch_wait_timeout_ms"
"""Allowed in Prefill groups, above 0 to 10: an idle engine waits so long for the rest of a batch."""
BATCH_WAIT_PATTERN = r"10(\.0+)?|[1-9](\.[0-9]+)?|0\.[0-9]*[1-9][0-9]*"


class CudaGraphSpec(Model):
    """CUDA graphs of passes that only decode."""

    enabled: bool = True
    """False: every pass is launched kernel by kernel."""
    batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(strict=False, max_length=MAX_GRAPHS)
    ] = ()
    """Sizes to record a graph of; a batch is padded to the next one. Absent: the library's choice up to
    maxBatchSize or 128, whichever is less."""


class EngineArg(Model):
    """One further argument of tensorrt_llm.LLM."""

    name: ArgName
    """As the library spells it; a dot leads into an object: kv_cache_config.host_cache_size."""
    value: Annotated[str, Field(max_length=1024)]
    """JSON, for example "8589934592" or "true"; what is no JSON is text."""

    @property
    def parsed(self) -> JsonValue:
        """The value as the library takes it."""
        try:
            parsed: JsonValue = json.loads(self.value, parse_constant=_no_number)
        except ValueError:
            return self.value
        return parsed


class TensorRTLLMSpec(Model):
    """What the engines of a role are told. With backend TensorRTLLM; Simulated heeds kvCacheDtype alone."""

    kv_cache_dtype: KvCacheDtype = "auto"
    """Of a KV element; auto: the model's own (BF16 for DeepSeek-V3). fp8 halves KV and its transfers. Equal
    in all roles."""
    memory_fraction: Annotated[float, Field(gt=0, le=0.95)] = 0.8
    """Share for KV of the GPU memory that weights leave free. Not heeded where the role says kvBlocks."""
    moe_backend: MoeBackend | None = None
    """Kernels of the experts. Absent: the library's choice, which is right on H800 (CUTLASS)."""
    mtp_layers: Annotated[int, Field(ge=0, le=8)] = 0
    """Multi-token prediction: draft tokens per step, each of which takes its place in the chunk budget."""
    cuda_graph: CudaGraphSpec = Field(default_factory=CudaGraphSpec)
    args: Annotated[tuple[EngineArg, ...], Field(strict=False, max_length=MAX_ARGS), ListMap("name")] = ()
    """Further arguments of tensorrt_llm.LLM. Those that have a field here, or make the engine wait, are
    refused."""


def _no_number(name: str) -> JsonValue:
    raise ValueError(name)
