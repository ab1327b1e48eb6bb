"""The report of overload and flood in real time, shortened: what it promises holds, whatever the figures are."""

import pytest

from chaos import realtime


@pytest.mark.safety
@pytest.mark.timeout(180)
async def test_ten_times_the_capacity_is_refused_at_once_with_a_time_to_come_back(tmp_path):
    shown = await realtime.overloaded(tmp_path, seed=1, seconds=4.0, measure_s=2.0)
    assert not shown["problems"]
    assert shown["refused_share"] > 0.3
    assert shown["served_rps"] > 0
    assert shown["refused_after_p50_s"] < shown["accepted_ttft_p50_s"]
    assert max(shown["memory_grew_by_mib"].values()) < 64


@pytest.mark.timeout(180)
async def test_a_flood_refuses_nobody_else(tmp_path):
    shown = await realtime.flooded(tmp_path, seed=1, seconds=3.0, measure_s=2.0)
    assert not shown["problems"]
    assert shown["others_refused"] == 0
    assert shown["others_ttft_mean_s"] > 0
