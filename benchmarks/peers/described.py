"""The engine in the words of other projects: what it is, and the load of its ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hortator.worker.engine import EngineInfo, RankLoad

SPOKEN_VERSION = "0.5.8"
"""Of SGLang, whose interface this is."""


def models(info: EngineInfo) -> Any:
    """OpenAI's list of models."""
    model = {"id": info.model_name, "object": "model", "owned_by": "hortator", "created": 0}
    details = {"root": info.model_name, "max_model_len": info.max_sequence_tokens}
    return {"object": "list", "data": [model | details]}


def server_info(info: EngineInfo, *, num_ranks: int) -> Any:
    """What an SGLang server was started with."""
    return {
        "model_path": info.model_name,
        "served_model_name": info.model_name,
        "tokenizer_path": "",
        "dp_size": num_ranks,
        "tp_size": num_ranks,
        "load_balance_method": "round_robin",
        "max_running_requests": num_ranks * info.max_batch_size,
        "max_total_num_tokens": info.kv_blocks_total * info.tokens_per_block,
        "chunked_prefill_size": info.chunk_budget_tokens,
        "context_length": info.max_sequence_tokens,
        "version": SPOKEN_VERSION,
    }


def model_info(info: EngineInfo) -> Any:
    """What an SGLang server serves."""
    return {
        "model_path": info.model_name,
        "served_model_name": info.model_name,
        "is_generation": True,
        "max_context_length": info.max_sequence_tokens,
        "vocab_size": info.vocab_size,
    }


def loads(info: EngineInfo, ranks: Sequence[RankLoad]) -> Any:
    """Every rank as SGLang describes it; waiting tokens are those that are not computed yet."""
    return {
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": SPOKEN_VERSION,
        "dp_rank_count": len(ranks),
        "loads": [_load(info, index, rank) for index, rank in enumerate(ranks)],
        "aggregate": {
            "total_running_reqs": sum(rank.batch_size for rank in ranks),
            "total_waiting_reqs": sum(rank.num_waiting for rank in ranks),
            "total_reqs": num_requests(ranks),
        },
    }


def load_list(ranks: Sequence[RankLoad]) -> Any:
    """The same in the former form, /get_load."""
    return [
        {
            "dp_rank": index,
            "num_reqs": num_requests([rank]),
            "num_waiting_reqs": rank.num_waiting,
            "num_tokens": rank.prefill_load_tokens,
        }
        for index, rank in enumerate(ranks)
    ]


def num_requests(ranks: Sequence[RankLoad]) -> int:
    """Requests that have not ended."""
    return sum(rank.batch_size + rank.num_waiting for rank in ranks)


def _load(info: EngineInfo, index: int, rank: RankLoad) -> Any:
    return {
        "dp_rank": index,
        "num_running_reqs": rank.batch_size,
        "num_waiting_reqs": rank.num_waiting,
        "num_waiting_uncached_tokens": rank.prefill_load_tokens,
        "num_total_reqs": num_requests([rank]),
        "num_used_tokens": rank.kv_blocks_used * info.tokens_per_block,
        "max_total_num_tokens": info.kv_blocks_total * info.tokens_per_block,
        "token_usage": rank.kv_blocks_used / info.kv_blocks_total,
        "gen_throughput": 0.0,
        "cache_hit_rate": 0.0,
        "utilization": rank.batch_size / info.max_batch_size,
        "max_running_requests": info.max_batch_size,
    }
