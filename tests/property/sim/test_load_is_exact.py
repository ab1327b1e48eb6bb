"""Whatever the trace and whenever its requests arrive: the load is the one that was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortator.sim.arrivals import ArrivalMode, Arrivals
from hortator.sim.load import at_load, load_of
from hortator.sim.workload import TraceRequest

prompts = st.lists(st.integers(200, 5000), min_size=2, max_size=40)
arrivals = st.builds(
    Arrivals,
    mode=st.sampled_from(ArrivalMode),
    cv=st.floats(0.01, 10.0),
    peak_to_mean=st.floats(1.0, 2.0),
    period_s=st.floats(0.5, 10.0),
)


def _millisecond_per_token(num_prompt_tokens: int) -> float:
    return num_prompt_tokens / 1000.0


@given(
    prompts=prompts,
    arrivals=arrivals,
    load=st.floats(0.05, 2.0),
    num_groups=st.integers(1, 8),
    num_periods=st.floats(1.0, 3.0),
    seed=st.integers(0, 2**32),
)
def test_load_and_number_of_requests_are_exact_in_every_mode(
    prompts: list[int], arrivals: Arrivals, load: float, num_groups: int, num_periods: float, seed: int
) -> None:
    trace = [
        TraceRequest(arrived_at=float(index), num_prompt_tokens=prompt, num_output_tokens=1)
        for index, prompt in enumerate(prompts)
    ]
    min_run_s = num_periods * arrivals.period_s
    loaded = at_load(
        trace,
        load=load,
        num_groups=num_groups,
        engine_seconds=_millisecond_per_token,
        arrivals=arrivals,
        min_run_s=min_run_s,
        seed=seed,
    )
    offered = load_of(
        loaded.requests, num_groups=num_groups, engine_seconds=_millisecond_per_token, wall_s=loaded.wall_s
    )
    times = [request.arrived_at for request in loaded.requests]
    assert offered == pytest.approx(load, rel=1e-9)
    assert [request.num_prompt_tokens for request in loaded.requests] == prompts * loaded.num_tiles
    assert times == sorted(times)
    assert 0.0 <= times[0] <= times[-1] < loaded.wall_s
    assert loaded.wall_s >= min_run_s * (1 - 1e-9)
    if arrivals.mode is ArrivalMode.DIURNAL:
        swings = loaded.wall_s / loaded.arrivals.period_s
        assert swings == pytest.approx(round(swings), rel=1e-9)
