"""The KV cache of one rank, all layers; slot = block * tokens_per_block + offset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hortator.worker.engines.torch_moe.plan import KvImport
from hortator.worker.engines.torch_moe.shape import ModelShape


class KvStore:
    """float32 keys and values, [layers, 2, slots, kv_heads, head_dim]."""

    def __init__(self, shape: ModelShape, *, num_blocks: int, tokens_per_block: int) -> None:
        self._tokens_per_block = tokens_per_block
        self._offsets = torch.arange(tokens_per_block)
        num_slots = num_blocks * tokens_per_block
        self._data = torch.zeros(shape.num_layers, 2, num_slots, shape.num_kv_heads, shape.head_dim)

    def slots(self, block_ids: Sequence[int], num_tokens: int) -> Tensor:
        """Slots of the first tokens of a sequence with these blocks, [num_tokens]."""
        first = torch.tensor(block_ids, dtype=torch.int64) * self._tokens_per_block
        return (first[:, None] + self._offsets).flatten()[:num_tokens]

    def put(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write keys and values [tokens, kv_heads, head_dim] of one layer."""
        self._data[layer, 0].index_copy_(0, slots, keys)
        self._data[layer, 1].index_copy_(0, slots, values)

    def gather(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of whole blocks: [sequences, blocks] -> [sequences, kv_heads, tokens, head_dim].

        Copies block by block, which is several times faster than slot by slot.
        """
        by_block = self._data[layer].view(
            2, -1, self._tokens_per_block * self._data.shape[3], self._data.shape[4]
        )
        sequences, num_blocks = blocks.shape
        size = (sequences, num_blocks * self._tokens_per_block, *self._data.shape[3:])
        keys, values = (
            part.index_select(0, blocks.flatten()).view(size).transpose(1, 2) for part in by_block
        )
        return keys, values

    def read(self, block_ids: Sequence[int], num_tokens: int) -> bytes:
        """The KV of the first tokens, as `KvImport.data` has it."""
        return self._data[:, :, self.slots(block_ids, num_tokens)].numpy().tobytes()

    def write(self, kv_import: KvImport) -> None:
        """Put handed-over KV into its blocks."""
        slots = self.slots(kv_import.block_ids, kv_import.num_tokens)
        flat = torch.frombuffer(bytearray(kv_import.data), dtype=torch.float32)
        layers, pair, _, heads, head_dim = self._data.shape
        self._data[:, :, slots] = flat.view(layers, pair, kv_import.num_tokens, heads, head_dim)
