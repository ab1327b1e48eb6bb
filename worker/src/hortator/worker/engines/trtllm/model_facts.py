"""What a model says of itself: vocabulary, longest sequence, end token, kind of attention, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hortator.runtime.tokenizer_files import NAMES, TOKENIZER, tokenizer_files_in
from hortator.worker.engine import EngineDeadError
from hortator.worker.engines.trtllm.config import TensorRTLLMConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the engine must know of a model to declare itself."""

    vocab_size: int
    max_seq_len: int
    end_id: int
    """-1: none is known; requests then end at their length or at a stop token."""
    is_mla: bool
    """Multi-head latent attention, as in DeepSeek-V3."""


def model_facts(config: TensorRTLLMConfig) -> ModelFacts:
    """From the options, and from the model where they say nothing.

    Raises:
        EngineDeadError: there is no such model, or it does not say what is needed.
    """
    source = Path(config.model_source)
    missing = missing_folder(config)
    if missing:
        raise EngineDeadError(missing)
    is_told = None not in {config.vocab_size, config.max_seq_len, config.end_id}
    if is_told and not source.is_dir():
        values: Mapping[str, Any] = {}
    else:
        values = _read(config, source)
    return ModelFacts(
        vocab_size=_number("vocab_size", config.vocab_size, values.get("vocab_size")),
        max_seq_len=_number("max_seq_len", config.max_seq_len, values.get("max_position_embeddings")),
        end_id=config.end_id if config.end_id is not None else _first(values.get("eos_token_id")),
        is_mla="kv_lora_rank" in values,
    )


def missing_folder(config: TensorRTLLMConfig) -> str:
    """What is wrong with a model that is a path; empty: nothing that can be seen from here."""
    source = Path(config.model_source)
    if source.is_absolute() and not source.is_dir():
        return f"model: {source} is not a folder in this container (is its volume mounted?)"
    return ""


def tokenizer_files(config: TensorRTLLMConfig) -> tuple[Path, ...]:
    """What the model has of them; none where there is no tokenizer.

    Of a model on the hub the library has fetched a whole revision by then: nothing more is fetched.
    """
    source = Path(config.model_source)
    if source.is_dir():
        return tokenizer_files_in(source)
    found = []
    for name in NAMES:
        try:
            found.append(_from_hub(config, name, fetched_already=True))
        except EngineDeadError:
            if name == TOKENIZER:
                return ()
    return tuple(found)


def _read(config: TensorRTLLMConfig, folder: Path) -> Mapping[str, Any]:
    file = folder / "config.json"
    if not folder.is_dir():
        file = _from_hub(config, "config.json")
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise EngineDeadError(f"model: {file} cannot be read: {error}") from None
    return values if isinstance(values, dict) else {}


def _from_hub(config: TensorRTLLMConfig, file: str, *, fetched_already: bool = False) -> Path:
    """The library brings its own client of the hub."""
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415
    except ImportError:
        raise EngineDeadError(
            f"model: {config.model_source} is not a folder, and huggingface_hub is not installed"
        ) from None
    try:
        found = hf_hub_download(
            config.model_source, file, revision=config.revision, local_files_only=fetched_already
        )
    except Exception as error:
        raise EngineDeadError(f"model: {config.model_source} cannot be fetched: {error}") from error
    return Path(found)


def _number(name: str, told: int | None, found: Any) -> int:
    if told is not None:
        return told
    if isinstance(found, int):
        return found
    raise EngineDeadError(f"{name}: the model's config.json does not say it (set the engine option {name})")


def _first(value: Any) -> int:
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, int) else -1
