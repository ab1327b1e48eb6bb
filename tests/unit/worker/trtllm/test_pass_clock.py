"""Rows of statistics come late, twice or not at all; their iteration number says which pass they tell of."""

from hortator.worker.engines.trtllm.pass_clock import PassClock


def settled(iteration=7, ended=3):
    clock = PassClock()
    clock.on_row(iteration, open_pass=None, num_passes_ended=0)
    clock.settle(ended)
    return clock


def test_a_row_of_the_open_pass_says_that_it_has_ended():
    assert settled().on_row(8, open_pass=4, num_passes_ended=3) == 4


def test_a_late_row_tells_nothing_new():
    assert settled().on_row(8, open_pass=5, num_passes_ended=4) is None


def test_rows_of_other_ranks_tell_nothing_new():
    clock = settled()
    assert clock.on_row(8, open_pass=4, num_passes_ended=3) == 4
    assert clock.on_row(8, open_pass=5, num_passes_ended=4) is None


def test_lost_rows_do_not_shift_the_count():
    assert settled().on_row(11, open_pass=4, num_passes_ended=3) == 7


def test_a_pass_that_nobody_asked_for_shifts_the_count():
    clock = settled()
    assert clock.on_row(8, open_pass=None, num_passes_ended=3) is None
    assert clock.on_row(9, open_pass=4, num_passes_ended=3) == 4


def test_the_first_row_ever_tells_of_the_first_pass():
    clock = PassClock()
    assert clock.on_row(154, open_pass=2, num_passes_ended=1) is None
    assert clock.on_row(155, open_pass=2, num_passes_ended=1) == 2
    assert clock.pass_of(155) == 2
