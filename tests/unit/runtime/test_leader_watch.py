"""Whom those who are led obey."""

from __future__ import annotations

import asyncio

import pytest

from hortator.runtime.leader_follower import LeaderFollower
from hortator.runtime.leader_watch import LeaderSeen, LeaderWatch


@pytest.fixture
def watch():
    return LeaderWatch(timeout_s=2.0)


def test_before_anybody_has_spoken_there_is_no_leader(watch):
    assert watch.leader(0.0) is None
    assert watch.seen(0.0) == LeaderSeen(epoch=0, is_there=False)
    assert watch.next_check_at() is None


def test_a_standby_is_never_obeyed(watch):
    assert not watch.spoke("s0", 0, 0.0)
    assert watch.leader(0.0) is None


def test_the_highest_epoch_is_obeyed_and_an_older_one_never_again(watch):
    assert watch.spoke("s0", 5, 0.0)
    assert watch.spoke("s1", 6, 0.1)
    assert not watch.spoke("s0", 5, 0.2)
    assert watch.leader(0.2) == "s1"
    watch.lost("s1")
    assert not watch.spoke("s0", 5, 0.3)
    assert watch.seen(0.3) == LeaderSeen(epoch=6, is_there=False)


def test_an_epoch_belongs_to_the_first_that_spoke_in_it(watch):
    assert watch.spoke("s0", 5, 0.0)
    assert not watch.spoke("s1", 5, 0.1)
    watch.lost("s0")
    assert not watch.spoke("s1", 5, 0.2)
    assert watch.spoke("s0", 5, 0.3)
    assert watch.leader(0.3) == "s0"


def test_silence_takes_the_leader_away_and_a_word_brings_it_back(watch):
    watch.spoke("s0", 5, 0.0)
    assert watch.next_check_at() == 2.0
    assert watch.leader(1.9) == "s0"
    assert watch.seen(2.0) == LeaderSeen(epoch=5, is_there=False)
    assert watch.spoke("s0", 5, 3.0)
    assert watch.leader(4.9) == "s0"


def test_a_leader_that_says_itself_that_it_is_a_standby_is_gone_at_once(watch):
    watch.spoke("s0", 5, 0.0)
    assert not watch.spoke("s0", 0, 0.1)
    assert watch.leader(0.1) is None


def test_the_end_of_a_standby_changes_nothing(watch):
    watch.spoke("s0", 5, 0.0)
    watch.lost("s1")
    assert watch.leader(0.1) == "s0"


@pytest.mark.looptime
async def test_a_follower_tells_of_every_change_silence_included():
    told = []
    follower = LeaderFollower(timeout_s=2.0, on_change=lambda: told.append((follower.leader, follower.seen)))
    start = asyncio.get_running_loop().time()
    follower.spoke("s0", 5)
    follower.spoke("s0", 5)
    assert told == [("s0", LeaderSeen(epoch=5, is_there=True))]
    await asyncio.sleep(1.5)
    follower.spoke("s0", 5)
    while len(told) == 1:
        await asyncio.sleep(0.1)
    assert told[1] == (None, LeaderSeen(epoch=5, is_there=False))
    assert asyncio.get_running_loop().time() - start == pytest.approx(3.5, abs=0.11)
    follower.spoke("s1", 6)
    follower.lost("s1")
    assert [leader for leader, _ in told] == ["s0", None, "s1", None]
    follower.close()
