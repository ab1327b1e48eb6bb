# ruff: noqa: PLR1730 - `if a > b: b = a` costs a third of max() and these loops price every pass
"""How long a forward pass of one EP group takes: the H800 cost model.

A pass is as long as its fullest DP rank, because the all-to-all of every expert layer is a barrier.
Per layer, with n new tokens on a rank, S = sum of q * (prefix + q / 2) over its chunks (q tokens on top
of `prefix` computed ones, so attention is quadratic), b sequences and K KV tokens in decode, m = 2
micro-batches under two-batch overlap (TBO) else 1, s = 132/108 under TBO else 1, phi expert skew:

    attention = max(floor, s (c0 + (c1 n + c2 S) / m))       other = max(floor, s c3 n / m)
    shared    = max(floor, s c4 max n / m)                   experts = max(floor, s (c5 + a phi mean n / m))
    all2all   = 2 latency + max(max n, phi mean n) / m * bytes * copies / bandwidth
    layer     = kappa * 2 * max(compute, all2all) with TBO | compute + all2all without; the faster one
    pass      = 5 ms + 58 layers + 3 dense layers

    decode layer = 2 max(C + f M, M) with TBO | C + M without,  C = attention(b, K) + shared + experts(b) + o,
    M = low-latency dispatch and combine;  pass = 2 ms + 61 layers

A *mixed* pass (aggregated topology: chunks of prompts and running decodes in one pass) is priced as a
prefill pass in which the decode tokens count as new tokens everywhere but in the prefill attention, and
the decode attention (base + b and K terms) is added to the rank's attention. It is never cheaper than the
same decode alone. No public figure validates mixed passes, nor tensor parallelism inside a rank.

Speed matters here (the simulator prices every pass): constants are folded per group at construction,
and since each maximum over ranks of a sum of floored linear terms is the largest of a few maxima of
linear terms, one loop over the ranks serves both overlap variants. Sequences given to the methods may
leave idle ranks out: means are taken over `dp_size`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import ceil, log2
from typing import NamedTuple

from hortator.worker.engines.simulated import h800

_DENSE = h800.PREFILL.dense_per_token
_ALL_REDUCE_GBS = 160.0


class MemoryBudget(NamedTuple):
    """Of one GPU, in GB (1e9 bytes)."""

    usable_gb: float
    """What an engine may take."""
    replicated_gb: float
    """Weights that every rank holds: attention, dense layers, embeddings."""
    experts_gb: float
    """This rank's share of the experts."""
    buffers_gb: float
    """Communication and CUDA graphs; an assumption."""

    @property
    def kv_gb(self) -> float:
        """What is left for KV; not above 0 where the weights do not fit."""
        return self.usable_gb - self.replicated_gb - self.experts_gb - self.buffers_gb

    def describe(self) -> str:
        """The arithmetic, for people."""
        return (
            f"{self.usable_gb:.1f} GB usable of a GPU - {self.replicated_gb:.1f} weights of every rank - "
            f"{self.experts_gb:.1f} experts - {self.buffers_gb:.1f} buffers = {self.kv_gb:.1f} GB for KV"
        )


class PassCost:
    """Pass times of one EP group. Pure; seconds and tokens at this surface.

    Args:
        preset: a name in `h800.PRESETS`.
        dp_size: DP ranks of the group.
        ep_size: GPUs of the group, a multiple of `dp_size` (the quotient is tensor parallelism);
            default `dp_size`.
        gpus_per_node: tells how many nodes the all-to-all spans.
        expert_skew: tokens of the hottest EP rank over the mean in prefill, >= 1.
        decode_expert_skew: the same in decode.
        two_batch_overlap: None takes the faster one for each pass.
        expert_slots: experts of a layer including redundant ones; decides weights and so KV capacity.
        decode_tokens_per_pass: query tokens per sequence and pass; 2 or more is multi-token prediction.
        kv_cache_dtype: `fp8` halves KV of a token, in memory and in hand-overs; the time that attention takes
            to read it stays that of BF16, for want of a measurement. Decoding with latent attention is nearly
            bound by computing already: with BF16 arithmetic half the bytes would save a quarter of that at
            most, 2 to 5 % of a step.
        engine_factor: every pass takes so many times as long: an engine slower (above 1) than the preset's.
        floor_factor: so many times what a prefill pass takes whatever its size (floors, bases, latencies): no
            public figure validates passes of less than 2,000 tokens per rank.

    Raises:
        ValueError: an unknown preset or sizes that do not fit together.
    """

    __slots__ = (
        "_all2all_base",
        "_all2all_per_token",
        "_attention_base",
        "_attention_floor",
        "_decode_attention_floor",
        "_decode_attention_per_kv",
        "_decode_attention_per_sequence",
        "_decode_compute_base",
        "_decode_m_base",
        "_decode_m_per_token",
        "_decode_moe_per_token",
        "_decode_x_mean",
        "_engine_factor",
        "_floor_factor",
        "_kappa",
        "_moe_base",
        "_moe_floor",
        "_moe_per_mean_token",
        "_other_floor",
        "_other_per_token",
        "_overlaps",
        "_per_pair",
        "_per_token",
        "_prefill_fixed",
        "_shared_floor",
        "_shared_per_token",
        "_tokens_per_gpu",
        "decode_expert_skew",
        "decode_tokens_per_pass",
        "dp_size",
        "ep_size",
        "expert_skew",
        "expert_slots",
        "kv_bytes_per_token",
        "preset",
    )

    def __init__(
        self,
        preset: str = "deepseek-h800",
        *,
        dp_size: int,
        ep_size: int | None = None,
        gpus_per_node: int = 8,
        expert_skew: float = h800.PREFILL_EXPERT_SKEW,
        decode_expert_skew: float = h800.DECODE_EXPERT_SKEW,
        two_batch_overlap: bool | None = None,
        expert_slots: int = h800.DEFAULT_EXPERT_SLOTS,
        decode_tokens_per_pass: int = 1,
        kv_cache_dtype: str = "auto",
        engine_factor: float = 1.0,
        floor_factor: float = 1.0,
    ) -> None:
        if preset not in h800.PRESETS:
            raise ValueError(f"unknown preset {preset!r}; one of {', '.join(sorted(h800.PRESETS))}")
        ep_size = dp_size if ep_size is None else ep_size
        if dp_size < 1 or ep_size < dp_size or ep_size % dp_size:
            raise ValueError(f"ep_size {ep_size} must be a positive multiple of dp_size {dp_size}")
        if min(expert_skew, decode_expert_skew) < 1.0:
            raise ValueError("expert skew is the hottest rank over the mean and cannot be under 1")
        if not engine_factor > 0 or floor_factor < 0:
            raise ValueError("engine_factor must be above 0 and floor_factor not below it")
        if kv_cache_dtype not in h800.KV_DTYPE_SHARE:
            allowed = ", ".join(h800.KV_DTYPE_SHARE)
            raise ValueError(f"kv_cache_dtype: got {kv_cache_dtype!r} (allowed: {allowed})")
        self.preset = h800.PRESETS[preset]
        self.kv_bytes_per_token = int(h800.KV_BYTES_PER_TOKEN * h800.KV_DTYPE_SHARE[kv_cache_dtype])
        self._engine_factor = engine_factor
        self._floor_factor = floor_factor
        self.dp_size = dp_size
        self.ep_size = ep_size
        self.expert_skew = expert_skew
        self.decode_expert_skew = decode_expert_skew
        self.expert_slots = expert_slots
        self.decode_tokens_per_pass = decode_tokens_per_pass
        self._overlaps = (True, False) if two_batch_overlap is None else (two_batch_overlap,)
        self._fold_prefill(gpus_per_node)
        self._fold_decode()

    def _fold_prefill(self, gpus_per_node: int) -> None:
        constants, network = h800.PREFILL, self.preset.network
        tp_size = self.ep_size // self.dp_size
        floor_scale = self.preset.floor_scale * self._floor_factor
        all_reduce_per_token = 2 * network.combine_bytes * (tp_size - 1) / tp_size / _ALL_REDUCE_GBS * 1e-6
        self._tokens_per_gpu = 1.0 / tp_size
        self._attention_floor = constants.attention_floor * floor_scale
        self._attention_base = constants.attention_base / tp_size * self._floor_factor
        self._shared_floor = constants.shared_floor * self._floor_factor
        self._per_token = constants.attention_per_token / tp_size
        self._per_pair = constants.attention_per_pair / tp_size
        self._other_floor = constants.other_floor * floor_scale
        self._other_per_token = constants.other_per_token + all_reduce_per_token
        self._shared_per_token = constants.shared_per_token / tp_size
        self._moe_floor = constants.moe_floor * floor_scale
        self._moe_base = constants.moe_base * self._floor_factor
        self._moe_per_mean_token = (
            _at_ep(h800.MOE_MS_PER_TOKEN, self.ep_size) * self.expert_skew / self.dp_size / tp_size
        )
        num_nodes = ceil(self.ep_size / gpus_per_node)
        bandwidth = network.nvlink_gbs if num_nodes == 1 else _at_ep(network.rdma_gbs, self.ep_size)
        copies = h800.NODE_COPIES.get(num_nodes, h800.MAX_NODE_COPIES)
        self._all2all_base = 2 * network.latency * self._floor_factor
        self._prefill_fixed = self.preset.prefill_fixed * self._floor_factor
        self._all2all_per_token = (network.dispatch_bytes + network.combine_bytes) * copies / bandwidth * 1e-6
        self._kappa = self.preset.overlap_efficiency

    def _fold_decode(self) -> None:
        constants, queries = h800.DECODE, self.decode_tokens_per_pass
        tp_size = self.ep_size // self.dp_size
        per_kv = (
            constants.attention_per_kv_token
            if queries == 1
            else queries * constants.attention_per_kv_token_mtp
        )
        all_reduce_per_token = (
            2 * self.preset.network.combine_bytes * (tp_size - 1) / tp_size / _ALL_REDUCE_GBS * 1e-6
        )
        self._decode_attention_floor = constants.attention_floor
        self._decode_attention_per_sequence = (
            constants.attention_per_token / tp_size + all_reduce_per_token
        ) * queries
        self._decode_attention_per_kv = per_kv / tp_size
        local_experts = ceil(self.expert_slots / self.ep_size)
        self._decode_compute_base = (
            constants.shared
            + constants.moe_base
            + constants.moe_per_local_expert * local_experts
            + self.preset.decode_other
        )
        queries_per_gpu = queries * self._tokens_per_gpu
        self._decode_moe_per_token = (
            constants.moe_per_expert_token
            * h800.EXPERTS_PER_TOKEN
            * self.decode_expert_skew
            * queries_per_gpu
            / self.dp_size
        )
        dispatch = {ep: us for ep, (us, _) in h800.LOW_LATENCY_DISPATCH_US.items()}
        dispatch_slope = {ep: us for ep, (_, us) in h800.LOW_LATENCY_DISPATCH_US.items()}
        combine = {ep: us for ep, (us, _) in h800.LOW_LATENCY_COMBINE_US.items()}
        combine_slope = {ep: us for ep, (_, us) in h800.LOW_LATENCY_COMBINE_US.items()}
        self._decode_m_base = (_at_ep(dispatch, self.ep_size) + _at_ep(combine, self.ep_size)) * 1e-3
        self._decode_m_per_token = (
            (_at_ep(dispatch_slope, self.ep_size) + _at_ep(combine_slope, self.ep_size))
            * 1e-3
            * queries_per_gpu
        )
        self._decode_x_mean = self.decode_expert_skew / constants.skew_reference / self.dp_size

    def prefill_s(self, ranks_n: Sequence[float], ranks_pairs: Sequence[float]) -> float:
        """Seconds of a pass with only prefill.

        Args:
            ranks_n: new tokens of each rank (idle ranks may be left out).
            ranks_pairs: S of each of these ranks: sum over its chunks of q * (prefix + q / 2).
        """
        per_token, per_pair, other = self._per_token, self._per_pair, self._other_per_token
        with_dense = other + _DENSE
        most = attention = with_other = dense = 0.0
        for n, pairs in zip(ranks_n, ranks_pairs, strict=True):
            work = per_token * n + per_pair * pairs
            if n > most:
                most = n
            if work > attention:
                attention = work
            work += other * n
            if work > with_other:
                with_other = work
            work += _DENSE * n
            if work > dense:
                dense = work
        floor = self._attention_floor
        dense_layer = max(floor + with_dense * most, self._attention_base + dense)
        return (
            self._prefill_pass_ms(sum(ranks_n), most, attention, other * most, with_other, dense_layer) * 1e-3
        )

    def prefill_floor_s(
        self, total_n: float, total_pairs: float, *, rank_n: float = 0.0, rank_pairs: float = 0.0
    ) -> float:
        """Seconds that no pass of these totals can beat that has at least the given n and S on one rank.

        A pass asks for maxima over ranks of linear terms, and is monotone in each; such a maximum is at least
        the term on that rank, and at least its mean over all ranks.
        """
        mean_n, mean_pairs = total_n / self.dp_size, total_pairs / self.dp_size
        other = self._other_per_token
        most = max(rank_n, mean_n)
        own = self._per_token * rank_n + self._per_pair * rank_pairs
        mean = self._per_token * mean_n + self._per_pair * mean_pairs
        with_other = max(own + other * rank_n, mean + other * mean_n)
        dense = max(own + (other + _DENSE) * rank_n, mean + (other + _DENSE) * mean_n)
        dense_layer = max(
            self._attention_floor + (other + _DENSE) * most,
            self._attention_base + dense,
        )
        pass_ms = self._prefill_pass_ms(total_n, most, max(own, mean), other * most, with_other, dense_layer)
        return pass_ms * 1e-3

    def _prefill_pass_ms(
        self,
        total_n: float,
        most: float,
        attention: float,
        other: float,
        with_other: float,
        dense_layer: float,
        extra_base: float = 0.0,
        read_only: float = 0.0,
    ) -> float:
        """The layer formula for each allowed overlap; arguments are maxima over ranks before s and 1 / m.

        `attention`: n, S and decode reads; `other`: decode reads and other; `with_other`: all of them;
        `read_only`: decode reads alone; `extra_base`: per layer, whatever the size.
        """
        floor, other_floor, base = self._attention_floor, self._other_floor, self._attention_base
        experts = self._moe_per_mean_token * total_n
        tokens = max(
            most * self._tokens_per_gpu, total_n * self.expert_skew / self.dp_size * self._tokens_per_gpu
        )
        best = float("inf")
        for overlap in self._overlaps:
            slow, share = (h800.PREFILL.overlap_slowdown, 0.5) if overlap else (1.0, 1.0)
            scale = slow * share
            slow_base = slow * base
            compute = (
                extra_base
                + max(
                    floor + other_floor + scale * read_only,
                    slow_base + scale * attention + other_floor,
                    floor + scale * other,
                    slow_base + scale * with_other,
                )
                + max(self._shared_floor, scale * self._shared_per_token * most)
                + max(self._moe_floor, slow * self._moe_base + scale * experts)
            )
            all2all = self._all2all_base + self._all2all_per_token * tokens * share
            layer = self._kappa * 2.0 * max(compute, all2all) if overlap else compute + all2all
            if layer < best:
                best = layer
        pass_ms = self._prefill_fixed + h800.NUM_MOE_LAYERS * best + h800.NUM_DENSE_LAYERS * dense_layer
        return pass_ms * self._engine_factor

    def decode_s(self, batch: Sequence[float], kv_tokens: Sequence[float]) -> float:
        """Seconds of a pass with only decode.

        Args:
            batch: running sequences of each rank (idle ranks may be left out).
            kv_tokens: KV tokens these sequences attend to, summed per rank.
        """
        per_sequence, per_kv = self._decode_attention_per_sequence, self._decode_attention_per_kv
        most_kv = attention = 0.0
        for sequences, kv in zip(batch, kv_tokens, strict=True):
            if kv > most_kv:
                most_kv = kv
            work = per_sequence * sequences + per_kv * kv
            if work > attention:
                attention = work
        total = sum(batch)
        most = max(batch, default=0)
        tokens = max(most, total * self._decode_x_mean) * self._decode_m_per_token
        floor = self._decode_attention_floor
        preset = self.preset
        best = float("inf")
        for overlap in self._overlaps:
            share = 0.5 if overlap else 1.0
            compute = (
                max(floor + per_kv * most_kv * share, h800.DECODE.attention_base + attention * share)
                + self._decode_compute_base
                + self._decode_moe_per_token * total * share
            )
            all2all = self._decode_m_base + tokens * share
            layer = (
                2.0 * max(compute + preset.decode_overlap_sm_share * all2all, all2all)
                if overlap
                else compute + all2all
            )
            if layer < best:
                best = layer
        return (preset.decode_host + h800.NUM_LAYERS * best) * self._engine_factor * 1e-3

    def mixed_s(
        self,
        ranks_n: Sequence[float],
        ranks_pairs: Sequence[float],
        batch: Sequence[float],
        kv_tokens: Sequence[float],
    ) -> float:
        """Seconds of a pass with prefill chunks and running decodes; all four sequences index the same ranks.

        Without decodes it is `prefill_s`, without prefill `decode_s`; see the module docstring.
        """
        if not any(batch):
            return self.prefill_s(ranks_n, ranks_pairs)
        decode_alone_s = self.decode_s(batch, kv_tokens)
        if not any(ranks_n):
            return decode_alone_s
        per_token, per_pair, other = self._per_token, self._per_pair, self._other_per_token
        per_sequence, per_kv = self._decode_attention_per_sequence, self._decode_attention_per_kv
        queries = self.decode_tokens_per_pass
        most = total = attention = with_other = dense = read_only = read_other = read_dense = 0.0
        for n, pairs, sequences, kv in zip(ranks_n, ranks_pairs, batch, kv_tokens, strict=True):
            tokens = n + sequences * queries
            read = per_sequence * sequences + per_kv * kv
            work = per_token * n + per_pair * pairs + read
            total += tokens
            if tokens > most:
                most = tokens
            if read > read_only:
                read_only = read
            if work > attention:
                attention = work
            extra = other * tokens
            if read + extra > read_other:
                read_other = read + extra
            if work + extra > with_other:
                with_other = work + extra
            extra += _DENSE * tokens
            if read + extra > read_dense:
                read_dense = read + extra
            if work + extra > dense:
                dense = work + extra
        dense_layer = max(self._attention_floor + read_dense, self._attention_base + dense)
        base = h800.DECODE.attention_base
        mixed_ms = self._prefill_pass_ms(
            total, most, attention, read_other, with_other, dense_layer + base, base, read_only
        )
        return max(decode_alone_s, mixed_ms * 1e-3)

    def balanced_prefill_s(self, prompt_lengths: Iterable[int], pass_tokens: int = 8192) -> float:
        """Engine-seconds these prompts need in full, perfectly balanced passes of `pass_tokens` per rank.

        The numerator of *load*: load = this / (groups * wall seconds). A partial pass counts in proportion.
        """
        tokens = 0
        pairs = 0.0
        for length in prompt_lengths:
            tokens += length
            pairs += 0.5 * length * length
        if not tokens:
            return 0.0
        rank_passes = tokens / pass_tokens
        full = self.prefill_s([pass_tokens] * self.dp_size, [pairs / rank_passes] * self.dp_size)
        return rank_passes / self.dp_size * full

    def memory(self) -> MemoryBudget:
        """What fills one GPU of the group."""
        return MemoryBudget(
            usable_gb=h800.HBM_USABLE_GB,
            replicated_gb=h800.REPLICATED_WEIGHTS_GB,
            experts_gb=h800.NUM_MOE_LAYERS * ceil(self.expert_slots / self.ep_size) * h800.EXPERT_GB,
            buffers_gb=h800.BUFFERS_GB,
        )

    def kv_tokens_total(self) -> int:
        """KV tokens that fit one rank beside the weights.

        Raises:
            ValueError: the weights alone do not fit (EP8 of DeepSeek-V3, for example).
        """
        memory = self.memory()
        if memory.kv_gb <= 0:
            raise ValueError(
                f"the weights do not fit {self.ep_size} GPUs: {memory.describe()}; "
                "set kv_blocks_total or raise ep_size"
            )
        return int(memory.kv_gb * 1e9 / self.kv_bytes_per_token)

    def kv_blocks_total(self, tokens_per_block: int) -> int:
        """KV blocks of one rank. Raises ValueError as `kv_tokens_total` does."""
        return self.kv_tokens_total() // tokens_per_block

    def transfer_s(self, num_tokens: int) -> float:
        """Seconds to hand KV of `num_tokens` from a prefill to a decode rank over one NIC, unoverlapped."""
        nanoseconds = num_tokens * self.kv_bytes_per_token / h800.TRANSFER_GBS
        return h800.TRANSFER_LATENCY_MS * 1e-3 + nanoseconds * 1e-9


def _at_ep(table: Mapping[int, float], ep_size: int) -> float:
    """Linear in log2(EP size) between the measured sizes, clamped at the ends."""
    sizes = sorted(table)
    if ep_size <= sizes[0]:
        return table[sizes[0]]
    for low, high in pairwise(sizes):
        if ep_size <= high:
            share = (log2(ep_size) - log2(low)) / (log2(high) - log2(low))
            return table[low] * (1 - share) + table[high] * share
    return table[sizes[-1]]
