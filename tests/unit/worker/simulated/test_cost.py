"""What must hold of pass times beyond the published points: order, mixed passes, the unit of load."""

import timeit

import pytest

from hortator.worker.engines.simulated import h800
from hortator.worker.engines.simulated.cost import PassCost


def test_unknown_presets_and_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="unknown preset 'h900'; one of deepseek-h800"):
        PassCost("h900", dp_size=16)
    with pytest.raises(ValueError, match="multiple of dp_size"):
        PassCost(dp_size=16, ep_size=24)
    with pytest.raises(ValueError, match="cannot be under 1"):
        PassCost(dp_size=16, expert_skew=0.5)


def test_auto_overlap_is_the_faster_one():
    on, off, auto = (PassCost(dp_size=16, two_batch_overlap=x) for x in (True, False, None))
    small, large = ([64] * 16, [64.0 * 32] * 16), ([8192] * 16, [8192.0 * 2048] * 16)
    assert auto.prefill_s(*small) == off.prefill_s(*small) < on.prefill_s(*small)
    assert auto.prefill_s(*large) == on.prefill_s(*large) < off.prefill_s(*large)


def test_one_long_prompt_costs_more_than_as_many_tokens_in_short_ones():
    cost = PassCost(dp_size=16)
    long_s = cost.prefill_s([16384] * 16, [16384 * 8192.0] * 16)
    short_s = cost.prefill_s([16384] * 16, [16 * 1024 * 512.0] * 16)
    assert long_s > 1.4 * short_s


def test_chunks_of_a_prompt_have_the_attention_work_of_the_whole():
    # S over chunks of 1000, 1000, 500 tokens: sum q (prefix + q / 2) = 2500^2 / 2
    chunks = [(0, 1000), (1000, 1000), (2000, 500)]
    assert sum(q * (prefix + q / 2) for prefix, q in chunks) == 2500**2 / 2


def test_a_mixed_pass_is_the_plain_one_where_a_phase_is_absent():
    cost = PassCost(dp_size=4, ep_size=16)
    n, pairs, batch, kv, none = [512] * 4, [512 * 256.0] * 4, [16] * 4, [16 * 1024] * 4, [0] * 4
    assert cost.mixed_s(n, pairs, none, none) == cost.prefill_s(n, pairs)
    assert cost.mixed_s(none, none, batch, kv) == cost.decode_s(batch, kv)


@pytest.mark.parametrize("n", [1, 64, 512, 2048, 8192])
def test_a_mixed_pass_takes_longer_than_either_phase_but_less_than_both(n):
    cost = PassCost(dp_size=16)
    prefill, decode = ([n] * 16, [n * n / 2] * 16), ([64] * 16, [64 * 2048] * 16)
    mixed_s, prefill_s, decode_s = (
        cost.mixed_s(*prefill, *decode),
        cost.prefill_s(*prefill),
        cost.decode_s(*decode),
    )
    assert mixed_s >= max(prefill_s, decode_s)
    assert mixed_s <= prefill_s + decode_s
    if n >= 512:
        assert mixed_s > prefill_s


def test_one_rank_with_a_prompt_stalls_the_decodes_of_all():
    cost = PassCost(dp_size=16)
    decode = ([32] * 16, [32 * 2048] * 16)
    stalled_s = cost.mixed_s([8192] + [0] * 15, [8192 * 4096.0] + [0.0] * 15, *decode)
    assert stalled_s > 5 * cost.decode_s(*decode)


def test_tensor_parallel_attention_makes_a_rank_faster():
    # 8 DP ranks of 4 GPUs: the same tokens per rank are a quarter of the expert tokens per GPU
    plain, tensor_parallel = PassCost(dp_size=32), PassCost(dp_size=8, ep_size=32)
    pairs = 8192 * 2048.0
    assert tensor_parallel.prefill_s([8192] * 8, [pairs] * 8) < plain.prefill_s([8192] * 32, [pairs] * 32)


def test_load_counts_full_balanced_passes():
    cost = PassCost(dp_size=16)
    # 64 prompts of 4K are two of them on each rank, twice: exactly two full passes of 8,192 tokens per rank
    one_pass_s = cost.prefill_s([8192] * 16, [2 * 4096 * 2048.0] * 16)
    assert cost.balanced_prefill_s([4096] * 64) == pytest.approx(2 * one_pass_s)
    assert cost.balanced_prefill_s([4096] * 16) == pytest.approx(0.5 * one_pass_s)
    assert cost.balanced_prefill_s([]) == 0.0
    assert cost.balanced_prefill_s([16384]) > 4 * cost.balanced_prefill_s([4096])


def test_pricing_a_pass_is_cheap_enough_for_the_simulator():
    """Guard, not a benchmark: an order of magnitude over what it takes."""
    cost = PassCost(dp_size=16)
    ranks = list(range(500, 8500, 500)), [n * 1000.0 for n in range(500, 8500, 500)]
    assert min(timeit.repeat(lambda: cost.prefill_s(*ranks), number=200, repeat=5)) / 200 < 100e-6


def test_an_engine_factor_stretches_every_pass_and_a_floor_factor_mostly_small_ones():
    cost, slow, low = (
        PassCost(dp_size=16, **factors) for factors in ({}, {"engine_factor": 1.21}, {"floor_factor": 0.5})
    )
    small, large = ([64] * 16, [64.0 * 32] * 16), ([8192] * 16, [8192.0 * 512] * 16)
    decodes = ([50] * 16, [100_000] * 16)
    for prefill in (small, large):
        assert slow.prefill_s(*prefill) == pytest.approx(1.21 * cost.prefill_s(*prefill))
        assert slow.mixed_s(*prefill, *decodes) == pytest.approx(1.21 * cost.mixed_s(*prefill, *decodes))
    assert slow.decode_s(*decodes) == pytest.approx(1.21 * cost.decode_s(*decodes))
    assert low.prefill_s(*small) < 0.6 * cost.prefill_s(*small)
    assert 0.95 * cost.prefill_s(*large) < low.prefill_s(*large) < cost.prefill_s(*large)
    with pytest.raises(ValueError, match="engine_factor must be above 0"):
        PassCost(dp_size=16, engine_factor=0.0)


@pytest.mark.parametrize(
    ("ep_size", "batch", "kv_tokens"), [(16, 39, 160_000), (32, 64, 262_144), (32, 97, 400_000)]
)
def test_that_fp8_kv_is_read_no_faster_in_the_model_is_worth_5_percent_of_a_step_at_most(
    ep_size, batch, kv_tokens
):
    """A KV token costs 5.56e-10 s to read in BF16 and 4.22e-10 s to compute with: half the bytes cannot save more."""
    least = h800.DECODE.attention_per_kv_token_mtp / h800.DECODE.attention_per_kv_token
    assert 0.5 < least < 0.8
    cost = PassCost(dp_size=ep_size)
    step_s = cost.decode_s([batch] * ep_size, [kv_tokens] * ep_size)
    fastest_s = cost.decode_s([batch] * ep_size, [least * kv_tokens] * ep_size)
    assert 0.02 < 1 - fastest_s / step_s < 0.055
