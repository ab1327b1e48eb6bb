"""An LLMService as the settings of the processes that serve it on one machine.

Each function gives one process's settings as JSON values: the fields of `SchedulerProcessSettings`,
`WorkerSettings` and `GatewaySettings`. Field names and units differ between a manifest (what is wanted) and a
process (what it is told); this module is the only place that knows both.

A model is one of:

    builtin://moe-shakespeare   the small MoE that comes with Hortator (TorchMoE)
    file:///DIR                 DIR/model.safetensors and DIR/tokenizer.json (TorchMoE)
    anything else               made-up tokens of the cost model (Simulated); text is bytes, printable ASCII
    comes back
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from hortator.api.v1alpha1 import LLMService, RoleSpec
from hortator.cli.errors import CommandError
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.torch_moe.assets import builtin_tokenizer_path, builtin_weights_path
from hortator.worker.engines.torch_moe.shape import ModelShape, WeightFileError

Settings = Mapping[str, object]

BUILTIN_MODEL = "builtin://moe-shakespeare"
ASCII_FIRST, ASCII_END = 32, 127
GATEWAY_DRAIN_S = 30.0
"""What a stop lets running requests take; after the gateway has drained, nothing is left for the others."""
FOLLOWER_DRAIN_S = 2.0
GATE_IDLE_S, GATE_IDLE_SHARE = 0.3, 0.3
"""On one machine a single gateway sends a whole batch, on cores that it shares with the engines: its members
arrive over a longer time than from many gateways, and splitting the batch for it costs more than the wait."""


def scheduler(service: LLMService, *, port: int, log_level: str, record_to: Path | None) -> Settings:
    """Settings of the scheduler; `port` 0 lets the kernel choose."""
    spec = service.spec.scheduler
    settings: dict[str, object] = {
        "port": port,
        "log_level": log_level,
        "drain_timeout_s": FOLLOWER_DRAIN_S,
        "core": {
            "policy": spec.policy,
            "interval_s": spec.interval_s,
            "max_hold_s": spec.max_hold_s,
            "max_waiting_requests": spec.queue.max_requests,
            "max_waiting_tokens": spec.queue.max_tokens,
            "queue_timeout_s": spec.queue.timeout_s,
        },
    }
    if record_to is not None:
        settings["events_path"] = str(record_to)
    return settings


def worker(
    service: LLMService, *, role_name: str, worker_id: str, scheduler_address: str, log_level: str
) -> Settings:
    """Settings of the worker of one EP group.

    Raises:
        CommandError: the engine cannot do what the role asks for.
    """
    role = next(role for role in service.spec.roles if role.name == role_name)
    is_torch = service.spec.engine.backend == "TorchMoE"
    return {
        "worker_id": worker_id,
        "phase": role.name.lower(),
        "scheduler_addresses": [scheduler_address],
        "log_level": log_level,
        "drain_timeout_s": FOLLOWER_DRAIN_S,
        "gate_max_idle_s": GATE_IDLE_S,
        "gate_idle_share": GATE_IDLE_SHARE,
        "engine": "torch_moe" if is_torch else "simulated",
        "engine_options": _torch_moe(service, role) if is_torch else _simulated(service, role),
    }


def gateway(service: LLMService, *, port: int, scheduler_address: str, log_level: str) -> Settings:
    """Settings of the gateway; `port` 0 lets the kernel choose."""
    first = service.spec.roles[0]
    return {
        "port": port,
        "scheduler_addresses": [scheduler_address],
        "log_level": log_level,
        "drain_timeout_s": GATEWAY_DRAIN_S,
        "model": service.model_name,
        "tokenizer": str(_model_files(service)[1]) if service.spec.engine.backend == "TorchMoE" else "bytes",
        "max_sequence_tokens": max_sequence_tokens(service),
        "tokens_per_block": first.tokens_per_block,
        "chunk_budget_tokens": first.chunk_budget_tokens,
        "chunked_prefill": first.chunked_prefill,
        "queue_timeout_s": service.spec.scheduler.queue.timeout_s,
    }


def max_sequence_tokens(service: LLMService) -> int:
    """Prompt plus output tokens that every role and the model itself can take."""
    if service.spec.engine.backend == "TorchMoE":
        limit = _shape(service).max_sequence_tokens
    else:
        limit = SimulatedConfig().max_sequence_tokens
    return min([limit, *(role.max_sequence_tokens or limit for role in service.spec.roles)])


def check(service: LLMService, *, source: str) -> None:
    """What can be known to fail before any process starts.

    Raises:
        CommandError: naming `source` (the manifest) and the field.
    """
    if service.spec.engine.backend != "TorchMoE":
        return
    try:
        shape = _shape(service)
        _model_files(service)
        for role in service.spec.roles:
            _torch_moe(service, role)
    except CommandError as error:
        raise CommandError([f"{source}: {line}" for line in error.lines]) from None
    for index, role in enumerate(service.spec.roles):
        if shape.num_routed_experts % role.parallelism.attention_dp:
            sizes = [n for n in range(1, shape.num_routed_experts + 1) if shape.num_routed_experts % n == 0]
            raise CommandError(
                f"{source}: spec.roles[{index}].parallelism.attentionDP: "
                f"got {role.parallelism.attention_dp}, "
                f"but {shape.name} has {shape.num_routed_experts} routed experts "
                f"(allowed: {', '.join(map(str, sizes))})"
            )


def _torch_moe(service: LLMService, role: RoleSpec) -> Settings:
    if not role.chunked_prefill:
        index = service.spec.roles.index(role)
        raise CommandError(
            f"spec.roles[{index}].chunkedPrefill: got false, but TorchMoE splits prompts (allowed: true)"
        )
    options: dict[str, object] = {
        "dp_size": role.parallelism.attention_dp,
        "chunk_budget_tokens": role.chunk_budget_tokens,
        "max_batch_size": role.max_batch_size,
        "tokens_per_block": role.tokens_per_block,
        "weights_path": str(_model_files(service)[0]),
        "model_name": service.model_name,
    }
    if role.kv_blocks is not None:
        options["kv_blocks"] = role.kv_blocks
    return options


def _simulated(service: LLMService, role: RoleSpec) -> Settings:
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
        "max_sequence_tokens": max_sequence_tokens(service),
        "model_name": service.model_name,
        "vocab_size": ASCII_END,
        "first_token_id": ASCII_FIRST,
    }


def _shape(service: LLMService) -> ModelShape:
    try:
        return ModelShape.from_file(_model_files(service)[0])
    except WeightFileError as error:
        raise CommandError(f"spec.model.uri: {error}") from None


def _model_files(service: LLMService) -> tuple[Path, Path]:
    """Weights and tokenizer."""
    uri = service.spec.model.uri
    if uri == BUILTIN_MODEL:
        return builtin_weights_path(), builtin_tokenizer_path()
    if uri.startswith("file://"):
        folder = Path(urllib.parse.unquote(urllib.parse.urlsplit(uri).path))
        files = folder / "model.safetensors", folder / "tokenizer.json"
        for file in files:
            if not file.is_file():
                raise CommandError(f"spec.model.uri: {uri}: no {file.name} there")
        return files
    raise CommandError(f"spec.model.uri: got {uri!r} (allowed with TorchMoE: {BUILTIN_MODEL}, file:///DIR)")
