"""How sure a mean over seeds is."""

import pytest

from hortator.sim.study.bootstrap import interval


def test_equal_values_leave_no_doubt():
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_the_mean_lies_inside_and_the_ends_are_values_that_means_can_have():
    low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert 1.0 < low < 3.0 < high < 5.0
    assert low == pytest.approx(1.8, abs=0.21)
    assert high == pytest.approx(4.2, abs=0.21)


def test_more_spread_is_less_sure():
    narrow = interval([2.9, 3.0, 3.1])
    wide = interval([1.0, 3.0, 5.0])
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_same_seed_draws_the_same():
    assert interval([1.0, 2.0, 4.0]) == interval([1.0, 2.0, 4.0])


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no values"):
        interval([])
