"""Which dispatch a report may claim: the highest below which everything is settled."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hortator.worker.inclusion import InclusionTracker


def test_nothing_is_included_before_the_first_batch_settles():
    tracker = InclusionTracker(gap_wait_s=0.5)
    assert tracker.included(0.0) == 0
    tracker.opened(1, 0.0)
    assert tracker.included(0.0) == 0
    tracker.settled(1, 0)
    assert tracker.included(0.0) == 1


def test_a_gap_is_waited_for_and_then_taken_as_settled():
    tracker = InclusionTracker(gap_wait_s=0.5)
    tracker.opened(3, 0.0)  # 1 and 2 were never heard of
    tracker.settled(3, 0)
    assert tracker.included(0.4) == 0
    assert tracker.included(0.5) == 3


def test_a_batch_that_fills_a_gap_is_tracked_like_any_other():
    tracker = InclusionTracker(gap_wait_s=0.5)
    tracker.opened(3, 0.0)
    tracker.opened(2, 0.1)
    tracker.settled(3, 0)
    assert tracker.included(0.6) == 1  # the gap is only 1 now; 2 is open
    tracker.settled(2, 0)
    assert tracker.included(0.6) == 3


def test_a_number_used_again_means_that_counting_began_anew():
    tracker = InclusionTracker(gap_wait_s=0.5)
    for seq in (1, 2, 3):
        tracker.opened(seq, 0.0)
        tracker.settled(seq, 0)
    tracker.opened(1, 1.0)
    assert tracker.included(1.0) == 0
    tracker.settled(1, 0)  # a straggler of the former count
    assert tracker.included(1.0) == 0
    tracker.settled(1, tracker.generation)
    assert tracker.included(1.0) == 1


def test_numbers_below_one_are_not_tracked():
    tracker = InclusionTracker(gap_wait_s=0.5)
    tracker.opened(0, 0.0)
    assert tracker.included(0.0) == 0


@settings(deadline=None)
@given(st.permutations(range(1, 12)), st.sets(st.integers(1, 11)))
def test_whatever_the_order_included_is_the_longest_settled_prefix(order, unsettled):
    tracker = InclusionTracker(gap_wait_s=1.0)
    for seq in order:
        tracker.opened(seq, 0.0)
    for seq in order:
        if seq not in unsettled:
            tracker.settled(seq, tracker.generation)
    assert tracker.included(0.0) == min(unsettled, default=12) - 1
