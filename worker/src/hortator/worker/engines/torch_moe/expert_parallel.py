"""Dispatch and combine: tokens travel to the ranks that own their experts, and back.

Rank r of D owns experts r * E/D .. (r + 1) * E/D - 1. Per layer each rank
  1. tells every other rank how many tokens it has for each of its experts (all-to-all of counts),
  2. sends one row per (token, expert), sorted by expert (all-to-all with those split sizes),
  3. runs its experts on what arrived, and sends the results back the same way.
Ranks without tokens take part with empty splits. A token's outputs are summed in the order of its experts,
so the sum does not depend on who else is in the batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from hortator.worker.engines.torch_moe.layers import swiglu


class ExpertGroup:
    """The collectives of one rank."""

    def __init__(self, *, dp_rank: int, dp_size: int, num_experts: int) -> None:
        self.dp_rank = dp_rank
        self.dp_size = dp_size
        self.num_experts = num_experts
        self.num_local = num_experts // dp_size
        self.first_local = dp_rank * self.num_local

    def agree(self, forward_pass_id: int, num_tokens: int) -> int:
        """Agree before each pass that all are in the same one. Returns the tokens of the fullest rank.

        Raises RuntimeError when ranks are in different passes.
        """
        seen = torch.tensor([forward_pass_id, -forward_pass_id, num_tokens])
        if self.dp_size > 1:
            dist.all_reduce(seen, dist.ReduceOp.MAX)
        newest, oldest, fullest = seen.tolist()
        if newest != -oldest:
            raise RuntimeError(f"ranks are in different passes, {-oldest} to {newest}")
        return int(fullest)

    def run(self, h: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """Weighted sum over each token's experts.

        h [tokens, dim]; experts, weights [tokens, k]; gate_up, down: this rank's experts, stacked.
        """
        num_tokens, k = experts.shape
        flat = experts.flatten()
        order = torch.argsort(flat, stable=True)
        send_counts = torch.bincount(flat, minlength=self.num_experts)
        receive_counts = self._exchange_counts(send_counts)
        send_splits = send_counts.view(self.dp_size, self.num_local).sum(dim=1).tolist()
        receive_splits = receive_counts.sum(dim=1).tolist()
        arrived = self._exchange(h[order // k], send_splits, receive_splits)
        returned = self._exchange(
            self._compute(arrived, receive_counts, gate_up, down), receive_splits, send_splits
        )
        outputs = torch.empty_like(returned)
        outputs[order] = returned
        return (outputs.view(num_tokens, k, h.shape[1]) * weights.unsqueeze(-1)).sum(dim=1)

    def _compute(self, arrived: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """Run the local experts. Rows come by source, then by expert; counts [sources, local experts]."""
        owner = torch.arange(self.num_local).repeat(self.dp_size).repeat_interleave(counts.flatten())
        order = torch.argsort(owner, stable=True)
        pieces = arrived[order].split_with_sizes(counts.sum(dim=0).tolist())
        outputs = torch.empty_like(arrived)
        done = [
            swiglu(piece, gate_up[expert], down[expert]) if len(piece) else piece
            for expert, piece in enumerate(pieces)
        ]
        outputs[order] = torch.cat(done)
        return outputs

    def _exchange_counts(self, send_counts: Tensor) -> Tensor:
        """What every rank has for my experts, [sources, local experts]."""
        received = send_counts
        if self.dp_size > 1:
            received = torch.empty_like(send_counts)
            dist.all_to_all_single(received, send_counts)
        return received.view(self.dp_size, self.num_local)

    def _exchange(self, rows: Tensor, send_splits: list[int], receive_splits: list[int]) -> Tensor:
        if self.dp_size == 1:
            return rows
        received = rows.new_empty(sum(receive_splits), rows.shape[1])
        dist.all_to_all_single(received, rows.contiguous(), receive_splits, send_splits)
        return received
