"""Workers that talk nonsense, hang while they speak, or whose clocks jump: believed no longer than they deserve."""

import pytest

from hortator.scheduler.core import machine as core
from hortator.scheduler.core.commands import DeclareLost, Probe
from hortator.scheduler.core.events import (
    ForwardPassEnded,
    PlacementRefused,
    ReportsRefused,
    RequestCancelled,
    WorkerLost,
)
from hortator.scheduler.core.fleet import MAX_CLOSINGS
from hortator.scheduler.core.model import BlocksChanged, LostReason, RankLoads
from hortator.scheduler.core.watchdog import MAX_SILENCE_S

WEEK_S = 7 * 24 * 3600.0


@pytest.fixture
def s(machine):
    """p0 is past its warm-up and idle at 2.0."""
    scenario = machine()
    scenario.join()
    for i in range(6):
        scenario.run_pass(start=i * 0.2, end=i * 0.2 + 0.2, ran=(500, 500))
    return scenario


def lost(commands):
    return [command for command in commands if isinstance(command, DeclareLost)]


def speak(s, start, end, *, every=0.5):
    """Idle, it says, again and again; what came of it."""
    commands, now = [], start
    while now < end:
        commands += s.report(now=now)
        commands += s.tick(now)
        now += every
    return commands


def speak_in_a_pass(s, start, end):
    """It has something to do, it says, again and again; what came of it until it was lost."""
    now = start
    while now < end:
        commands = s.report(now=now, batch_size=(1, 0)) + s.tick(now)
        if lost(commands):
            return commands
        now += 0.5
    return []


def test_a_doubted_worker_is_given_nothing_until_it_makes_sense(s):
    s.at(2.0, ReportsRefused(group_id="p0"))
    assert s.machine.snapshot(2.0).groups[0].state == "suspect"
    s.arrive("a", now=2.1)
    assert s.where == {}
    s.report(now=2.2)
    assert s.where == {"a": ("p0", 0)}


def test_a_doubted_worker_with_work_is_probed_and_lost_like_a_silent_one(s):
    s.arrive("a", now=2.0)
    s.at(2.1, ReportsRefused(group_id="p0"))
    assert s.tick(4.01) == [Probe(group_id="p0")]
    assert lost(s.tick(6.02)) == [DeclareLost(group_id="p0", boot_id="boot-1", reason=LostReason.SILENT)]


def test_nonsense_of_a_worker_that_nobody_knows_changes_nothing(s):
    assert s.at(2.0, ReportsRefused(group_id="p9")) == []


def test_a_worker_that_speaks_but_runs_nothing_is_lost(s):
    """It swallows what it is given, and draws more by being idle: only that no pass runs gives it away."""
    s.arrive("a", now=2.0)
    assert lost(speak(s, 2.1, 31.5)) == []
    s.arrive("b", now=31.6)
    assert s.where["b"] == ("p0", 0)
    assert lost(speak(s, 31.7, 32.5)) == [
        DeclareLost(group_id="p0", boot_id="boot-1", reason=LostReason.STALLED)
    ]
    assert s.machine.requests == {}


def test_clients_that_give_up_do_not_hide_that_nothing_runs(s):
    for number in range(32):
        s.arrive(f"r{number}", now=2.0 + number)
        s.report(now=2.1 + number)
        s.at(2.9 + number, RequestCancelled(request_id=f"r{number - 1}"))
    assert lost(s.tick(34.5))[0].reason is LostReason.STALLED


def test_a_worker_that_refuses_has_not_stalled(s):
    """Its gateways cannot reach it, or its gate is shut: what it was given comes back."""
    s.arrive("a", now=2.0)
    for number in range(60):
        now = 3.0 + number
        s.at(now, PlacementRefused(request_id="a", group_id="p0"))
        assert lost(s.report(now=now + 0.1) + s.tick(now + 0.1)) == []
    assert s.where["a"] == ("p0", 0)


def test_a_worker_that_runs_passes_is_never_lost_however_long_a_request_takes(s):
    s.arrive("a", now=2.0)
    for number in range(600):
        start = 2.0 + number * 0.5
        s.start_pass(now=start)
        assert lost(s.end_pass(now=start + 0.4, batch_size=(1, 0)) + s.tick(start + 0.4)) == []


def test_a_pass_that_is_said_to_take_a_week_makes_nobody_wait_a_week(s):
    s.arrive("a", now=2.0)
    s.start_pass(now=2.1, predicted_s=WEEK_S)
    assert s.tick(2.2 + MAX_SILENCE_S) == [Probe(group_id="p0")]
    assert lost(s.tick(2.3 + MAX_SILENCE_S + 2.0))


def test_a_worker_that_speaks_in_a_pass_that_takes_a_week_is_lost_in_a_minute(s):
    s.arrive("a", now=2.0)
    s.start_pass(now=2.1, predicted_s=WEEK_S, batch_size=(1, 0))
    (verdict,) = lost(speak_in_a_pass(s, 2.2, 70.0))
    assert verdict.reason is LostReason.STALLED


def test_a_pass_that_took_a_week_by_a_clock_that_jumped_is_soon_forgotten(s):
    estimator = s.group().estimator
    before_s = estimator.predict_s(500)
    s.start_pass(now=2.0)
    s.end_pass(now=2.2, ran=(500, 500), duration_s=WEEK_S)
    assert estimator.predict_s(500) < 2.0
    for number in range(50):
        s.run_pass(start=3.0 + number, end=3.2 + number, ran=(500, 500))
    assert estimator.predict_s(500) == pytest.approx(before_s, rel=0.25)


def test_an_engine_that_has_become_slow_is_followed(s):
    for number in range(20):
        s.run_pass(start=10.0 * number + 2, end=10.0 * number + 9, ran=(500, 500))
    assert s.group().estimator.predict_s(500) == pytest.approx(7.0, rel=0.2)


def test_passes_said_to_take_a_week_and_ended_at_once_are_not_remembered_for_a_week(s):
    s.group().boundary.missed()
    for number in range(10 * MAX_CLOSINGS):
        s.start_pass(now=2.0 + number, predicted_s=WEEK_S)
        s.end_pass(now=2.5 + number)
    assert len(s.machine.fleet._closings) <= MAX_CLOSINGS


def test_a_worker_cannot_store_more_blocks_than_it_can_hold(s):
    group = s.group()
    most = 4 * group.spec.dp_size * group.spec.kv_blocks_total
    for number in range(100):
        stored = tuple(range(number * 100, number * 100 + 100))
        changes = (BlocksChanged(dp_rank=0, stored=stored),)
        zeros = (0, 0)
        loads = RankLoads(
            prefill_load_tokens=zeros, batch_size=zeros, kv_blocks_used=zeros, blocks_changed=changes
        )
        s.at(
            2.0,
            ForwardPassEnded(
                group_id="p0", forward_pass_id=9, duration_s=0.1, included_dispatch_seq=0, loads=loads
            ),
        )
        assert len(group.prefixes) <= most
    assert group.prefixes.match((9999,)), "the newest are found"


def test_workers_that_come_and_go_under_ever_new_names_leave_little_behind(machine, monkeypatch):
    monkeypatch.setattr(core, "MAX_LEFT", 10)
    s = machine()
    for number in range(100):
        s.join(f"p{number}", now=float(number))
        s.at(number + 0.5, WorkerLost(group_id=f"p{number}"))
    assert len(s.machine._left) == 10
