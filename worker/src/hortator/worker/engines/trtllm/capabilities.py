"""What this line of TensorRT-LLM has, found out once at start; each thing is logged as found or missing.

Nothing is concluded from a version number: fields, signatures and attributes are looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from hortator.worker.engines.trtllm.config import StatsReader, TensorRTLLMConfig
from hortator.worker.engines.trtllm.library import Library


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the log."""

    what: str
    is_found: bool
    meaning: str
    """What the adapter does because of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What may be used."""

    cache_salt: bool
    """Prompts of different tenants can be kept apart; without it KV blocks are not reused at all."""
    stop_token_kept: bool
    """The library can be told to return the stop token."""
    health: bool
    fatal_error: bool
    stats_reader: Literal["sync", "async"]
    findings: tuple[Finding, ...]


def probe_library(library: Library) -> tuple[Finding, ...]:
    """Before there is an engine: the classes alone."""
    names = _fields(library.scheduling_params)
    disaggregated = _fields(library.disaggregated_params)
    return (
        Finding(
            what="SchedulingParams.attention_dp_rank",
            is_found={"attention_dp_rank", "attention_dp_relax"} <= names,
            meaning="requests are pinned to DP ranks",
        ),
        Finding(
            what="DisaggregatedParams.opaque_state",
            is_found={"request_type", "first_gen_tokens", "ctx_request_id", "opaque_state"} <= disaggregated,
            meaning="KV can be handed over between groups",
        ),
    )


def probe_engine(llm: Any, library: Library, config: TensorRTLLMConfig) -> Capabilities:
    """With the engine up: signatures and attributes."""
    parameters: Mapping[str, Any] = inspect.signature(llm.generate_async).parameters
    executor = getattr(llm, "_executor", None)
    cache_salt = "cache_salt" in parameters
    stop_kept = "include_stop_str_in_output" in _fields(library.sampling_params)
    health = callable(getattr(llm, "_check_health", None))
    fatal = hasattr(executor, "_fatal_error")
    reader = _reader(config.stats_reader, executor)
    capacity = callable(getattr(llm, "get_kv_cache_capacity", None))
    findings = (
        *probe_library(library),
        Finding(
            what="generate_async(scheduling_params=)",
            is_found="scheduling_params" in parameters,
            meaning="without it nothing can be placed",
        ),
        Finding(
            what="generate_async(cache_salt=)",
            is_found=cache_salt,
            meaning="KV blocks are reused, tenants apart" if cache_salt else "KV blocks are not reused",
        ),
        Finding(
            what="SamplingParams.include_stop_str_in_output",
            is_found=stop_kept,
            meaning="stop tokens come from the engine" if stop_kept else "stop tokens are put back by us",
        ),
        Finding(
            what="LLM._check_health",
            is_found=health,
            meaning="asked by the watchdog" if health else "health is unknown; progress alone is watched",
        ),
        Finding(
            what="executor._fatal_error",
            is_found=fatal,
            meaning="read by the watchdog" if fatal else "fatal errors show in results alone",
        ),
        Finding(
            what="LLM.get_kv_cache_capacity",
            is_found=capacity,
            meaning="tells KV blocks" if capacity else "KV blocks are told by rank 0's statistics",
        ),
        Finding(
            what="statistics over RPC",
            is_found=reader == "sync",
            meaning="rows are read with short timeouts" if reader == "sync" else "rows are read one by one",
        ),
    )
    return Capabilities(
        cache_salt=cache_salt,
        stop_token_kept=stop_kept,
        health=health,
        fatal_error=fatal,
        stats_reader=reader,
        findings=findings,
    )


def ranked_rows(rows_have_ranks: bool) -> Finding:
    """Known after the first row."""
    return Finding(
        what="statistics rows with a rank",
        is_found=rows_have_ranks,
        meaning="batches of ranks are checked against them"
        if rows_have_ranks
        else "rows tell of rank 0; what is reported of ranks is our own account (estimated)",
    )


def _reader(wanted: StatsReader, executor: Any) -> Literal["sync", "async"]:
    if wanted != "auto":
        return wanted
    return "sync" if "rpc" in type(executor).__name__.lower() else "async"


def _fields(params: Any) -> set[str]:
    try:
        return {field.name for field in fields(params)}
    except TypeError:
        return set(inspect.signature(params).parameters)
