"""The leader's side of a group: events in, commands out, literal times."""

from __future__ import annotations

import pytest

from hortator.worker.group.assembly import (
    Assembly,
    AssemblyState,
    Break,
    Dismiss,
    Drain,
    Heard,
    Joined,
    LeaderDrained,
    LeaderFailed,
    LeaderStarted,
    Leaving,
    LinkBroke,
    Refuse,
    SayComplete,
    SayHeartbeat,
    SayStarted,
    TimePassed,
    Welcome,
)
from hortator.worker.group.member import GroupLimits, GroupPlace, Member

LIMITS = GroupLimits(startup_timeout_s=60.0, heartbeat_interval_s=1.0, heartbeat_timeout_s=6.0)


def a_member(
    ordinal: int,
    *,
    epoch: int = 3,
    boot: str = "a",
    worker_id: str = "decode-0",
    size: int = 3,
    made: str = "x",
) -> Member:
    place = GroupPlace(
        worker_id=worker_id,
        group_size=size,
        ordinal=ordinal,
        epoch=epoch,
        pod_name=f"svc-d-0-{ordinal}",
        node_name="n1",
        incarnation=made,
    )
    return Member(place=place, boot_id=f"{epoch}-{boot}")


def an_assembly(*, size: int = 3) -> Assembly:
    assembly = Assembly(a_member(0, size=size), LIMITS, now=0.0)
    assembly.start()
    return assembly


def a_complete_assembly() -> Assembly:
    assembly = an_assembly()
    assembly.handle(Joined(link=1, member=a_member(1)), 1.0)
    assembly.handle(Joined(link=2, member=a_member(2)), 1.0)
    return assembly


def run_until(assembly: Assembly, end: float, *, heard: tuple[int, ...] = ()) -> list:
    """Let time pass; links in `heard` say that they are here every time."""
    said = []
    while (at := assembly.next_wakeup()) is not None and at <= end:
        for link in heard:
            said += assembly.handle(Heard(link=link), at)
        said += assembly.handle(TimePassed(), at)
    return said


def test_a_group_of_one_is_complete_at_once():
    assembly = Assembly(a_member(0, size=1), LIMITS, now=0.0)
    assert assembly.start() == [SayComplete(links=())]
    assert assembly.state is AssemblyState.COMPLETE


def test_the_group_is_complete_when_the_last_member_joins_in_any_order():
    assembly = an_assembly()
    assert assembly.handle(Joined(link=7, member=a_member(2)), 1.0) == [Welcome(link=7)]
    assert assembly.missing == (1,)
    assert assembly.handle(Joined(link=8, member=a_member(1)), 2.0) == [
        Welcome(link=8),
        SayComplete(links=(7, 8)),
    ]
    assert [member.place.ordinal for member in assembly.members] == [0, 1, 2]


def test_a_second_boot_of_an_ordinal_is_refused_and_breaks_the_group():
    assembly = a_complete_assembly()
    refusal, end = assembly.handle(Joined(link=9, member=a_member(2, boot="b")), 5.0)
    message = "member 2 (svc-d-0-2 on n1, boot 3-b): epoch 3 was joined by boot 3-a already"
    assert refusal == Refuse(link=9, message=message, try_again=False)
    assert end == Break(links=(1, 2), message=message)


def test_an_older_epoch_is_refused_for_good_and_the_group_goes_on():
    assembly = an_assembly()
    said = assembly.handle(Joined(link=1, member=a_member(1, epoch=2)), 1.0)
    assert said == [Refuse(link=1, message="epoch 2 is over: this group is in epoch 3", try_again=False)]
    assert assembly.state is AssemblyState.ASSEMBLING
    assert assembly.handle(Joined(link=2, member=a_member(1)), 2.0) == [Welcome(link=2)]


def test_a_newer_epoch_ends_the_leader_and_lets_the_member_dial_again():
    assembly = an_assembly()
    refusal, end = assembly.handle(Joined(link=1, member=a_member(1, epoch=4)), 1.0)
    assert isinstance(refusal, Refuse)
    assert refusal.try_again
    assert isinstance(end, Break)
    assert "is of epoch 4, this leader of epoch 3" in end.message


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        (a_member(1, worker_id="decode-1"), "this is the leader of decode-0, not of decode-1"),
        (a_member(1, size=2), "this group has 3 members, not 2"),
        (a_member(1, made="y"), "this is incarnation 'x' of decode-0, not 'y'"),
        (a_member(1, made="", epoch=2), "this is incarnation 'x' of decode-0, not ''"),
        (a_member(1, made="y", epoch=9), "this is incarnation 'x' of decode-0, not 'y'"),
        (a_member(3), "no member 3 in a group of 3"),
        (a_member(0, boot="b"), "no member 0 in a group of 3"),
    ],
)
def test_a_stranger_is_refused_and_may_look_elsewhere(stranger, message):
    assembly = an_assembly()
    assert assembly.handle(Joined(link=1, member=stranger), 1.0) == [
        Refuse(link=1, message=message, try_again=True)
    ]
    assert assembly.state is AssemblyState.ASSEMBLING


@pytest.mark.parametrize("complete", [True, False])
def test_a_member_whose_link_breaks_breaks_the_group(complete):
    assembly = a_complete_assembly() if complete else an_assembly()
    if not complete:
        assembly.handle(Joined(link=1, member=a_member(1)), 1.0)
    (end,) = assembly.handle(LinkBroke(link=1, why="reset"), 2.0)
    assert end == Break(
        links=(2,) if complete else (), message="lost member 1 (svc-d-0-1 on n1, boot 3-a): reset"
    )
    assert assembly.handle(Joined(link=5, member=a_member(1, boot="c")), 3.0) == [
        Refuse(link=5, message="this group has ended", try_again=True)
    ]


def test_a_silent_member_breaks_the_group_within_the_heartbeat_timeout():
    assembly = a_complete_assembly()
    said = run_until(assembly, 60.0, heard=(1,))
    assert said[-1] == Break(
        links=(1,), message="lost member 2 (svc-d-0-2 on n1, boot 3-a): silent for 6.0 s"
    )
    assert said[:-1] == [SayHeartbeat(links=(1, 2))] * 6


def test_members_that_are_heard_stay_and_hear_the_leader():
    assembly = a_complete_assembly()
    said = run_until(assembly, 1000.0, heard=(1, 2))
    assert set(map(type, said)) == {SayHeartbeat}
    assert assembly.state is AssemblyState.COMPLETE


def test_silence_does_not_count_while_the_leader_itself_did_not_run():
    assembly = a_complete_assembly()
    assert assembly.handle(TimePassed(), 30.0) == [SayHeartbeat(links=(1, 2))]
    assert run_until(assembly, 35.9) == [SayHeartbeat(links=(1, 2))] * 5
    assert isinstance(run_until(assembly, 36.0)[-1], Break)


def test_a_group_that_does_not_assemble_in_time_names_who_is_missing():
    assembly = an_assembly()
    assembly.handle(Joined(link=2, member=a_member(2)), 1.0)
    said = run_until(assembly, 100.0, heard=(2,))
    assert said[-1] == Break(links=(2,), message="epoch 3: 2 of 3 members joined within 60 s (missing: 1)")


def test_a_member_that_is_told_to_stop_makes_the_leader_drain_and_all_are_dismissed():
    assembly = a_complete_assembly()
    assert assembly.handle(Leaving(link=2), 5.0) == [
        Drain(why="member 2 (svc-d-0-2 on n1, boot 3-a) was told to stop")
    ]
    assert assembly.handle(Leaving(link=2), 5.0) == []
    assert assembly.handle(LeaderDrained(), 6.0) == [Dismiss(links=(1, 2))]
    assert assembly.handle(LinkBroke(link=1, why="closed"), 6.1) == []
    assert assembly.next_wakeup() is None


def test_a_member_that_leaves_before_the_leader_has_drained_breaks_the_group():
    assembly = a_complete_assembly()
    assembly.handle(Leaving(link=2), 5.0)
    assert isinstance(assembly.handle(LinkBroke(link=2, why="closed"), 5.5)[0], Break)


def test_an_engine_that_dies_breaks_the_group_with_its_reason():
    assembly = a_complete_assembly()
    assert assembly.handle(LeaderFailed(why="the engine died: rank 3"), 9.0) == [
        Break(links=(1, 2), message="the engine died: rank 3")
    ]
    assert assembly.handle(LeaderDrained(), 9.1) == []


def test_members_are_told_that_the_engine_has_started():
    assert a_complete_assembly().handle(LeaderStarted(), 30.0) == [SayStarted(links=(1, 2))]


def test_nobody_is_told_so_of_a_group_that_is_over():
    assembly = a_complete_assembly()
    assembly.handle(LinkBroke(link=1, why="gone"), 20.0)
    assert assembly.handle(LeaderStarted(), 30.0) == []
