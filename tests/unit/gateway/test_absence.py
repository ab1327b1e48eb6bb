"""When a gateway has been without a leader for long enough."""

from __future__ import annotations

import pytest

from hortator.gateway.absence import LATE_S, LeaderAbsence

AFTER_S = 0.3
HEARTBEAT_S = 0.2


@pytest.fixture
def absence() -> LeaderAbsence:
    """A leader spoke at 10, and said how often it does."""
    absence = LeaderAbsence(after_s=AFTER_S)
    absence.heard(10.0)
    absence.speaks_every(HEARTBEAT_S)
    return absence


def test_nobody_is_missed_who_was_never_there():
    absence = LeaderAbsence(after_s=AFTER_S)
    absence.lost(1.0)
    assert absence.next_look_at() is None
    assert not absence.look(100.0)


def test_a_leader_whose_stream_is_over_is_waited_for_a_while(absence):
    absence.lost(10.1)
    assert absence.next_look_at() == pytest.approx(10.4)
    assert not absence.look(10.39)
    assert absence.look(10.41)
    assert absence.is_alone
    assert absence.next_look_at() is None


def test_a_silent_leader_is_missed_after_two_words(absence):
    assert absence.next_look_at() == pytest.approx(10.7)
    assert absence.look(10.71)


def test_a_leader_that_has_not_said_how_often_it_speaks_may_be_silent():
    absence = LeaderAbsence(after_s=AFTER_S)
    absence.heard(10.0)
    assert absence.next_look_at() is None


def test_another_leader_makes_no_promise_of_the_last_one(absence):
    absence.speaks_every(0.0)
    assert absence.next_look_at() is None


def test_a_silence_that_becomes_a_loss_counts_from_its_beginning(absence):
    absence.lost(10.6)
    assert absence.next_look_at() == pytest.approx(10.7)


def test_a_loss_is_not_counted_anew(absence):
    absence.lost(10.1)
    absence.lost(10.3)
    assert absence.next_look_at() == pytest.approx(10.4)


def test_a_word_ends_it(absence):
    absence.lost(10.1)
    absence.look(10.41)
    assert absence.heard(11.0)
    assert not absence.is_alone
    assert not absence.heard(11.1)
    assert absence.next_look_at() == pytest.approx(11.1 + 2 * HEARTBEAT_S + AFTER_S)


def test_who_was_away_itself_counts_the_silence_from_then_on(absence):
    back_at = 10.7 + LATE_S + 0.1
    assert not absence.look(back_at)
    assert not absence.is_alone
    assert absence.next_look_at() == pytest.approx(back_at + 2 * HEARTBEAT_S + AFTER_S)
    assert absence.look(back_at + 0.701)


def test_it_can_be_switched_off():
    absence = LeaderAbsence(after_s=0.0)
    absence.heard(10.0)
    absence.speaks_every(HEARTBEAT_S)
    absence.lost(10.1)
    assert absence.next_look_at() is None
    assert not absence.look(100.0)
