"""Settings of the engine and their validation, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hortator.worker.engines.torch_moe.assets import builtin_weights_path
from hortator.worker.engines.torch_moe.shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchMoEConfig:
    """How one EP group runs. Prefill and decode groups take the same settings."""

    dp_size: int = 2
    """DP ranks, each a process; the experts are sharded over all of them, so it must divide their number."""
    chunk_budget_tokens: int = 256
    """Prefill tokens per DP rank per forward pass."""
    max_batch_size: int = 16
    """Running requests per DP rank."""
    kv_blocks: int = 512
    """KV blocks per DP rank."""
    tokens_per_block: int = 16
    prefix_cache: bool = True
    weights_path: Path = field(default_factory=builtin_weights_path)
    model_name: str = ""
    """Name to report; empty takes the one in the weight file."""
    collective_timeout_s: float = 10.0
    """A rank that waits longer than this for the others gives up, and with it the group."""
    start_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Raise ValueError, naming the field, for a size or a time that makes no sense."""
        for name in ("dp_size", "chunk_budget_tokens", "max_batch_size", "kv_blocks", "tokens_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("collective_timeout_s", "start_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0 s, not {getattr(self, name)}")

    def check_fits(self, shape: ModelShape) -> None:
        """Raise ValueError when these settings cannot run a model of this shape."""
        experts = shape.num_routed_experts
        if experts % self.dp_size:
            allowed = ", ".join(str(size) for size in range(1, experts + 1) if experts % size == 0)
            raise ValueError(
                f"dp_size must divide the {experts} routed experts of {shape.name!r} "
                f"({allowed}), not {self.dp_size}"
            )
