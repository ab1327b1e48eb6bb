"""A member's side of a group: events in, commands out, literal times."""

from __future__ import annotations

import pytest

from hortator.worker.group.member import GroupLimits
from hortator.worker.group.membership import (
    EXIT_FENCED,
    EXIT_GROUP_BROKEN,
    Completed,
    DialAgain,
    Dismissed,
    End,
    GroupBroke,
    LeaderHeard,
    LinkFailed,
    Membership,
    MembershipState,
    Refused,
    SendHeartbeat,
    SendLeaving,
    StopRequested,
    TimePassed,
    Welcomed,
)

LIMITS = GroupLimits(startup_timeout_s=60.0, heartbeat_interval_s=1.0, heartbeat_timeout_s=6.0)
WELCOME = Welcomed(heartbeat_interval_s=1.0, heartbeat_timeout_s=6.0)


def a_membership(*events, at: float = 0.0) -> Membership:
    membership = Membership(LIMITS, leader_address="svc-d-0-0.svc-d-0:7072", now=0.0)
    for event in events:
        membership.handle(event, at)
    return membership


def run_until(membership, end: float, *, is_heard: bool) -> list:
    said = []
    while (at := membership.next_wakeup()) is not None and at <= end:
        if is_heard:
            said += membership.handle(LeaderHeard(), at)
        said += membership.handle(TimePassed(), at)
    return said


def test_a_leader_that_is_not_there_yet_is_dialled_again_with_longer_pauses():
    membership = a_membership()
    pauses = [membership.handle(LinkFailed(why="no such name"), 1.0) for _ in range(6)]
    assert pauses == [[DialAgain(after_s=s)] for s in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0)]


def test_the_start_up_timeout_ends_it_with_the_last_reason():
    membership = a_membership(LinkFailed(why="no such name"))
    assert membership.next_wakeup() == 60.0
    assert membership.handle(TimePassed(), 60.0) == [
        End(
            exit_code=EXIT_GROUP_BROKEN,
            message="did not reach the leader at svc-d-0-0.svc-d-0:7072 within 60 s: no such name",
        )
    ]


def test_a_group_that_does_not_become_complete_ends_at_the_start_up_timeout():
    membership = a_membership(WELCOME)
    said = run_until(membership, 60.0, is_heard=True)
    assert said[-1] == End(exit_code=EXIT_GROUP_BROKEN, message="the group was not complete within 60 s")


def test_a_refusal_for_good_ends_it():
    assert a_membership().handle(Refused(message="epoch 2 is over", try_again=False), 1.0) == [
        End(exit_code=EXIT_FENCED, message="refused by the leader: epoch 2 is over")
    ]


def test_a_leader_that_is_the_wrong_one_is_dialled_again():
    assert a_membership().handle(Refused(message="of epoch 2", try_again=True), 1.0) == [
        DialAgain(after_s=0.1)
    ]


@pytest.mark.parametrize("events", [(WELCOME,), (WELCOME, Completed())])
def test_a_broken_link_after_the_welcome_is_the_end(events):
    assert a_membership(*events).handle(LinkFailed(why="reset"), 1.0) == [
        End(exit_code=EXIT_GROUP_BROKEN, message="lost the leader at svc-d-0-0.svc-d-0:7072: reset")
    ]


def test_a_silent_leader_is_lost_after_the_heartbeat_timeout():
    membership = a_membership(WELCOME, Completed())
    said = run_until(membership, 100.0, is_heard=False)
    assert said == [SendHeartbeat()] * 5 + [
        End(
            exit_code=EXIT_GROUP_BROKEN, message="lost the leader at svc-d-0-0.svc-d-0:7072: silent for 6.0 s"
        )
    ]


def test_silence_does_not_count_while_the_member_itself_did_not_run():
    membership = a_membership(WELCOME, Completed())
    assert membership.handle(TimePassed(), 30.0) == [SendHeartbeat()]
    assert membership.state is MembershipState.COMPLETE


def test_heartbeats_go_on_while_the_leader_is_heard():
    membership = a_membership(WELCOME, Completed())
    assert run_until(membership, 100.0, is_heard=True) == [SendHeartbeat()] * 100


def test_told_to_stop_it_says_so_once_and_stays_until_it_is_dismissed():
    membership = a_membership(WELCOME, Completed())
    assert membership.handle(StopRequested(), 5.0) == [SendLeaving()]
    assert membership.handle(StopRequested(), 5.1) == []
    assert membership.handle(Dismissed(), 9.0) == [End(exit_code=0, message="the leader has drained")]
    assert membership.handle(LinkFailed(why="closed"), 9.1) == []


def test_told_to_stop_it_ends_in_order_when_the_leader_is_gone():
    membership = a_membership(WELCOME, Completed(), StopRequested())
    assert membership.handle(LinkFailed(why="reset"), 5.0) == [
        End(exit_code=0, message="the leader is gone: reset")
    ]


def test_told_to_stop_before_it_has_joined_it_just_ends():
    assert a_membership(LinkFailed(why="x")).handle(StopRequested(), 1.0) == [
        End(exit_code=0, message="told to stop before it joined")
    ]


def test_the_reason_of_the_leader_is_passed_on():
    assert a_membership(WELCOME).handle(GroupBroke(message="the engine died"), 1.0) == [
        End(exit_code=EXIT_GROUP_BROKEN, message="the group is broken: the engine died")
    ]
