"""One DP rank: its share of the weights, its KV cache, and the forward pass.

A pass packs the tokens of all its sequences into one row [tokens, dim]; only attention looks at sequences.
Decoding sequences attend together over their blocks, padded to the longest; a prefill chunk attends on its
own over its blocks. Attention, shared expert and embeddings are data-parallel, routed experts are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from hortator.worker.engines.torch_moe.expert_parallel import ExpertGroup
from hortator.worker.engines.torch_moe.kv_store import KvStore
from hortator.worker.engines.torch_moe.layers import norm, rope_table, rotate, route, swiglu
from hortator.worker.engines.torch_moe.plan import PassPlan, PassResult, RankSetup, ReadKv, SequenceStep
from hortator.worker.engines.torch_moe.rank_weights import LayerWeights, RankWeights
from hortator.worker.engines.torch_moe.sampling import choose


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where the tokens of a pass lie in the packed row, and where their KV goes and comes from."""

    positions: Tensor
    """[tokens] position of each token in its sequence."""
    slots: Tensor
    """[tokens] KV slot of each token."""
    decode_rows: Tensor
    """[sequences] rows of the single-token steps."""
    decode_blocks: Tensor
    """[sequences, most blocks] KV blocks they attend to, padded with block 0."""
    decode_mask: Tensor
    """[sequences, 1, 1, most tokens] True where a token attends."""
    chunks: list[_Chunk]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A step of several tokens."""

    rows: slice
    blocks: Tensor
    """[1, blocks] KV blocks it attends to."""
    mask: Tensor
    """[1, 1, rows, tokens] True where a token attends."""


class Rank:
    """Loads its weights in the constructor; `join` it before the first pass."""

    def __init__(self, setup: RankSetup) -> None:
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        self._setup = setup
        self._weights = RankWeights.load(
            Path(setup.weights_path), dp_rank=setup.dp_rank, dp_size=setup.dp_size
        )
        self._shape = shape = self._weights.shape
        self._kv = KvStore(shape, num_blocks=setup.kv_blocks, tokens_per_block=setup.tokens_per_block)
        self._cos, self._sin = rope_table(shape.max_sequence_tokens, shape.head_dim, shape.rope_theta)
        self._experts = ExpertGroup(
            dp_rank=setup.dp_rank, dp_size=setup.dp_size, num_experts=shape.num_routed_experts
        )

    def join(self) -> None:
        """Meet the other ranks, then run a pass that touches every code path and page once."""
        setup = self._setup
        if setup.dp_size > 1:
            dist.init_process_group(
                "gloo",
                store=dist.FileStore(setup.store_path, setup.dp_size),  # type: ignore[attr-defined]
                rank=setup.dp_rank,
                world_size=setup.dp_size,
                timeout=timedelta(seconds=setup.collective_timeout_s),
            )
        step = SequenceStep(token_ids=(0, 0), start=0, block_ids=(0, 0), sample=None)
        self._forward(0, [step, SequenceStep(token_ids=(0,), start=0, block_ids=(0,), sample=None)])

    def run_pass(self, plan: PassPlan) -> PassResult:
        """Run this rank's part of a pass together with all other ranks."""
        for kv_import in plan.imports:
            self._kv.write(kv_import)
        hidden = self._forward(plan.forward_pass_id, plan.steps)
        return self._sample(plan, hidden)

    def read_kv(self, request: ReadKv) -> bytes:
        """float32 [layers, 2, tokens, kv_heads, head_dim] of the first tokens in these blocks."""
        return self._kv.read(request.block_ids, request.num_tokens)

    def _sample(self, plan: PassPlan, hidden: Tensor) -> PassResult:
        """Logits only where a token is to be chosen."""
        ends = torch.tensor([len(step.token_ids) for step in plan.steps], dtype=torch.int64).cumsum(0) - 1
        wanted = [index for index, step in enumerate(plan.steps) if step.sample is not None]
        token_ids: list[int | None] = [None] * len(plan.steps)
        logits = functional.linear(hidden[ends[wanted]], self._weights.embed).numpy()
        for row, index in zip(logits, wanted, strict=True):
            if (sample := plan.steps[index].sample) is not None:
                token_ids[index] = choose(row, sample)
        everything: tuple[bytes, ...] = ()
        if plan.return_logits:
            pieces = hidden.split_with_sizes([len(step.token_ids) for step in plan.steps])
            everything = tuple(
                functional.linear(piece, self._weights.embed).numpy().tobytes() for piece in pieces
            )
        return PassResult(token_ids=tuple(token_ids), logits=everything)

    def _forward(self, forward_pass_id: int, steps: Sequence[SequenceStep]) -> Tensor:
        """Hidden states [tokens, dim] after the final norm."""
        token_ids = torch.tensor([token for step in steps for token in step.token_ids], dtype=torch.int64)
        x = functional.embedding(token_ids, self._weights.embed)
        if self._experts.agree(forward_pass_id, len(token_ids)) == 0:
            return x
        rows = self._lay_out(steps)
        for index, layer in enumerate(self._weights.layers):
            if len(token_ids):
                x = x + self._attend(index, layer, x, rows)
            h = norm(x, layer.ffn_norm, self._shape.norm_eps)
            if layer.dense is not None:
                x = x + swiglu(h, *layer.dense)
            elif layer.moe is not None:
                moe = layer.moe
                experts, weights = route(h, moe.router, moe.router_bias, self._shape.experts_per_token)
                routed = self._experts.run(h, experts, weights, moe.expert_gate_up, moe.expert_down)
                x = x + swiglu(h, moe.shared_gate_up, moe.shared_down) + routed
        return norm(x, self._weights.final_norm, self._shape.norm_eps)

    def _lay_out(self, steps: Sequence[SequenceStep]) -> _Rows:
        tokens_per_block = self._setup.tokens_per_block
        positions: list[Tensor] = []
        slots: list[Tensor] = []
        decode: list[tuple[int, SequenceStep]] = []
        chunks: list[_Chunk] = []
        row = 0
        for step in steps:
            count = len(step.token_ids)
            position = torch.arange(step.start, step.start + count)
            positions.append(position)
            slots.append(self._kv.slots(step.block_ids, step.start + count)[step.start :])
            if count == 1:
                decode.append((row, step))
            else:
                length = len(step.block_ids) * tokens_per_block
                mask = torch.arange(length) <= position[:, None]
                blocks = torch.tensor([step.block_ids])
                chunks.append(_Chunk(slice(row, row + count), blocks, mask[None, None]))
            row += count
        most = max((len(step.block_ids) for _, step in decode), default=0)
        padded = [[*step.block_ids, *[0] * (most - len(step.block_ids))] for _, step in decode]
        last = torch.tensor([step.start for _, step in decode], dtype=torch.int64)
        return _Rows(
            positions=_joined(positions),
            slots=_joined(slots),
            decode_rows=torch.tensor([row for row, _ in decode], dtype=torch.int64),
            decode_blocks=torch.tensor(padded, dtype=torch.int64),
            decode_mask=(torch.arange(most * tokens_per_block) <= last[:, None])[:, None, None],
            chunks=chunks,
        )

    def _attend(self, index: int, layer: LayerWeights, x: Tensor, rows: _Rows) -> Tensor:
        """Causal attention of every token over its own sequence: x [tokens, dim] -> the same shape."""
        shape, eps = self._shape, self._shape.norm_eps
        heads = functional.linear(norm(x, layer.attention_norm, eps), layer.qkv)
        heads = heads.view(len(x), -1, shape.head_dim)
        q, k, v = heads.split_with_sizes([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
        cos, sin = self._cos[rows.positions], self._sin[rows.positions]
        q, k = rotate(norm(q, layer.q_norm, eps), cos, sin), rotate(norm(k, layer.k_norm, eps), cos, sin)
        self._kv.put(index, rows.slots, k, v)
        mixed = torch.empty_like(q)
        if len(rows.decode_rows):
            keys, values = self._kv.gather(index, rows.decode_blocks)
            queries = q[rows.decode_rows].unsqueeze(2)  # [sequences, heads, 1, head_dim]
            mixed[rows.decode_rows] = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=rows.decode_mask, enable_gqa=True
            ).squeeze(2)
        for chunk in rows.chunks:
            keys, values = self._kv.gather(index, chunk.blocks)
            queries = q[chunk.rows].transpose(0, 1).unsqueeze(0)  # [1, heads, tokens, head_dim]
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=chunk.mask, enable_gqa=True
            )
            mixed[chunk.rows] = attended.squeeze(0).transpose(0, 1)
        return functional.linear(mixed.flatten(1), layer.out)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
