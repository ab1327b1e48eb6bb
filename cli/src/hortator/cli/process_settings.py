"""An LLMService as the settings of the processes that serve it on one machine.

Each function gives one process's settings as JSON values: the fields of `SchedulerProcessSettings`,
`WorkerSettings` and `GatewaySettings`. What does not depend on the machine comes from
`hortator.api.processes`; here are ports, paths, and what a small machine needs otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hortator.api import processes
from hortator.api.v1alpha1 import LLMService, RoleSpec
from hortator.cli.errors import CommandError
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.torch_moe.assets import builtin_tokenizer_path, builtin_weights_path
from hortator.worker.engines.torch_moe.shape import ModelShape, WeightFileError

Settings = Mapping[str, object]

GATEWAY_DRAIN_S = 30.0
"""What a stop lets running requests take; after the gateway has drained, nothing is left for the others."""
FOLLOWER_DRAIN_S = 2.0
GATE_IDLE_S, GATE_IDLE_SHARE = 0.3, 0.3
"""On one machine a single gateway sends a whole batch, on cores that it shares with the engines: its members
arrive over a longer time than from many gateways, and splitting the batch for it costs more than the wait."""


def scheduler(
    service: LLMService, *, port: int, log_level: str, record_to: Path | None, standby: bool = False
) -> Settings:
    """Settings of a scheduler; `port` 0 lets the kernel choose, `standby`: there are several."""
    settings: dict[str, object] = {
        "port": port,
        "standby": standby,
        "log_level": log_level,
        "drain_timeout_s": FOLLOWER_DRAIN_S,
        "core": processes.scheduler_core(service),
    }
    if record_to is not None:
        settings["events_path"] = str(record_to)
    return settings


def worker(
    service: LLMService,
    *,
    role_name: str,
    worker_id: str,
    scheduler_addresses: Sequence[str],
    log_level: str,
) -> Settings:
    """Settings of the worker of one EP group.

    Raises:
        CommandError: the engine cannot do what the role asks for.
    """
    role = next(role for role in service.spec.roles if role.name == role_name)
    return {
        "worker_id": worker_id,
        "phase": role.name.lower(),
        "scheduler_addresses": list(scheduler_addresses),
        "log_level": log_level,
        "drain_timeout_s": FOLLOWER_DRAIN_S,
        "gate_max_idle_s": GATE_IDLE_S,
        "gate_idle_share": GATE_IDLE_SHARE,
        **_engine(service, role),
    }


def gateway(
    service: LLMService, *, port: int, scheduler_addresses: Sequence[str], log_level: str
) -> Settings:
    """Settings of the gateway; `port` 0 lets the kernel choose."""
    is_torch = service.spec.engine.backend == "TorchMoE"
    return {
        "port": port,
        "scheduler_addresses": list(scheduler_addresses),
        "log_level": log_level,
        "drain_timeout_s": GATEWAY_DRAIN_S,
        **processes.gateway(
            service,
            model_sequence_tokens=_model_sequence_tokens(service),
            tokenizer=str(_model_files(service)[1]) if is_torch else processes.BYTES_TOKENIZER,
        ),
    }


def max_sequence_tokens(service: LLMService) -> int:
    """Prompt plus output tokens that every role and the model itself can take."""
    return processes.sequence_limit(service, model_sequence_tokens=_model_sequence_tokens(service))


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
            _engine(service, role)
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


def _engine(service: LLMService, role: RoleSpec) -> Settings:
    is_torch = service.spec.engine.backend == "TorchMoE"
    if is_torch and not role.chunked_prefill:
        index = service.spec.roles.index(role)
        raise CommandError(
            f"spec.roles[{index}].chunkedPrefill: got false, but TorchMoE splits prompts (allowed: true)"
        )
    return processes.engine(
        service,
        role,
        model_sequence_tokens=_model_sequence_tokens(service),
        weights_path=str(_model_files(service)[0]) if is_torch else None,
    )


def _model_sequence_tokens(service: LLMService) -> int:
    if service.spec.engine.backend == "TorchMoE":
        return _shape(service).max_sequence_tokens
    return SimulatedConfig().max_sequence_tokens


def _shape(service: LLMService) -> ModelShape:
    try:
        return ModelShape.from_file(_model_files(service)[0])
    except WeightFileError as error:
        raise CommandError(f"spec.model.uri: {error}") from None


def _model_files(service: LLMService) -> tuple[Path, Path]:
    """Weights and tokenizer."""
    uri = service.spec.model.uri
    if uri == processes.BUILTIN_MODEL:
        return builtin_weights_path(), builtin_tokenizer_path()
    folder = processes.model_folder(service)
    if folder is None:
        raise CommandError(
            f"spec.model.uri: got {uri!r} (allowed with TorchMoE: {processes.BUILTIN_MODEL}, file:///DIR)"
        )
    files = Path(folder / "model.safetensors"), Path(folder / "tokenizer.json")
    for file in files:
        if not file.is_file():
            raise CommandError(f"spec.model.uri: {uri}: no {file.name} there")
    return files
