import itertools

import pytest

from hortator.sim.arrivals import POISSON, ArrivalMode, Arrivals
from hortator.sim.load import (
    at_load,
    default_engine_seconds,
    engine_seconds_of,
    load_of,
    period_of,
)
from hortator.sim.workload import TraceRequest
from hortator.worker.engines.simulated.cost import PassCost

EVERY_MODE = [Arrivals(mode=mode, period_s=50.0) for mode in ArrivalMode]


def a_trace(times=(5.0, 6.0, 6.0, 9.0), prompt=1000, ids=()):
    return tuple(
        TraceRequest(
            arrived_at=at,
            num_prompt_tokens=prompt + index,
            num_output_tokens=10,
            prefix_block_ids=tuple(ids),
            prefix_block_tokens=512,
        )
        for index, at in enumerate(times)
    )


def millisecond_per_token(num_prompt_tokens):
    return num_prompt_tokens / 1000.0


def test_the_period_is_the_span_plus_one_mean_gap():
    # four requests over 4 s: mean gap 4/3, period 16/3
    assert period_of(a_trace()) == pytest.approx(16 / 3)


@pytest.mark.parametrize("times", [(), (1.0,), (2.0, 2.0, 2.0)])
def test_times_without_a_rate_are_refused(times):
    with pytest.raises(ValueError, match="arrival rate"):
        period_of(a_trace(times))


def test_load_is_engine_seconds_over_group_seconds():
    # 1.000 + 1.001 + 1.002 + 1.003 engine-seconds on 2 groups for 10 s
    assert load_of(
        a_trace(), num_groups=2, engine_seconds=millisecond_per_token, wall_s=10.0
    ) == pytest.approx(4.006 / 20)


@pytest.mark.parametrize("arrivals", EVERY_MODE, ids=lambda arrivals: arrivals.mode)
@pytest.mark.parametrize("load", [0.5, 0.7, 0.95, 1.3])
def test_a_rescaled_trace_has_exactly_the_load_that_was_asked_for(arrivals, load):
    loaded = at_load(
        a_trace(),
        load=load,
        num_groups=4,
        engine_seconds=millisecond_per_token,
        arrivals=arrivals,
        min_run_s=100.0,
    )
    offered = load_of(
        loaded.requests, num_groups=4, engine_seconds=millisecond_per_token, wall_s=loaded.wall_s
    )
    assert offered == pytest.approx(load, rel=1e-12)
    assert loaded.load == load


@pytest.mark.parametrize("arrivals", EVERY_MODE, ids=lambda arrivals: arrivals.mode)
def test_a_run_lasts_at_least_as_long_as_asked_in_whole_tiles(arrivals):
    loaded = at_load(
        a_trace(),
        load=0.5,
        num_groups=4,
        engine_seconds=millisecond_per_token,
        arrivals=arrivals,
        min_run_s=100.0,
    )
    times = [request.arrived_at for request in loaded.requests]
    # one period is 4.006 / (4 * 0.5) = 2.003 s, so 50 of them
    assert loaded.num_tiles == 50
    assert loaded.wall_s == pytest.approx(50 * 2.003)
    assert len(times) == 200
    assert times == sorted(times)
    assert times[0] >= 0.0
    assert times[-1] < loaded.wall_s


def test_the_default_run_is_twenty_minutes():
    loaded = at_load(a_trace(), load=0.5, num_groups=4, engine_seconds=millisecond_per_token)
    assert 1200.0 <= loaded.wall_s < 1200.0 + 2.003


def test_a_trace_that_is_long_enough_is_not_repeated():
    loaded = at_load(a_trace(), load=0.5, num_groups=4, engine_seconds=millisecond_per_token, min_run_s=2.0)
    assert loaded.num_tiles == 1


def test_recorded_arrivals_keep_the_shape_of_their_gaps_across_tiles():
    loaded = at_load(a_trace(), load=0.5, num_groups=4, engine_seconds=millisecond_per_token, min_run_s=4.0)
    stretch = 2.003 / (16 / 3)
    gaps = [1.0, 0.0, 3.0, 4 / 3, 1.0, 0.0, 3.0]  # the recorded ones; between tiles the mean gap
    times = [request.arrived_at for request in loaded.requests]
    assert times[0] == 0.0
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([gap * stretch for gap in gaps])


def test_poisson_arrivals_keep_the_order_of_the_lengths_and_depend_on_the_seed():
    def draw(seed):
        return at_load(
            a_trace(),
            load=0.5,
            num_groups=4,
            engine_seconds=millisecond_per_token,
            arrivals=POISSON,
            seed=seed,
            min_run_s=4.0,
        ).requests

    assert [request.num_prompt_tokens for request in draw(0)] == [1000, 1001, 1002, 1003] * 2
    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_poisson_arrivals_work_on_a_trace_without_times():
    loaded = at_load(
        a_trace(times=(1.0, 1.0)),
        load=0.5,
        num_groups=1,
        engine_seconds=millisecond_per_token,
        arrivals=POISSON,
    )
    assert len({request.arrived_at for request in loaded.requests}) == len(loaded.requests)


def test_a_diurnal_run_is_whole_periods_fitted_to_whole_tiles():
    """Two periods of 3 s for the 4 s that are asked for: three tiles of 2.003 s each, so 3.0045 s a period."""
    loaded = at_load(
        a_trace(),
        load=0.5,
        num_groups=4,
        engine_seconds=millisecond_per_token,
        arrivals=Arrivals(mode=ArrivalMode.DIURNAL, period_s=3.0),
        min_run_s=4.0,
    )
    assert loaded.num_tiles == 3
    assert loaded.wall_s == pytest.approx(6.009)
    assert loaded.arrivals.period_s == pytest.approx(3.0045)


def test_a_run_of_less_than_a_period_is_refused():
    with pytest.raises(ValueError, match="min_run_s: got 1200"):
        at_load(
            a_trace(),
            load=0.5,
            num_groups=4,
            engine_seconds=millisecond_per_token,
            arrivals=Arrivals(mode=ArrivalMode.DIURNAL),
        )


def test_a_repeated_tile_shares_no_prefix_with_the_first():
    loaded = at_load(
        a_trace(ids=(0, 4)), load=0.5, num_groups=4, engine_seconds=millisecond_per_token, min_run_s=5.0
    )
    tiles = [
        {block for request in loaded.requests[i : i + 4] for block in request.prefix_block_ids}
        for i in (0, 4, 8)
    ]
    assert tiles == [{0, 4}, {5, 9}, {10, 14}]


def test_tiles_of_a_trace_whose_only_block_is_number_zero_differ_too():
    loaded = at_load(
        a_trace(ids=(0,)), load=0.5, num_groups=4, engine_seconds=millisecond_per_token, min_run_s=4.0
    )
    assert loaded.requests[4].prefix_block_ids == (1,)


@pytest.mark.parametrize("load", [0.0, -1.0, float("nan")])
def test_a_load_that_is_none_is_refused(load):
    with pytest.raises(ValueError, match="load must be above 0"):
        at_load(a_trace(), load=load, num_groups=1, engine_seconds=millisecond_per_token)


def test_full_passes_of_4k_prompts_cost_what_the_published_step_table_says():
    # deepseek preset, EP16, 8,192 tokens per rank of 4K prompts: 1171 ms per pass of 16 * 2 prompts
    seconds = default_engine_seconds(preset="deepseek-h800", dp_size=16)
    assert seconds(4096) * 32 == pytest.approx(1.171, rel=0.005)


def test_long_prompts_cost_more_than_their_tokens():
    seconds = default_engine_seconds(preset="deepseek-h800", dp_size=16)
    assert seconds(16_384) > 1.2 * 4 * seconds(4096)
    assert seconds(256) < seconds(512) < 2.1 * seconds(256)


def test_the_engines_own_sum_agrees_with_ours():
    cost = PassCost("deepseek-h800", dp_size=16)
    seconds = engine_seconds_of(cost)
    for length in (1, 100, 1155, 8192, 14_050, 100_000):
        assert seconds(length) == pytest.approx(cost.balanced_prefill_s([length]), rel=1e-9)


def test_load_is_defined_with_the_default_skew_whatever_a_manifest_says():
    skewed = engine_seconds_of(PassCost("deepseek-h800", dp_size=16, expert_skew=3.0))
    assert skewed(4096) > default_engine_seconds(preset="deepseek-h800", dp_size=16)(4096)
