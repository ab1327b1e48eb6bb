"""Configuration to arguments of `tensorrt_llm.LLM`, by phase. Pure.

How a batch enters a pass is decided here (`Admitting`):

    prefill      an idle engine takes one item of its queue and starts a pass, so it is told to wait a little
                 for the rest of the batch; no overlap scheduler: a batch then joins the next pass
    decode,      never waits, because every wait stalls all decodes; the overlap scheduler fetches a batch one
    aggregated   pass ahead, and the first pass of an idle engine may hold one request of a batch

A scheduler that staggers and an engine that holds requests back fight each other: arguments that make the
engine wait are refused, each with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hortator.worker.engine import Admission
from hortator.worker.engines.trtllm.config import Phase, TensorRTLLMConfig
from hortator.worker.engines.trtllm.model_facts import ModelFacts
from hortator.worker.errors import EngineConfigError

PREFILL_WAIT_MS = 3.0
MOST_WAIT_MS = 10.0
DECODE_GRAPH_BATCH = 128
NEEDED = (
    "enable_attention_dp",
    "disable_overlap_scheduler",
    "batch_wait_timeout_ms",
    "enable_iter_perf_stats",
)
"""Arguments without which placement or passes cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitting:
    """How requests enter passes in a phase."""

    batch_wait_timeout_ms: float
    is_overlapping: bool
    admission: Admission

    @property
    def lead_passes(self) -> int:
        """The overlap scheduler fetches the batch of the next pass as the current one starts."""
        return int(self.is_overlapping)


ADMITTING: Mapping[Phase, Admitting] = {
    "prefill": Admitting(
        batch_wait_timeout_ms=PREFILL_WAIT_MS, is_overlapping=False, admission=Admission.ATOMIC
    ),
    "decode": Admitting(batch_wait_timeout_ms=0.0, is_overlapping=True, admission=Admission.BEST_EFFORT),
    "aggregated": Admitting(batch_wait_timeout_ms=0.0, is_overlapping=True, admission=Admission.BEST_EFFORT),
}

_IN_OPTIONS = frozenset(
    {
        "model", "revision", "tensor_parallel_size", "pipeline_parallel_size", "moe_expert_parallel_size",
        "moe_tensor_parallel_size", "enable_attention_dp", "gpus_per_node", "max_num_tokens",
        "max_batch_size", "max_seq_len", "enable_chunked_prefill",
    }
)  # fmt: skip
_IN_OPTIONS_INSIDE: Mapping[str, Mapping[str, str]] = {
    "kv_cache_config": {
        "dtype": "kv_cache_dtype",
        "free_gpu_memory_fraction": "free_gpu_memory_fraction",
        "tokens_per_block": "tokens_per_block",
        "enable_block_reuse": "enable_block_reuse",
    },
    "moe_config": {"backend": "moe_backend"},
    "cuda_graph_config": {"batch_sizes": "cuda_graph_batch_sizes"},
    "speculative_config": {"num_nextn_predict_layers": "mtp_layers"},
}
"""Fields of configuration objects that are options: given otherwise, our books would not know of them."""


def arguments(config: TensorRTLLMConfig, facts: ModelFacts) -> dict[str, Any]:
    """All arguments; `check_overrides` must have passed."""
    admitting = ADMITTING[config.phase]
    kv: dict[str, Any] = {
        "enable_block_reuse": config.enable_block_reuse,
        "enable_partial_reuse": False,  # reuse by whole blocks is what we can account for
        "free_gpu_memory_fraction": config.free_gpu_memory_fraction,
        "tokens_per_block": config.tokens_per_block,
        "dtype": config.kv_cache_dtype,
    }
    if config.kv_blocks is not None:
        kv["max_tokens"] = config.kv_blocks * config.tokens_per_block
    ours: dict[str, Any] = {
        "model": config.model_source,
        "revision": config.revision,
        "skip_tokenizer_init": True,
        "trust_remote_code": config.trust_remote_code,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "moe_expert_parallel_size": config.ep_size,
        "moe_tensor_parallel_size": config.moe_tensor_parallel_size,
        "gpus_per_node": config.gpus_per_node,
        "enable_attention_dp": config.enable_attention_dp,
        "max_batch_size": config.max_batch_size,
        "max_num_tokens": config.max_num_tokens,
        "max_seq_len": facts.max_seq_len,
        "enable_chunked_prefill": config.enable_chunked_prefill,
        "kv_cache_config": kv,
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "disable_overlap_scheduler": not admitting.is_overlapping,
        "batch_wait_timeout_ms": admitting.batch_wait_timeout_ms,
        "stream_interval": 1,
        "enable_iter_perf_stats": True,
        "cuda_graph_config": _graphs(config),
    }
    if config.moe_backend is not None:
        ours["moe_config"] = {"backend": config.moe_backend}
    if config.mtp_layers:
        ours["speculative_config"] = {
            "decoding_type": "MTP",
            "num_nextn_predict_layers": config.mtp_layers,
        }
    if config.phase != "aggregated":
        ours["cache_transceiver_config"] = {"backend": config.transceiver}
    ours = {name: value for name, value in ours.items() if value is not None or name == "cuda_graph_config"}
    return _merged(ours, config.llm_args)


def batch_wait_ms(config: TensorRTLLMConfig) -> float:
    """How long the engine waits for its queue to fill, in every pass."""
    wait_ms = config.llm_args.get("batch_wait_timeout_ms", ADMITTING[config.phase].batch_wait_timeout_ms)
    return float(wait_ms) if isinstance(wait_ms, int | float) else 0.0


def check_overrides(config: TensorRTLLMConfig) -> None:
    """Refuse what would make the engine wait, or hide its passes from us. Raises EngineConfigError."""
    problems = [f"engine_options.llm_args.{problem}" for problem in _problems(config)]
    if problems:
        raise EngineConfigError("\n".join(problems))


def check_world(config: TensorRTLLMConfig) -> None:
    """Ranks must be the GPUs that the pods of the group have. Raises EngineConfigError."""
    ranks, gpus, pods = config.world_size, config.gpus_per_node, config.num_pods
    if pods == 1 and ranks > gpus:
        raise EngineConfigError(
            f"engine_options.tensor_parallel_size: {ranks} ranks need {ranks} GPUs, and a pod has {gpus} "
            f"(gpus_per_node; allowed: at most {gpus}, or a group of {math.ceil(ranks / gpus)} pods)"
        )
    if pods > 1 and ranks != pods * gpus:
        raise EngineConfigError(
            f"engine_options.tensor_parallel_size: {ranks} ranks, but {pods} pods (GROUP_SIZE) of {gpus} "
            f"GPUs (gpus_per_node) have {pods * gpus} (allowed: {pods * gpus})"
        )


def check_chunking(config: TensorRTLLMConfig, facts: ModelFacts) -> None:
    """Raise EngineConfigError where nobody has seen chunked prefill work."""
    if config.enable_chunked_prefill and facts.is_mla and not config.chunked_prefill_on_mla:
        raise EngineConfigError(
            "engine_options.enable_chunked_prefill: true, but with latent attention (MLA) on "
            "Hopper it is not known "
            "to work (set chunkedPrefill: false on the role; prompts must then fit chunkBudgetTokens)"
        )


def fitting(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arguments that this line of the library has, and the names of the others.

    Raises:
        EngineConfigError: one without which the engine cannot serve is among the others.
    """
    dropped = tuple(sorted(set(wanted) - set(known)))
    needed = [name for name in dropped if name in NEEDED]
    if needed:
        raise EngineConfigError(
            f"tensorrt_llm has no {', '.join(needed)}: this version cannot be placed on (use the "
            "release image)"
        )
    return {name: value for name, value in wanted.items() if name in known}, dropped


def _graphs(config: TensorRTLLMConfig) -> dict[str, Any] | None:
    if not config.cuda_graphs:
        return None
    if config.cuda_graph_batch_sizes:
        return {"enable_padding": True, "batch_sizes": list(config.cuda_graph_batch_sizes)}
    return {"enable_padding": True, "max_batch_size": min(config.max_batch_size, DECODE_GRAPH_BATCH)}


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Theirs win; objects are merged field by field."""
    out = dict(ours)
    for name, value in theirs.items():
        mine = out.get(name)
        out[name] = {**mine, **value} if isinstance(mine, dict) and isinstance(value, dict) else value
    return out


def _problems(config: TensorRTLLMConfig) -> Iterator[str]:
    given = config.llm_args
    for name in sorted(set(given) & _IN_OPTIONS):
        yield f"{name}: is an option of the engine itself (set engine_options.{name})"
    for name, inside in _IN_OPTIONS_INSIDE.items():
        value = given.get(name)
        for inner in sorted(set(value) & set(inside)) if isinstance(value, dict) else ():
            yield (f"{name}.{inner}: is an option of the engine itself (set engine_options.{inside[inner]})")
    yield from _waiting(config)
    if given.get("stream_interval", 1) != 1:
        yield "stream_interval: must be 1: the end of a pass is seen by its tokens"
    if given.get("enable_iter_perf_stats", True) is not True:
        yield "enable_iter_perf_stats: must be true: passes without tokens are seen by statistics alone"
    if given.get("orchestrator_type") not in {None, "rpc"}:
        yield "orchestrator_type: ray has no statistics (leave it out)"
    scheduler = given.get("scheduler_config")
    policy = scheduler.get("capacity_scheduler_policy") if isinstance(scheduler, dict) else None
    if policy not in {None, "GUARANTEED_NO_EVICT"}:
        yield (
            f"scheduler_config.capacity_scheduler_policy: {policy} pauses or holds requests that were placed "
            "(allowed: GUARANTEED_NO_EVICT)"
        )


def _waiting(config: TensorRTLLMConfig) -> Iterator[str]:
    given = config.llm_args
    wait_ms = given.get("batch_wait_timeout_ms")
    if isinstance(wait_ms, int | float):
        if config.phase == "prefill" and not 0 < wait_ms <= MOST_WAIT_MS:
            yield (
                f"batch_wait_timeout_ms: {wait_ms:g} in a prefill group (allowed: above 0 to "
                f"{MOST_WAIT_MS:g}: 0 splits batches that find the engine idle, more is waited in every pass)"
            )
        if config.phase != "prefill" and wait_ms:
            yield (
                f"batch_wait_timeout_ms: {wait_ms:g} in a {config.phase} group is waited in every pass and "
                "stalls all decodes (allowed: 0)"
            )
    for name in ("batch_wait_timeout_iters", "batch_wait_max_tokens_ratio"):
        if given.get(name):
            yield f"{name}: the engine would hold back batches that the scheduler has released (allowed: 0)"
    overlap_off = given.get("disable_overlap_scheduler")
    if config.phase == "prefill" and overlap_off is False:
        yield (
            "disable_overlap_scheduler: false in a prefill group fetches every batch one pass early "
            "(allowed: true)"
        )
    if config.phase != "prefill" and overlap_off is True:
        yield (
            f"disable_overlap_scheduler: true in a {config.phase} group leaves the GPUs idle between passes, "
            "and the lead of one pass that is declared would be wrong (allowed: false)"
        )
    balance = given.get("attention_dp_config")
    for name, value in balance.items() if isinstance(balance, dict) else ():
        if value and name == "enable_balance":
            yield (
                "attention_dp_config.enable_balance: the engine would hold back prefills until all ranks "
                "have some; staggering does that outside (allowed: false)"
            )
        if value is True and "routing" in name:
            yield f"attention_dp_config.{name}: requests would leave their rank (allowed: false)"
