"""Percentiles out of a fixed number of bytes, against those of the values themselves."""

import numpy as np
import pytest

from hortator.sim.distribution import PERCENTILE_ERROR, Distribution
from hortator.sim.results import percentiles


def a_distribution(*chunks):
    found = Distribution()
    for chunk in chunks:
        found.add(np.array(chunk, dtype=np.float64))
    return found


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda rng: rng.lognormal(-1.0, 1.5, 50_000), id="log-normal"),
        pytest.param(lambda rng: rng.uniform(0.0, 3.0, 50_001), id="uniform"),
        pytest.param(lambda rng: rng.exponential(0.004, 777), id="milliseconds"),
        pytest.param(lambda rng: rng.choice([0.0, 0.2, 900.0], 999), id="nothing, little, much"),
        pytest.param(lambda rng: np.concatenate([np.zeros(900), rng.uniform(1, 2, 100)]), id="mostly zero"),
        pytest.param(lambda rng: rng.uniform(1.0, 2.0, 2), id="two"),
        pytest.param(lambda rng: rng.uniform(1.0, 2.0, 1), id="one"),
    ],
)
def test_percentiles_are_within_the_stated_error_and_the_rest_is_exact(draw):
    values = draw(np.random.default_rng(0))
    told = a_distribution(*np.array_split(values, 7)).percentiles()
    exact = percentiles(values)
    assert list(told) == list(exact)
    assert told["max"] == exact["max"]
    assert told["mean"] == pytest.approx(exact["mean"], rel=1e-12)
    for name in ("p50", "p90", "p99"):
        assert told[name] == pytest.approx(exact[name], rel=PERCENTILE_ERROR, abs=1e-6), name


def test_the_stated_error_is_not_far_from_the_true_one():
    """A value at the lower edge of its bucket is told half a bucket too long."""
    told = a_distribution([1.0] * 50 + [3.0] * 50).percentiles(is_one_of_them=True)
    assert told["p50"] == 1.0 + 1 / 1024
    assert 1.0 < (1.0 + PERCENTILE_ERROR) / told["p50"] < 1.001


def test_a_percentile_never_exceeds_the_longest():
    told = a_distribution([1.0] * 10).percentiles()
    assert told == {"mean": 1.0, "p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0}


def test_values_that_were_seen_several_times_are_as_if_added_so_often():
    values, times = np.array([0.01, 50.0, 0.02, 7.0]), np.array([97, 0, 2, 1])
    several, one_by_one = Distribution(), Distribution()
    several.add(values, times)
    one_by_one.add(np.repeat(values, times))
    assert several.num == 100
    for is_one_of_them in (False, True):
        told = several.percentiles(is_one_of_them=is_one_of_them)
        assert told == pytest.approx(one_by_one.percentiles(is_one_of_them=is_one_of_them), rel=1e-12)
    assert told == pytest.approx(
        {"mean": 0.0801, "p50": 0.01, "p90": 0.01, "p99": 0.02, "max": 7.0}, rel=PERCENTILE_ERROR
    )


def test_one_that_is_not_a_number_is_told_as_numpy_tells_it():
    told = a_distribution([1.0, 2.0], [float("nan")], [3.0]).percentiles()
    assert told == pytest.approx(percentiles([1.0, 2.0, float("nan"), 3.0]), nan_ok=True)


def test_of_nothing_there_are_zeros():
    assert a_distribution([]).percentiles() == percentiles([])


def test_times_beyond_all_reason_are_told_as_the_longest():
    told = a_distribution([2.0**40] * 3).percentiles()
    assert told["p50"] <= told["max"] == 2.0**40
