"""The queue over time out of bins, against the queue that every single arrival saw."""

import numpy as np
import pytest

from hortator.sim.queue_bins import NUM_BINS, QueueBins, keeps_up


def a_run(num, *, rate_per_s, serves, seed=0, bursts=1):
    """Poisson arrivals in bursts; one server at a time, passes of a few requests."""
    rng = np.random.default_rng(seed)
    arrived_at = np.repeat(np.cumsum(rng.exponential(bursts / rate_per_s, num // bursts)), bursts)
    first_token_at = arrived_at + serves(rng, arrived_at)
    return arrived_at, first_token_at


def true_means(arrived_at, first_token_at):
    """Every arrival asked, as `is_stable` does."""
    firsts = np.sort(first_token_at[~np.isnan(first_token_at)])
    queue = np.arange(1, len(arrived_at) + 1) - np.searchsorted(firsts, arrived_at, side="right")
    fifth = len(arrived_at) // 5
    return queue[fifth : 2 * fifth].mean(), queue[4 * fifth :].mean()


def bins_of(arrived_at, first_token_at, *, num_chunks=1, seed=1):
    """Added in any order, as requests end."""
    bins = QueueBins()
    order = np.random.default_rng(seed).permutation(len(arrived_at))
    for chunk in np.array_split(order, num_chunks):
        bins.add(arrived_at[chunk], first_token_at[chunk])
    return bins


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            a_run(30_000, rate_per_s=100.0, serves=lambda rng, at: rng.exponential(0.8, len(at))),
            id="300 s, waits of a second",
        ),
        pytest.param(
            a_run(200_000, rate_per_s=20.0, serves=lambda rng, at: rng.uniform(0.05, 0.2, len(at))),
            id="three hours in bins of 4 s, waits much shorter than a bin",
        ),
        pytest.param(
            a_run(50_000, rate_per_s=50.0, serves=lambda rng, at: 0.3 + 0.02 * at),
            id="a queue that grows",
        ),
        pytest.param(
            a_run(50_000, rate_per_s=50.0, serves=lambda rng, at: 0.5 - at % 0.5),
            id="all that came in a pass are served at its end",
        ),
        pytest.param(
            a_run(50_000, rate_per_s=50.0, serves=lambda rng, at: rng.exponential(2.0, len(at)), bursts=10),
            id="ten at once",
        ),
    ],
)
def test_mean_queues_are_within_a_hundredth_of_those_that_arrivals_saw(run):
    assert bins_of(*run).means() == pytest.approx(true_means(*run), rel=0.01)


def test_the_order_in_which_requests_are_added_changes_nothing():
    run = a_run(20_000, rate_per_s=50.0, serves=lambda rng, at: rng.exponential(3.0, len(at)))
    assert bins_of(*run, num_chunks=50, seed=2).means() == pytest.approx(bins_of(*run).means(), rel=1e-9)


def test_who_never_got_a_first_token_stays_in_the_queue():
    arrived_at, first_token_at = a_run(10_000, rate_per_s=50.0, serves=lambda rng, at: np.full(len(at), 0.1))
    first_token_at[5000:] = np.nan
    bins = bins_of(arrived_at, first_token_at)
    assert bins.means() == pytest.approx(true_means(arrived_at, first_token_at), rel=0.01)
    assert not bins.is_stable()


@pytest.mark.parametrize(
    ("second", "last", "expected"),
    [(10.0, 20.0, True), (10.0, 20.1, False), (0.2, 2.0, True), (0.2, 2.1, False), (9.0, 1.0, True)],
)
def test_a_run_keeps_up_while_the_last_queue_is_at_most_twice_the_second(second, last, expected):
    assert keeps_up(second, last) is expected


def test_fewer_than_50_arrivals_say_nothing():
    """49 that are never served."""
    assert bins_of(np.arange(49.0), np.full(49, np.nan)).is_stable()
    assert not bins_of(np.arange(50.0), np.full(50, np.nan)).is_stable()


def test_bins_are_as_many_whatever_the_run():
    bins = bins_of(*a_run(1000, rate_per_s=0.001, serves=lambda rng, at: np.full(len(at), 1.0)))
    assert bins._arrivals.shape == bins._firsts.shape == (2, NUM_BINS)
    assert bins._arrivals[0].sum() == bins._firsts[0].sum() == 1000
