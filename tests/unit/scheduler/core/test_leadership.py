"""When a standby leads, and when a leader stands by."""

from __future__ import annotations

import pytest

from hortator.scheduler.core.leadership import (
    MAX_PATIENCE_S,
    TAG_BITS,
    Lead,
    Leadership,
    LeadershipSettings,
    StepDown,
    first_epoch,
)

SETTINGS = LeadershipSettings(patience_s=0.1, settling_s=1.0, calm_s=60.0)
WALL_MS = 1_000


def a_standby(*, tag=0, witnesses=(), now=0.0):
    """That knows these witnesses, all of them led in epoch 7, and has settled."""
    leadership = Leadership(SETTINGS, tag=tag)
    for witness in witnesses:
        leadership.saw(witness, epoch=7, is_there=True, now=now - 10.0)
    return leadership


def look(leadership, now):
    return leadership.look(now, wall_ms=WALL_MS)


def lose(leadership, *witnesses, now, epoch=7):
    for witness in witnesses:
        leadership.saw(witness, epoch=epoch, is_there=False, now=now)


def test_a_standby_leads_once_most_witnesses_have_been_without_a_leader_for_its_patience():
    leadership = a_standby(witnesses=("a", "b", "c"))
    lose(leadership, "a", now=0.0)
    assert leadership.next_look_at() is None
    lose(leadership, "b", now=1.0)
    assert leadership.next_look_at() == pytest.approx(1.1)
    assert look(leadership, 1.05) is None
    change = look(leadership, 1.1)
    assert isinstance(change, Lead)
    assert leadership.is_leader
    assert change.epoch > 7


def test_witnesses_that_have_not_looked_around_yet_count_only_among_themselves():
    leadership = a_standby(witnesses=("a",))
    lose(leadership, "b", "c", "d", now=0.0, epoch=0)  # workers that start together
    assert leadership.next_look_at() is None
    lose(leadership, "a", now=1.0)
    assert leadership.next_look_at() == pytest.approx(1.1)
    leadership.saw("a", epoch=7, is_there=True, now=1.05)
    leadership.lost("a", 2.0)
    assert leadership.next_look_at() == pytest.approx(2.1)


def test_half_of_the_witnesses_are_not_enough():
    leadership = a_standby(witnesses=("a", "b"))
    lose(leadership, "a", now=0.0)
    assert leadership.next_look_at() is None


def test_a_leader_that_comes_back_in_time_keeps_the_lead():
    leadership = a_standby(witnesses=("a", "b", "c"))
    lose(leadership, "a", "b", "c", now=0.0)
    leadership.saw("a", epoch=7, is_there=True, now=0.05)
    leadership.saw("b", epoch=7, is_there=True, now=0.05)
    assert look(leadership, 5.0) is None


def test_without_witnesses_nobody_leads():
    leadership = Leadership(SETTINGS, tag=0)
    assert look(leadership, 100.0) is None
    lose(leadership, "a", now=100.0)
    leadership.lost("a", 100.1)
    assert leadership.next_look_at() is None
    assert look(leadership, 200.0) is None


def test_witnesses_that_go_change_what_most_of_them_see():
    leadership = a_standby(witnesses=("a", "b", "c"))
    lose(leadership, "a", now=0.0)
    leadership.lost("b", 1.0)
    leadership.lost("c", 2.0)
    assert isinstance(look(leadership, 2.2), Lead)


def test_a_new_scheduler_waits_until_others_may_have_told_of_a_leader():
    leadership = Leadership(SETTINGS, tag=0)
    lose(leadership, "a", now=0.0, epoch=0)
    assert look(leadership, 0.9) is None
    assert isinstance(look(leadership, 1.0), Lead)


def test_an_epoch_is_above_all_heard_of_and_above_the_clock_and_ends_with_the_tag():
    for heard in (7, first_epoch(WALL_MS, 5), first_epoch(WALL_MS + 500, 1023)):
        leadership = a_standby(tag=3)
        lose(leadership, "a", now=0.0, epoch=heard)
        change = look(leadership, 100.0)
        assert isinstance(change, Lead)
        assert change.epoch > heard
        assert change.epoch >> TAG_BITS >= WALL_MS
        assert change.epoch % (1 << TAG_BITS) == 3


def test_a_leader_that_hears_of_a_higher_epoch_is_a_standby():
    leadership = Leadership(SETTINGS, tag=0, epoch=7)
    leadership.saw("a", epoch=7, is_there=True, now=0.0)
    assert look(leadership, 0.0) is None
    leadership.saw("a", epoch=9, is_there=True, now=1.0)
    assert look(leadership, 1.0) == StepDown(newer_epoch=9)
    assert not leadership.is_leader
    assert look(leadership, 100.0) is None


def test_what_a_witness_does_not_hear_of_its_leader_does_not_end_the_lead():
    leadership = Leadership(SETTINGS, tag=0, epoch=7)
    lose(leadership, "a", "b", now=0.0)
    assert look(leadership, 100.0) is None
    assert leadership.is_leader


def test_one_that_resigned_leads_no_more():
    leadership = Leadership(SETTINGS, tag=0, epoch=7)
    lose(leadership, "a", now=0.0)
    assert leadership.resign() == StepDown(newer_epoch=0)
    assert leadership.resign() is None
    assert leadership.next_look_at() is None
    assert look(leadership, 100.0) is None


def test_every_lost_lead_makes_it_more_patient_until_it_has_been_calm():
    leadership = a_standby(witnesses=("a",))
    waits, now = [], 0.0
    for _ in range(6):
        lose(leadership, "a", now=now, epoch=leadership.newest_epoch)
        due_at = leadership.next_look_at()
        waits.append(due_at - now)
        change = look(leadership, due_at)
        leadership.saw("a", epoch=change.epoch + 1, is_there=True, now=due_at)
        assert isinstance(look(leadership, due_at), StepDown)
        now = due_at
    assert waits[:4] == pytest.approx([0.1, 0.4, 1.6, 6.4])
    assert waits[4:] == pytest.approx([25.6, MAX_PATIENCE_S])
    now += 1_000.0
    lose(leadership, "a", now=now, epoch=leadership.newest_epoch)
    assert leadership.next_look_at() - now == pytest.approx(0.1)


def test_two_standbys_do_not_wait_for_the_same_moment():
    first, second = a_standby(tag=1, witnesses=("a",)), a_standby(tag=900, witnesses=("a",))
    for leadership in (first, second):
        lose(leadership, "a", now=0.0)
    assert second.next_look_at() - first.next_look_at() > 0.05
