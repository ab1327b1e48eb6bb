"""How the core learns pass times and output lengths."""

import random

import pytest

from hortator.scheduler.core.estimates import (
    PRIOR_BASE_S,
    PRIOR_PER_TOKEN_S,
    ArrivalRate,
    PassEstimator,
    Smoothed,
)


def _trained(tokens, truth, *, noise=0.0, seed=1):
    rng = random.Random(seed)
    estimator = PassEstimator(warmup=0)
    for n in tokens:
        estimator.observe(n, truth(n) * (1.0 + rng.gauss(0.0, noise)))
    return estimator


def _slow(tokens):
    return 0.100 + 0.2e-3 * tokens


def test_starts_from_the_h800_figures():
    """60 ms + 0.137 ms per token before any pass is seen."""
    estimator = PassEstimator()
    assert estimator.base_s == PRIOR_BASE_S
    assert estimator.per_token_s == pytest.approx(PRIOR_PER_TOKEN_S)
    assert estimator.predict_s(8192) == pytest.approx(0.060 + 0.137e-3 * 8192)
    assert estimator.smoothed_s == 0.0


def test_warmup_passes_teach_nothing():
    """The first `warmup` passes (compilation) change neither the line nor the smoothed time."""
    estimator = PassEstimator(warmup=3)
    for _ in range(3):
        estimator.observe(1000, 30.0)
    assert estimator.predict_s(1000) == PassEstimator().predict_s(1000)
    assert estimator.smoothed_s == 0.0
    estimator.observe(1000, 1.0)
    assert estimator.smoothed_s == 1.0
    assert estimator.predict_s(1000) > PassEstimator().predict_s(1000)


def test_a_pass_without_duration_teaches_nothing():
    """A zero duration is a report's mistake."""
    estimator = PassEstimator(warmup=0)
    estimator.observe(1000, 0.0)
    assert estimator.predict_s(1000) == PassEstimator().predict_s(1000)


def test_learns_another_engine_from_varied_passes():
    """Base and slope of a slower engine within 2 % after 100 passes of varied length."""
    rng = random.Random(0)
    estimator = _trained([rng.randrange(500, 8192) for _ in range(100)], _slow)
    for tokens in (0, 1000, 8192):
        assert estimator.predict_s(tokens) == pytest.approx(_slow(tokens), rel=0.02)


def test_follows_a_changed_clock_within_some_tens_of_passes():
    """An engine that becomes twice as slow is predicted within 5 % after 150 passes."""
    rng = random.Random(0)
    estimator = PassEstimator(warmup=0)
    for factor in (1.0, 2.0):
        for _ in range(150):
            tokens = rng.randrange(500, 8192)
            estimator.observe(tokens, factor * _slow(tokens))
    assert estimator.predict_s(4096) == pytest.approx(2.0 * _slow(4096), rel=0.05)


@pytest.mark.parametrize("tokens", [0, 100, 8192, 9600, 40_000])
def test_a_constant_load_with_noise_keeps_every_prediction_sane(tokens):
    """At saturation all passes are alike, which says nothing about base and slope apart: they must not wander."""
    estimator = PassEstimator(warmup=0)
    rng = random.Random(3)
    for _ in range(3000):
        estimator.observe(tokens, _slow(tokens) * (1.0 + rng.gauss(0.0, 0.02)))
        assert estimator.predict_s(tokens) == pytest.approx(_slow(tokens), rel=0.15)
        assert 0.01 < estimator.predict_s(0) < 0.2
        assert estimator.predict_s(8192) < 3.0


def test_full_passes_do_not_spoil_the_prediction_of_short_ones():
    """After 2000 passes of nearly one length a short pass is predicted between nothing and twice the truth."""
    rng = random.Random(5)
    estimator = _trained([rng.choice([8000, 8100, 8192]) for _ in range(2000)], _slow, noise=0.02)
    assert 0.02 < estimator.predict_s(500) < 2 * _slow(500)


def test_neither_base_nor_slope_becomes_negative():
    """Passes that get shorter with length (a mistaken report) flatten the line, not more."""
    estimator = _trained([100, 8000] * 100, lambda tokens: 1.0 if tokens == 100 else 0.2)
    assert estimator.per_token_s == 0.0
    assert 0.2 < estimator.base_s < 1.0
    steep = _trained([4000, 8000] * 100, lambda tokens: 0.1 if tokens == 4000 else 1.0)
    assert steep.base_s == 0.0
    assert steep.per_token_s > 0.0


def test_a_prediction_is_never_below_a_tenth_of_a_millisecond():
    """Even when an engine claims to take no time at all."""
    estimator = _trained([0] * 500, lambda _: 1e-9)
    assert 1e-4 <= estimator.predict_s(0) < 1e-3


def test_smoothed_pass_time_moves_a_fifth_of_the_way():
    """0.8 x old + 0.2 x new."""
    estimator = PassEstimator(warmup=0)
    estimator.observe(100, 1.0)
    estimator.observe(100, 2.0)
    assert estimator.smoothed_s == pytest.approx(1.2)


def test_a_smoothed_mean_starts_from_its_first_guess():
    """And moves by its weight."""
    mean = Smoothed(100.0, weight=0.1)
    mean.observe(200.0)
    assert mean.value == pytest.approx(110.0)


def test_a_steady_stream_of_work_is_measured():
    """100 tokens every 10 ms are 10 000 a second, once the memory has filled."""
    rate = ArrivalRate(memory_s=2.0)
    now = 0.0
    for step in range(2000):
        now = 0.01 * step
        rate.observe(100, now)
    assert rate.tokens_per_s(now) == pytest.approx(10_000, rel=0.06)


def test_a_rate_is_forgotten_when_nothing_arrives():
    """What came more than a memory ago does not count; asking changes nothing."""
    rate = ArrivalRate(memory_s=2.0)
    rate.observe(1000, 5.0)
    assert rate.tokens_per_s(6.0) == 500
    assert rate.tokens_per_s(7.2) == 0
    assert rate.tokens_per_s(6.0) == 500


def test_a_rate_starts_too_low_rather_than_too_high():
    """One request at the very start is no flood."""
    rate = ArrivalRate(memory_s=10.0)
    rate.observe(1000, 0.0)
    assert rate.tokens_per_s(0.0) == 100


def test_gaps_longer_than_the_memory_leave_nothing_behind():
    """The next arrival counts alone."""
    rate = ArrivalRate(memory_s=10.0)
    for now in (0.0, 3.0, 100.0):
        rate.observe(1000, now)
    assert rate.tokens_per_s(100.0) == 100
