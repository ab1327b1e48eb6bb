"""Settings to an Engine. An engine is imported only when it is the one that runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, assert_never

from pydantic import JsonValue, TypeAdapter, ValidationError

from hortator.worker.engine import Engine
from hortator.worker.errors import EngineConfigError
from hortator.worker.settings import EngineKind, WorkerPhase

_C = TypeVar("_C")


def build_engine(
    kind: EngineKind,
    options: Mapping[str, JsonValue],
    *,
    phase: WorkerPhase = WorkerPhase.AGGREGATED,
    num_pods: int = 1,
) -> Engine:
    """Make the engine; it is not started. Raises EngineConfigError, one line per problem.

    `phase` decides how TensorRT-LLM admits requests, and `num_pods` says over how many pods its ranks are
    started; the other engines do not care.
    """
    match kind:
        case EngineKind.SIMULATED:
            from hortator.worker.engines.simulated.config import SimulatedConfig  # noqa: PLC0415
            from hortator.worker.engines.simulated.engine import SimulatedEngine  # noqa: PLC0415

            return _build(SimulatedEngine, SimulatedConfig, options)
        case EngineKind.TORCH_MOE:
            from hortator.worker.engines.torch_moe.config import TorchMoEConfig  # noqa: PLC0415
            from hortator.worker.engines.torch_moe.engine import TorchMoEEngine  # noqa: PLC0415

            return _build(TorchMoEEngine, TorchMoEConfig, options)
        case EngineKind.TENSORRT_LLM:
            from hortator.worker.engines.trtllm import library  # noqa: PLC0415
            from hortator.worker.engines.trtllm.config import TensorRTLLMConfig  # noqa: PLC0415
            from hortator.worker.engines.trtllm.engine import TensorRTLLMEngine  # noqa: PLC0415

            ours: dict[str, JsonValue] = {"phase": phase.value, "num_pods": num_pods}
            engine = _build(TensorRTLLMEngine, TensorRTLLMConfig, ours | dict(options))
            if not library.is_installed():
                raise EngineConfigError(library.MISSING)
            return engine
        case _:
            assert_never(kind)


def read_options(config_type: type[_C], options: Mapping[str, JsonValue]) -> _C:
    """Options to a configuration dataclass. Raises EngineConfigError, one line per problem."""
    allowed = {field.name for field in dataclasses.fields(config_type) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(options) - allowed)
    if unknown:
        names = ", ".join(sorted(allowed))
        problems = [f"engine_options.{name}: unknown option (allowed: {names})" for name in unknown]
        raise EngineConfigError("\n".join(problems))
    try:
        return TypeAdapter(config_type).validate_python(dict(options))
    except ValidationError as error:
        problems = [
            f"engine_options.{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}, "
            f"got {problem['input']!r}"
            for problem in error.errors()
        ]
        raise EngineConfigError("\n".join(problems)) from None
    except ValueError as error:
        raise EngineConfigError(f"engine_options: {error}") from None


def _build(engine_type: Any, config_type: type[_C], options: Mapping[str, JsonValue]) -> Engine:
    config = read_options(config_type, options)
    try:
        engine: Engine = engine_type(config)
    except ValueError as error:
        raise EngineConfigError(f"engine_options: {error}") from error
    return engine
