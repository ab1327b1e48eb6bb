"""Where the built-in model lies. Importable without torch: the gateway needs the tokenizer only."""

from __future__ import annotations

from pathlib import Path

_WEIGHTS_DIR = Path(__file__).parent / "weights"


def builtin_weights_path() -> Path:
    """The weights trained by hack/train-moe: safetensors, float16, the model's shape in its metadata."""
    return _WEIGHTS_DIR / "shakespeare-moe.safetensors"


def builtin_tokenizer_path() -> Path:
    """The byte-level BPE those weights were trained with, as JSON of the `tokenizers` library."""
    return _WEIGHTS_DIR / "tokenizer.json"
