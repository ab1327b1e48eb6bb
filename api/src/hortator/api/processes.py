"""What an LLMService tells its processes, wherever they run: the settings that do not depend on the machine.

Field names and units differ between a manifest (what is wanted) and a process (what it is told); this module
is the only place that knows both. `hortator up` adds local ports and paths, the operator adds host names and
environment variables. A model is one of:

    builtin://moe-shakespeare   the small MoE that comes with Hortator (TorchMoE)
    file:///DIR                 DIR/model.safetensors and DIR/tokenizer.json (TorchMoE)
    anything else               made-up tokens of the cost model (Simulated); text is bytes, printable ASCII
                                comes back

On a cluster weights may lie on a volume that is mounted at CACHE_FOLDER: pvc://CLAIM/FOLDER names one, and
`model.cache` keeps an hf:// model on one, in a folder per revision.

The options of the TensorRT-LLM engine are written with that library's own names.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from pathlib import PurePosixPath

from pydantic import JsonValue

from hortator.api.v1alpha1 import Backend, LLMService, RoleSpec, TensorRTLLMSpec

Values = Mapping[str, object]
"""Fields of one process's settings, as JSON values."""

BUILTIN_MODEL = "builtin://moe-shakespeare"
BUILTIN_SEQUENCE_TOKENS = 1024
"""What the builtin model was trained with."""
BUILTIN_EXPERTS = 12
"""Routed experts of the builtin model; DP ranks must divide them."""
SIMULATED_SEQUENCE_TOKENS = 131072
"""What the modelled engine takes when the manifest says nothing."""
ASSUMED_SEQUENCE_TOKENS = 131072
"""Of a model that is not looked into, where no role says maxSequenceTokens."""
CACHE_FOLDER = "/models"
"""Where pods see the volume with the weights."""
ASCII_FIRST, ASCII_END = 32, 127
BYTES_TOKENIZER = "bytes"
WORKERS_TOKENIZER = "workers"
"""The gateway asks workers for the model's own."""

_ENGINES: dict[Backend, str] = {
    "Simulated": "simulated",
    "TorchMoE": "torch_moe",
    "TensorRTLLM": "tensorrt_llm",
}


def scheduler_core(service: LLMService) -> Values:
    """The settings of the scheduler's core: policy, hold, queue and, where any is given, tenants."""
    spec = service.spec.scheduler
    values: dict[str, object] = {
        "policy": spec.policy,
        "interval_s": spec.interval_s,
        "max_hold_s": spec.max_hold_s,
        "max_waiting_requests": spec.queue.max_requests,
        "max_waiting_tokens": spec.queue.max_tokens,
        "queue_timeout_s": spec.queue.timeout_s,
    }
    if spec.queue.max_wait_s is not None:
        values["max_wait_s"] = spec.queue.max_wait_s
    if spec.queue.tenant_share != 1.0:
        values["max_tenant_share"] = spec.queue.tenant_share
    if spec.tenants:
        values["tenants"] = [tenant.model_dump() for tenant in spec.tenants]
    return values


def engine(
    service: LLMService, role: RoleSpec, *, model_sequence_tokens: int, weights_path: str | None
) -> Values:
    """Which engine a worker hosts, and its options.

    `model_sequence_tokens` is what the model itself can take; `weights_path` is where TorchMoE finds its
    weights, None where the engine knows (the builtin model).
    """
    backend = service.spec.engine.backend
    limit = sequence_limit(service, model_sequence_tokens=model_sequence_tokens)
    match backend:
        case "TorchMoE":
            options = _torch_moe(service, role, weights_path)
        case "Simulated":
            options = _simulated(service, role, limit)
        case "TensorRTLLM":
            options = _tensorrt_llm(service, role)
    return {"engine": _ENGINES[backend], "engine_options": options}


def gateway(service: LLMService, *, model_sequence_tokens: int, tokenizer: str) -> Values:
    """What a gateway checks requests against; `tokenizer` is a path, `bytes`, or `workers`."""
    first = service.spec.roles[0]
    return {
        "model": service.model_name,
        "tokenizer": tokenizer,
        "max_sequence_tokens": sequence_limit(service, model_sequence_tokens=model_sequence_tokens),
        "tokens_per_block": first.tokens_per_block,
        "chunk_budget_tokens": first.chunk_budget_tokens,
        "chunked_prefill": first.chunked_prefill,
        "queue_timeout_s": service.spec.scheduler.queue.timeout_s,
    }


def sequence_limit(service: LLMService, *, model_sequence_tokens: int) -> int:
    """Prompt plus output tokens that every role and the model itself can take."""
    asked = [role.max_sequence_tokens or model_sequence_tokens for role in service.spec.roles]
    return min([model_sequence_tokens, *asked])


def model_folder(service: LLMService) -> PurePosixPath | None:
    """The folder that a file:// model lies in; None for any other scheme."""
    uri = service.spec.model.uri
    if not uri.startswith("file://"):
        return None
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(uri).path))


def known_sequence_tokens(service: LLMService) -> int:
    """What a model can take, as far as that is known without its weights; roles limit it further."""
    match service.spec.engine.backend:
        case "Simulated":
            return SIMULATED_SEQUENCE_TOKENS
        case "TorchMoE" if service.spec.model.uri == BUILTIN_MODEL:
            return BUILTIN_SEQUENCE_TOKENS
        case _:
            asked = [role.max_sequence_tokens for role in service.spec.roles if role.max_sequence_tokens]
            return max(asked, default=ASSUMED_SEQUENCE_TOKENS)


def cached_model(service: LLMService) -> str | None:
    """The folder in the cache that an hf:// model is downloaded to; None when nothing is."""
    model = service.spec.model
    if model.cache is None or not model.uri.startswith("hf://"):
        return None
    folder = f"{model.uri.removeprefix('hf://')}@{model.revision or 'main'}"
    return f"{CACHE_FOLDER}/{folder.replace('/', '--')}"


def model_source(service: LLMService) -> str:
    """Where an engine on a cluster reads the weights: a folder, or the URI to fetch them from."""
    uri = service.spec.model.uri
    if uri.startswith("pvc://"):
        return f"{CACHE_FOLDER}/{uri.removeprefix('pvc://').partition('/')[2]}".rstrip("/")
    folder = model_folder(service)
    return cached_model(service) or (str(folder) if folder else uri)


def _torch_moe(service: LLMService, role: RoleSpec, weights_path: str | None) -> Values:
    options: dict[str, object] = {
        "dp_size": role.parallelism.attention_dp,
        "chunk_budget_tokens": role.chunk_budget_tokens,
        "max_batch_size": role.max_batch_size,
        "tokens_per_block": role.tokens_per_block,
    }
    if weights_path is not None:
        options["weights_path"] = weights_path
    options["model_name"] = service.model_name
    if role.kv_blocks is not None:
        options["kv_blocks"] = role.kv_blocks
    return options


def _simulated(service: LLMService, role: RoleSpec, max_sequence_tokens: int) -> Values:
    spec = service.spec.engine.simulated_options
    return {
        "preset": spec.preset,
        "time_scale": spec.time_scale,
        "expert_skew": spec.expert_skew,
        "seed": spec.seed,
        "dp_size": role.parallelism.attention_dp,
        "gpus_per_node": role.gpus_per_node,
        "chunk_budget_tokens": role.chunk_budget_tokens,
        "chunked_prefill": role.chunked_prefill,
        "max_batch_size": role.max_batch_size,
        "tokens_per_block": role.tokens_per_block,
        "kv_blocks_total": role.kv_blocks,
        "max_sequence_tokens": max_sequence_tokens,
        "model_name": service.model_name,
        "vocab_size": ASCII_END,
        "first_token_id": ASCII_FIRST,
        **({} if role.kv_cache_dtype == "auto" else {"kv_cache_dtype": role.kv_cache_dtype}),
    }


def _tensorrt_llm(service: LLMService, role: RoleSpec) -> Values:
    """Under attention DP the library's tensor-parallel group is the DP group; sizes are per DP rank."""
    split = role.parallelism
    options: dict[str, object] = {
        "model": model_source(service),
        "model_name": service.model_name,
        "revision": service.spec.model.revision,
        "tensor_parallel_size": split.attention_dp * split.tensor,
        "pipeline_parallel_size": split.pipeline,
        "moe_expert_parallel_size": split.expert,
        "moe_tensor_parallel_size": split.expert_tensor,
        "enable_attention_dp": split.attention_dp > 1,
        "gpus_per_node": role.gpus_per_node,
        "max_num_tokens": role.chunk_budget_tokens,
        "max_batch_size": role.max_batch_size,
        "tokens_per_block": role.tokens_per_block,
        "enable_chunked_prefill": role.chunked_prefill,
        "max_seq_len": role.max_sequence_tokens,
        "kv_blocks": role.kv_blocks,
    }
    if role.tensorrt_llm is not None:
        options |= _tensorrt_llm_options(role.tensorrt_llm)
    return {name: value for name, value in options.items() if value is not None}


def _tensorrt_llm_options(spec: TensorRTLLMSpec) -> dict[str, object]:
    options: dict[str, object] = {
        "kv_cache_dtype": spec.kv_cache_dtype,
        "free_gpu_memory_fraction": spec.memory_fraction,
        "moe_backend": spec.moe_backend,
        "mtp_layers": spec.mtp_layers,
        "cuda_graphs": spec.cuda_graph.enabled,
        "cuda_graph_batch_sizes": sorted(set(spec.cuda_graph.batch_sizes)) or None,
    }
    further: dict[str, JsonValue] = {}
    for arg in sorted(spec.args, key=lambda one: one.name):
        name, _, inner = arg.name.partition(".")
        config = further.get(name)
        further[name] = arg.parsed
        if inner:
            further[name] = {**config, inner: arg.parsed} if isinstance(config, dict) else {inner: arg.parsed}
    return options | ({"llm_args": further} if further else {})
