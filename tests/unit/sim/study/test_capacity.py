"""The search for the highest load that keeps latency limits."""

import pytest

from hortator.sim.study.capacity import Grid, Limits, search

GRID = Grid(low=0.5, high=1.0, num_loads=16)
LIMITS = Limits(ttft_p99_s=1.0, itl_p99_s=0.05)


def figures(*, ttft=0.5, itl=0.04, stable=True, rejected=0):
    return {"ttft_s": {"p99": ttft}, "itl_s": {"p99": itl}, "stable": stable, "rejected": rejected}


def test_the_highest_load_of_the_grid_below_the_edge_is_found():
    """TTFT = load: with a limit of 0.8 the answer is the last grid load at or under 0.8."""
    limits = Limits(ttft_p99_s=0.8)
    found = search(GRID, limits, lambda load: figures(ttft=load))
    assert found.load == max(GRID.load(i) for i in range(16) if GRID.load(i) <= 0.8)
    assert found.figures["ttft_s"]["p99"] == found.load
    assert not found.is_at_top


@pytest.mark.parametrize("edge", [GRID.load(i) for i in range(16)])
def test_every_edge_is_found_with_at_most_five_runs(edge):
    """16 loads and the answer "none": log2(17), rounded up."""
    found = search(GRID, Limits(ttft_p99_s=edge), lambda load: figures(ttft=load))
    assert found.load == edge
    assert len(found.tried) <= 5
    assert found.is_at_top == (edge == GRID.load(15))


def test_none_when_not_even_the_lowest_load_keeps_the_limits():
    found = search(GRID, LIMITS, lambda _: figures(stable=False))
    assert (found.load, found.figures, found.is_at_top) == (None, None, False)
    assert found.tried[0.5] is False


@pytest.mark.parametrize(
    ("changed", "is_kept"),
    [
        ({}, True),
        ({"ttft": 1.0, "itl": 0.05}, True),
        ({"ttft": 1.001}, False),
        ({"itl": 0.0501}, False),
        ({"stable": False}, False),
        ({"rejected": 1}, False),
    ],
)
def test_limits_are_kept_with_equality_by_a_stable_run_that_refused_nobody(changed, is_kept):
    assert LIMITS.keeps(figures(**changed)) is is_kept


def test_the_grid_goes_by_equal_factors_from_end_to_end():
    """16 loads, 15 steps: 2 ** (1 / 15)."""
    assert (GRID.load(0), GRID.load(15)) == (0.5, 1.0)
    assert GRID.step == pytest.approx(2 ** (1 / 15))
    assert GRID.load(8) / GRID.load(7) == pytest.approx(GRID.step, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"low": 1.0, "high": 0.5}, "low, high: got 1, 0.5"),
        ({"low": 0.0}, "low, high: got 0, 1"),
        ({"num_loads": 1}, "num_loads: got 1"),
    ],
)
def test_a_grid_that_is_none_is_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        Grid(**{"low": 0.5, "high": 1.0, "num_loads": 16, **wrong})
