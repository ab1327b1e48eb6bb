"""The formulas of the model, each written once: training, reference and ranks share them.

    norm(x)      = x / sqrt(mean(x^2) + eps) * weight
    swiglu(x)    = down @ (silu(gate @ x) * (up @ x)), gate and up stacked in one matrix
    route(x)     : score = sigmoid(router @ x); take the experts with the largest score + bias,
                   weigh them by score / sum of the scores taken (the bias only balances load)

Everything is float32 but the router. Which experts a token takes is a step function of its scores; in
float64 two scores tie only when they are equal, and then the lower expert wins.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis."""
    return functional.rms_norm(x, weight.shape, weight, eps)


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Gated feed-forward: x [..., dim], gate_up [2 * hidden, dim], down [dim, hidden]."""
    gate, up = functional.linear(x, gate_up).chunk(2, dim=-1)
    return functional.linear(functional.silu(gate) * up, down)


def route(x: Tensor, router: Tensor, bias: Tensor, experts_per_token: int) -> tuple[Tensor, Tensor]:
    """Choose experts for x [tokens, dim].

    Returns (experts [tokens, k] int64, weights [tokens, k] float32), best expert first; among equal scores
    the lower expert first.
    """
    scores = torch.sigmoid(functional.linear(x.double(), router.double()))
    order = torch.sort(scores.detach() + bias.double(), dim=-1, descending=True, stable=True).indices
    experts = order[:, :experts_per_token]
    weights = scores.gather(1, experts)
    return experts, (weights / weights.sum(dim=-1, keepdim=True)).float()


def rope_table(max_tokens: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [max_tokens, head_dim / 2] of the rotary embedding."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(max_tokens, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding: x [..., tokens, heads, head_dim]; cos, sin [tokens, head_dim / 2]."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
