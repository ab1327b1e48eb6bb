"""The weights one rank holds: everything but the experts in full, and its share of the routed experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors import safe_open
from torch import Tensor

from hortator.worker.engines.torch_moe.shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEWeights:
    """The expert half of a layer. `expert_*` are stacked over this rank's experts only."""

    router: Tensor
    router_bias: Tensor
    expert_gate_up: Tensor
    expert_down: Tensor
    shared_gate_up: Tensor
    shared_down: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer; exactly one of `dense` (gate_up, down) and `moe` is there."""

    attention_norm: Tensor
    qkv: Tensor
    q_norm: Tensor
    k_norm: Tensor
    out: Tensor
    ffn_norm: Tensor
    dense: tuple[Tensor, Tensor] | None
    moe: MoEWeights | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWeights:
    """All weights of one rank, float32."""

    shape: ModelShape
    embed: Tensor
    final_norm: Tensor
    layers: tuple[LayerWeights, ...]

    @classmethod
    def load(cls, path: Path, *, dp_rank: int, dp_size: int) -> Self:
        """Read a weight file, and of its experts only those of this rank."""
        shape = ModelShape.from_file(path)
        num_local = shape.num_routed_experts // dp_size
        local = slice(dp_rank * num_local, (dp_rank + 1) * num_local)
        with safe_open(path, framework="pt") as file:

            def get(name: str) -> Tensor:
                if ".expert_" in name:
                    return file.get_slice(name)[local].float().contiguous()  # type: ignore[no-any-return]
                return file.get_tensor(name).float()  # type: ignore[no-any-return]

            layers = tuple(_layer(shape, index, get) for index in range(shape.num_layers))
            return cls(shape=shape, embed=get("embed"), final_norm=get("final_norm"), layers=layers)


def _layer(shape: ModelShape, index: int, get: Callable[[str], Tensor]) -> LayerWeights:
    def of(name: str) -> Tensor:
        return get(f"layers.{index}.{name}")

    is_dense = index < shape.num_dense_layers
    return LayerWeights(
        attention_norm=of("attention_norm"),
        qkv=of("qkv"),
        q_norm=of("q_norm"),
        k_norm=of("k_norm"),
        out=of("out"),
        ffn_norm=of("ffn_norm"),
        dense=(of("dense_gate_up"), of("dense_down")) if is_dense else None,
        moe=None
        if is_dense
        else MoEWeights(
            router=of("router"),
            router_bias=of("router_bias"),
            expert_gate_up=of("expert_gate_up"),
            expert_down=of("expert_down"),
            shared_gate_up=of("shared_gate_up"),
            shared_down=of("shared_down"),
        ),
    )
