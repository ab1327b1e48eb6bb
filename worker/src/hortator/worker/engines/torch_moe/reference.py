"""The model on one process, whole sequences at once: no KV cache, no chunks, no dispatch.

This is what training optimises and what the distributed engine must reproduce to 1e-4. It is written
for clarity; only `forward` of the experts groups tokens by expert, because training needs the speed.
Parameter names here are the names in the weight file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from hortator.worker.engines.torch_moe.layers import norm, rope_table, rotate, route, swiglu
from hortator.worker.engines.torch_moe.shape import ModelShape


class ReferenceModel(nn.Module):
    """All parameters of a model; token ids [batch, tokens] in, logits [batch, tokens, vocab] out."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Parameter(torch.randn(shape.vocab_size, shape.dim) * 0.02)
        self.final_norm = nn.Parameter(torch.ones(shape.dim))
        self.layers = nn.ModuleList(ReferenceLayer(shape, index) for index in range(shape.num_layers))
        cos, sin = rope_table(shape.max_sequence_tokens, shape.head_dim, shape.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, token_ids: Tensor) -> Tensor:
        """Hidden states after the final norm, [batch, tokens, dim]."""
        num_tokens = token_ids.shape[-1]
        cos, sin = self.get_buffer("cos")[:num_tokens], self.get_buffer("sin")[:num_tokens]
        x = functional.embedding(token_ids, self.embed)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return norm(x, self.final_norm, self.shape.norm_eps)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits of the token after each position."""
        return functional.linear(self.hidden(token_ids), self.embed)

    def save(self, path: Path) -> None:
        """Write float16 safetensors with the shape in the metadata."""
        tensors = {name: tensor.detach().half().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, path, metadata=self.shape.to_metadata())
        path.chmod(0o644)  # the library makes it private

    @classmethod
    def load(cls, path: Path) -> ReferenceModel:
        """Read a weight file into float32. Raises WeightFileError or what safetensors raises."""
        model = cls(ModelShape.from_file(path))
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        return model.eval()


class ReferenceLayer(nn.Module):
    """Attention, then a dense feed-forward or the experts, each with a residual connection."""

    def __init__(self, shape: ModelShape, index: int) -> None:
        super().__init__()
        self.shape = shape
        q_dim, kv_dim = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.attention_norm = nn.Parameter(torch.ones(shape.dim))
        self.qkv = _matrix(q_dim + 2 * kv_dim, shape.dim)
        self.q_norm = nn.Parameter(torch.ones(shape.head_dim))
        self.k_norm = nn.Parameter(torch.ones(shape.head_dim))
        self.out = _matrix(shape.dim, q_dim)
        self.ffn_norm = nn.Parameter(torch.ones(shape.dim))
        self.is_dense = index < shape.num_dense_layers
        if self.is_dense:
            self.dense_gate_up = _matrix(2 * shape.dense_hidden, shape.dim)
            self.dense_down = _matrix(shape.dim, shape.dense_hidden)
        else:
            self.router = _matrix(shape.num_routed_experts, shape.dim)
            self.register_buffer("router_bias", torch.zeros(shape.num_routed_experts))
            self.expert_gate_up = _matrix(shape.num_routed_experts, 2 * shape.expert_hidden, shape.dim)
            self.expert_down = _matrix(shape.num_routed_experts, shape.dim, shape.expert_hidden)
            self.shared_gate_up = _matrix(2 * shape.shared_hidden, shape.dim)
            self.shared_down = _matrix(shape.dim, shape.shared_hidden)
        self.expert_counts = torch.zeros(shape.num_routed_experts)
        """Tokens each expert got in the last forward; training balances on it."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map [batch, tokens, dim] to the same shape."""
        x = x + self._attend(norm(x, self.attention_norm, self.shape.norm_eps), cos, sin)
        h = norm(x, self.ffn_norm, self.shape.norm_eps)
        if self.is_dense:
            return x + swiglu(h, self.dense_gate_up, self.dense_down)
        flat = h.flatten(0, 1)
        return x + swiglu(h, self.shared_gate_up, self.shared_down) + self._routed(flat).view_as(h)

    def _attend(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape, eps = self.shape, self.shape.norm_eps
        batch, num_tokens, _ = h.shape
        heads = functional.linear(h, self.qkv).view(batch, num_tokens, -1, shape.head_dim)
        q, k, v = heads.split_with_sizes([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=2)
        q, k = rotate(norm(q, self.q_norm, eps), cos, sin), rotate(norm(k, self.k_norm, eps), cos, sin)
        group = shape.num_heads // shape.num_kv_heads
        k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        mixed = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        return functional.linear(mixed.transpose(1, 2).reshape(batch, num_tokens, -1), self.out)

    def _routed(self, h: Tensor) -> Tensor:
        """Sum over the experts of each token: h [tokens, dim] -> [tokens, dim]."""
        k = self.shape.experts_per_token
        experts, weights = route(h, self.router, self.get_buffer("router_bias"), k)
        flat = experts.flatten()
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=self.shape.num_routed_experts)
        self.expert_counts = counts.float()
        pieces = h[order // k].split_with_sizes(counts.tolist())
        weights_of = zip(pieces, self.expert_gate_up.unbind(), self.expert_down.unbind(), strict=True)
        done = [swiglu(piece, gate_up, down) for piece, gate_up, down in weights_of]
        back = torch.argsort(order)
        outputs = torch.cat(done)[back].view(-1, k, self.shape.dim)
        return (outputs * weights.unsqueeze(-1)).sum(dim=1)


def _matrix(*sizes: int) -> nn.Parameter:
    """A parameter with normal entries of variance 1 / inputs; inputs is the last axis."""
    return nn.Parameter(torch.randn(*sizes) / sizes[-1] ** 0.5)
