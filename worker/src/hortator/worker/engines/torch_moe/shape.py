"""The architecture of a model, as stored in the metadata of its weight file.

A DeepSeek-style decoder: RMSNorm before each half-layer, rotary grouped-query attention, the first
`num_dense_layers` layers with a dense SwiGLU and all others with one shared expert plus `num_routed_experts`
routed ones, of which each token takes `experts_per_token`. Input and output embeddings are tied.
This module does not import torch, so that the engine can size things before a rank exists.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

_METADATA_KEY = "shape"
_MAX_HEADER_BYTES = 1 << 20


class WeightFileError(ValueError):
    """The weight file is missing, no safetensors file, or does not say which model it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a model. All sizes are numbers of elements."""

    name: str = "shakespeare-moe"
    vocab_size: int = 2048
    dim: int = 192
    num_layers: int = 5
    num_dense_layers: int = 1
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 32
    dense_hidden: int = 512
    num_routed_experts: int = 12
    experts_per_token: int = 2
    expert_hidden: int = 88
    shared_hidden: int = 128
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    max_sequence_tokens: int = 1024
    eos_token_id: int = 0

    @property
    def num_moe_layers(self) -> int:
        """Layers with routed experts."""
        return self.num_layers - self.num_dense_layers

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache one token takes over all layers (float32)."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim * 4

    def to_metadata(self) -> dict[str, str]:
        """The entry for the metadata of a safetensors file."""
        return {_METADATA_KEY: json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Self:
        """Read the shape back. Raises WeightFileError when it is absent or has other fields."""
        if _METADATA_KEY not in metadata:
            raise WeightFileError(f"the weight file's metadata has no {_METADATA_KEY!r} entry")
        values = json.loads(metadata[_METADATA_KEY])
        if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
            raise WeightFileError("the weight file's shape does not have the fields of this version")
        return cls(**values)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read only the header of a safetensors file: 8 bytes of length, then JSON."""
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 0 < length <= _MAX_HEADER_BYTES:
                    raise WeightFileError(f"{path.name} is not a safetensors file")
                header = json.loads(file.read(length))
        except (OSError, ValueError) as error:
            raise WeightFileError(f"cannot read the weight file {path}: {error}") from error
        return cls.from_metadata(header.get("__metadata__", {}))
