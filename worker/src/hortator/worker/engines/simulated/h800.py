"""Constants of the H800 cost model: what was measured, by whom, and what was fitted.

DeepSeek-V3/R1 (61 layers: 3 dense, 58 with experts; top-8 of 256 experts plus one shared) with
attention data parallelism plus expert parallelism. Compute and HBM constants are fits to published
H100-80GB SXM kernel tables of the same Hopper chip (aiconfigurator-core 0.12.0); communication is
DeepEP's own H800 figures; constants marked FITTED were fitted to one published end-to-end point.

All times here are **milliseconds**, lengths tokens, bandwidths GB/s (1e9 B/s); `cost` converts to
seconds. Dictionaries keyed by EP size are interpolated linearly in log2(EP) and clamped at the ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NUM_DENSE_LAYERS = 3
NUM_MOE_LAYERS = 58
NUM_LAYERS = NUM_DENSE_LAYERS + NUM_MOE_LAYERS
EXPERTS_PER_TOKEN = 8

KV_BYTES_PER_TOKEN = (512 + 64) * 2 * NUM_LAYERS
"""MLA latent plus rope key in BF16, all layers: 70,272 bytes."""

KV_DTYPE_SHARE: Mapping[str, float] = {"auto": 1.0, "fp8": 0.5}
"""Of KV_BYTES_PER_TOKEN, by the data type of the KV cache; `auto` is the model's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillConstants:
    """Per-layer prefill costs on one GPU, in ms; n = new tokens, S = sum of q * (prefix + q / 2)."""

    attention_floor: float = 0.6258
    """Launch-bound floor of a Python eager engine; `EnginePreset.floor_scale` shrinks it."""
    attention_base: float = 0.360037
    attention_per_token: float = 3.490729e-4
    attention_per_pair: float = 1.0508060e-7
    other_floor: float = 0.06
    other_per_token: float = 1.589788e-4
    """Norms, quantisation, rope, gate, qkv_a. FITTED on the DeepSeek profile (EP32, 16,384 tokens/GPU)."""
    shared_floor: float = 0.033362
    shared_per_token: float = 7.147410e-5
    moe_floor: float = 0.397669
    moe_base: float = 0.10
    dense_per_token: float = 7.9e-4
    overlap_slowdown: float = 132 / 108
    """With two-batch overlap communication takes 24 of the 132 SMs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConstants:
    """Per-layer decode costs on one GPU, in ms."""

    attention_floor: float = 0.112922
    attention_base: float = 0.0663986
    attention_per_token: float = 5.339010e-4
    attention_per_kv_token: float = 5.562531e-7
    attention_per_kv_token_mtp: float = 4.220121e-7
    """Per query token, when a pass verifies two or more tokens of a sequence (compute-bound kernel)."""
    shared: float = 0.033
    moe_base: float = 0.0204280
    moe_per_local_expert: float = 0.0153492
    moe_per_expert_token: float = 3.741391e-5
    skew_reference: float = 1.39
    """Expert skew under which the low-latency kernels were measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """DeepEP normal kernels: all-to-all of the prefill."""

    nvlink_gbs: float
    rdma_gbs: Mapping[int, float]
    latency: float = 0.09
    dispatch_bytes: int = 7392
    """FP8 hidden state and scales of one token."""
    combine_bytes: int = 14336
    """BF16 hidden state of one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePreset:
    """One serving engine on one kind of GPU."""

    network: Network
    overlap_efficiency: float
    """kappa: a two-batch-overlapped layer takes kappa * 2 * max(compute, communication)."""
    floor_scale: float
    """Launch-bound floors relative to a Python eager engine."""
    decode_other: float
    """ms per layer outside attention, experts and communication. FITTED."""
    decode_overlap_sm_share: float
    """Share of the communication that two-batch overlap cannot hide, because it needs SMs. FITTED."""
    prefill_fixed: float = 5.0
    """ms per prefill pass on the host."""
    decode_host: float = 2.0
    """ms per decode pass on the host."""


PREFILL = PrefillConstants()
DECODE = DecodeConstants()

MOE_MS_PER_TOKEN: Mapping[int, float] = {
    8: 7.155419e-4,
    16: 7.574553e-4,
    32: 8.793466e-4,
    64: 1.1497433e-3,
    128: 1.7043506e-3,
}
"""Grouped GEMMs of one prefill layer, ms per source token, by EP size (larger EP: less per expert)."""

NODE_COPIES: Mapping[int, float] = {1: 3.8, 2: 2.0, 3: 2.9}
"""Copies of a token sent over the bottleneck link, by number of nodes; 3.8 from 4 nodes on (routing is
limited to 4 of 8 expert groups). One node: a group is one GPU, so 3.8 copies over NVLink (our reading)."""
MAX_NODE_COPIES = 3.8

LOW_LATENCY_DISPATCH_US: Mapping[int, tuple[float, float]] = {
    8: (27.911118, 0.3835069),
    16: (22.514404, 0.7459812),
    32: (26.917688, 1.0006431),
    64: (28.902463, 1.1257620),
    128: (32.076722, 1.2494006),
    256: (32.410855, 1.2624152),
}
"""DeepEP low-latency dispatch, microseconds: (base, per token of a rank), by EP size; H800 at 128 tokens."""

LOW_LATENCY_COMBINE_US: Mapping[int, tuple[float, float]] = {
    8: (16.485715, 0.7618303),
    16: (26.695980, 1.3148752),
    32: (27.364091, 1.9190305),
    64: (26.217096, 2.2483039),
    128: (30.809262, 2.6421151),
    256: (30.057817, 2.5776733),
}
"""DeepEP low-latency combine, as above."""

H800_NETWORK = Network(nvlink_gbs=153.0, rdma_gbs={16: 43.0, 32: 58.0, 64: 51.0})
H100_NETWORK = Network(nvlink_gbs=285.6695, rdma_gbs={16: 73.53058, 32: 64.64664, 64: 56.84446})

PRESETS: Mapping[str, EnginePreset] = {
    "deepseek-h800": EnginePreset(
        network=H800_NETWORK,
        overlap_efficiency=1.0,
        floor_scale=0.25,
        decode_other=0.1312128,
        decode_overlap_sm_share=0.3614957,
    ),
    # kappa FITTED on one point: prefill EP32, 2 x 4K prompts per GPU.
    "rtp-h800": EnginePreset(
        network=H800_NETWORK,
        overlap_efficiency=1.2114677,
        floor_scale=0.25,
        decode_other=0.1312128,
        decode_overlap_sm_share=0.3614957,
    ),
    # For validation only. kappa FITTED on the perfect-EPLB prefill point; decode_* on EP72, batch 256.
    "sglang-h100": EnginePreset(
        network=H100_NETWORK,
        overlap_efficiency=1.0591734,
        floor_scale=1.0,
        decode_other=0.1967740,
        decode_overlap_sm_share=0.1830181,
    ),
}

PREFILL_EXPERT_SKEW = 1.3667769
"""phi: tokens of the hottest EP rank over the mean, with default EPLB. FITTED; 1.0 is perfect balance."""
DECODE_EXPERT_SKEW = 1.39
"""phi of the decode with EPLB, as measured."""

HBM_USABLE_GB = 85.5 * 0.92
BUFFERS_GB = 5.0
"""Communication buffers and graphs (an assumption)."""
REPLICATED_WEIGHTS_GB = 19.9
"""Attention 11.4, shared experts 2.6, dense layers 1.2, embedding and head 3.7, the rest 1."""
EXPERT_GB = 0.044053212
"""One expert of one layer in FP8."""
DEFAULT_EXPERT_SLOTS = 256
"""No redundant experts. 288 means 32 redundant ones; they cost KV capacity."""

TRANSFER_LATENCY_MS = 0.4006405
TRANSFER_GBS = 18.541023
"""KV hand-over of one rank over its own 400G NIC (fit on five published rows)."""
