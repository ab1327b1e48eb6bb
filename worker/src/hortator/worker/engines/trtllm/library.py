"""`tensorrt_llm`, imported when the engine starts and by nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hortator.worker.engine import EngineDeadError

PACKAGE = "tensorrt_llm"
OLDEST = (1, 2)
MISSING = (
    "engine: tensorrt_llm is not installed here; run the worker in the image hortator-worker-trtllm "
    "(on nvcr.io/nvidia/tensorrt-llm/release), or install the extra hortator[trtllm] beside it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """The names of the library that the adapter uses."""

    version: str
    llm: Any
    sampling_params: Any
    scheduling_params: Any
    disaggregated_params: Any
    request_error: type[Exception]
    """One request failed; any other exception of a result means that the engine did."""
    arguments: Mapping[str, Any]
    """Fields of `TorchLlmArgs` by name."""


def is_installed() -> bool:
    """Without importing it: that takes seconds and touches the GPU."""
    return importlib.util.find_spec(PACKAGE) is not None


def load() -> Library:
    """Import it. Raises EngineDeadError: missing, broken or too old."""
    if not is_installed():
        raise EngineDeadError(MISSING)
    try:
        top = importlib.import_module(PACKAGE)
        version = str(top.__version__)
        _check_age(version)
        llmapi = importlib.import_module(f"{PACKAGE}.llmapi")
        args = importlib.import_module(f"{PACKAGE}.llmapi.llm_args")
        utils = importlib.import_module(f"{PACKAGE}.executor.utils")
        return Library(
            version=version,
            llm=top.LLM,
            sampling_params=top.SamplingParams,
            scheduling_params=_named("SchedulingParams", llmapi, top),
            disaggregated_params=_named("DisaggregatedParams", llmapi, top),
            request_error=_named("RequestError", utils, llmapi),
            arguments=dict(args.TorchLlmArgs.model_fields),
        )
    except EngineDeadError:
        raise
    except Exception as error:
        raise EngineDeadError(f"tensorrt_llm cannot be imported: {type(error).__name__}: {error}") from error


def _check_age(version: str) -> None:
    if _numbers(version) < OLDEST:
        raise EngineDeadError(
            f"tensorrt_llm {version} is too old: strict placement on DP ranks and salted KV reuse need "
            f"{'.'.join(map(str, OLDEST))} or newer (use the release image)"
        )


def _named(name: str, *modules: Any) -> Any:
    for module in modules:
        found = getattr(module, name, None)
        if found is not None:
            return found
    raise EngineDeadError(f"tensorrt_llm has no {name}: this line of the library is not known")


def _numbers(version: str) -> tuple[int, ...]:
    """(1, 3) of 1.3.0rc20; an unknown form counts as new."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found.group(1)), int(found.group(2))) if found else (99, 0)
