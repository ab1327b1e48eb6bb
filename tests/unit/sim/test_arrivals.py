"""Arrival times of a known number of requests within a known time."""

import math

import numpy as np
import pytest

from hortator.sim.arrivals import POISSON, RECORDED, ArrivalMode, Arrivals, draw_times

DRAWN = [Arrivals(mode=mode, period_s=250.0) for mode in ArrivalMode if mode is not ArrivalMode.RECORDED]


def draw(arrivals, *, seed=0, num_requests=100_000, wall_s=1000.0):
    return draw_times(arrivals, np.random.default_rng(seed), num_requests=num_requests, wall_s=wall_s)


def gamma(cv):
    return Arrivals(mode=ArrivalMode.GAMMA, cv=cv)


def diurnal(**parameters):
    return Arrivals(mode=ArrivalMode.DIURNAL, **parameters)


@pytest.mark.parametrize("arrivals", DRAWN, ids=lambda arrivals: arrivals.mode)
@pytest.mark.parametrize("num_requests", [1, 2, 1000])
def test_exactly_so_many_arrive_in_order_within_the_wall(arrivals, num_requests):
    times = draw(arrivals, num_requests=num_requests)
    assert len(times) == num_requests
    assert (np.diff(times) >= 0).all()
    assert 0.0 <= times[0] <= times[-1] < 1000.0


@pytest.mark.parametrize("arrivals", DRAWN, ids=lambda arrivals: arrivals.mode)
def test_the_same_seed_gives_the_same_times_and_another_seed_others(arrivals):
    assert (draw(arrivals) == draw(arrivals)).all()
    assert (draw(arrivals) != draw(arrivals, seed=1)).any()


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0, 4.0])
def test_gamma_gaps_have_the_burstiness_that_was_asked_for(cv):
    gaps = np.diff(draw(gamma(cv)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)
    assert gaps.mean() == pytest.approx(0.01, rel=0.001)  # 100,000 in 1,000 s


def test_gamma_of_cv_1_has_the_gaps_of_a_poisson_process():
    """Share of gaps longer than the mean: 1 / e."""
    gaps = np.diff(draw(gamma(1.0)))
    assert (gaps > gaps.mean()).mean() == pytest.approx(math.exp(-1), rel=0.02)


@pytest.mark.parametrize("cv", [0.01, 10.0])
def test_the_extremes_of_burstiness_are_times_too(cv):
    for seed in range(20):
        times = draw(gamma(cv), seed=seed, num_requests=3)
        assert np.isfinite(times).all()
        assert (np.diff(times) >= 0).all()


def test_a_day_starts_at_its_mean_rate_rises_to_its_peak_and_ends_rising():
    """Mean of 1 + 0.8 sin over a quarter around crest and trough: 1 +- 0.8 * 0.900; around the ends: 1."""
    times = draw(diurnal(period_s=1000.0, peak_to_mean=1.8))
    counts, _ = np.histogram(times, bins=8, range=(0.0, 1000.0))
    relative = counts / counts.mean()
    assert relative[1:3].mean() == pytest.approx(1.72, rel=0.02)
    assert relative[5:7].mean() == pytest.approx(0.28, rel=0.05)
    assert relative[[0, 7]].mean() == pytest.approx(1.0, rel=0.02)
    assert relative[0] > 1.2
    assert relative[7] < 0.8


def test_every_period_of_a_run_has_the_same_profile():
    times = draw(diurnal(period_s=250.0, peak_to_mean=2.0))
    counts, _ = np.histogram(times, bins=16, range=(0.0, 1000.0))
    for of_period in counts.reshape(4, 4):
        assert of_period.sum() == pytest.approx(25_000, rel=0.03)
        # Quarters of 1 + sin: the mean of sin over a half-wave's quarter is 2 / pi.
        assert of_period[:2].sum() / of_period.sum() == pytest.approx(0.5 + 1 / math.pi, rel=0.02)


def test_a_peak_that_is_the_mean_is_a_constant_rate():
    counts, _ = np.histogram(draw(diurnal(peak_to_mean=1.0, period_s=1000.0)), bins=10, range=(0.0, 1000.0))
    assert counts / 10_000 == pytest.approx(np.ones(10), rel=0.04)


def test_gaps_within_a_day_are_those_of_a_poisson_process():
    """Where the rate hardly changes: around the crest."""
    times = draw(diurnal(period_s=1000.0))
    gaps = np.diff(times[(times > 220.0) & (times < 280.0)])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.05)


def test_recorded_times_are_not_drawn():
    with pytest.raises(ValueError, match="recorded times are not drawn"):
        draw(RECORDED)


def test_a_run_of_whole_periods_is_asked_for_only_where_there_are_periods():
    assert POISSON.shortest_run_s(60.0) == 60.0
    assert diurnal(period_s=60.0).shortest_run_s(60.0) == 60.0
    assert diurnal(period_s=60.0).shortest_run_s(61.0) == 120.0
    assert diurnal(period_s=0.1).shortest_run_s(3 * 0.1) == pytest.approx(0.3)  # a float above 0.3


def test_a_run_of_less_than_a_period_is_refused():
    with pytest.raises(ValueError, match=r"min_run_s: got 1200 \(allowed .* at least one period_s, 86400\)"):
        diurnal().shortest_run_s(1200.0)


def test_the_period_is_fitted_to_the_wall():
    assert diurnal(period_s=60.0).fitted_to(126.0).period_s == 63.0
    assert diurnal(period_s=60.0).fitted_to(30.0).period_s == 30.0
    assert POISSON.fitted_to(126.0) == POISSON


def test_a_mode_has_its_own_parameters():
    assert POISSON.parameters() == RECORDED.parameters() == {}
    assert gamma(3.0).parameters() == {"cv": 3.0}
    assert diurnal(period_s=60.0).parameters() == {"peak_to_mean": 1.6, "period_s": 60.0}


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *(("cv", value, "0.01 to 10") for value in (0.0, -1.0, 11.0, math.nan, math.inf)),
        *(("peak_to_mean", value, "1 to 2") for value in (0.9, 2.1, math.nan)),
        *(("period_s", value, "above 0, finite") for value in (0.0, -1.0, math.nan, math.inf)),
    ],
)
def test_parameters_out_of_range_name_themselves_and_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^{field}: got .* \(allowed: {allowed}\)$"):
        Arrivals(mode=ArrivalMode.POISSON, **{field: value})
