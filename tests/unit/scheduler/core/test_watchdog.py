"""Silence of a group that has work: suspect, then lost."""

import pytest

from hortator.scheduler.core.commands import Abort, DeclareLost, Dispatch, Probe
from hortator.scheduler.core.events import RequestCancelled, RequestFinished
from hortator.scheduler.core.model import AbortReason, LatencyClass


@pytest.fixture
def s(machine):
    """p0 is past its warm-up and has one request since 2.0; patience is 2 s."""
    scenario = machine()
    scenario.join()
    for i in range(6):
        scenario.run_pass(start=i * 0.2, end=i * 0.2 + 0.2, ran=(500, 500))
    scenario.arrive("a", now=2.0)
    return scenario


def test_a_silent_group_with_work_is_probed_and_given_nothing_more(s):
    """After max(3 x predicted pass, 2 s) since the dispatch."""
    assert s.machine.next_wakeup() == pytest.approx(4.0)
    assert s.tick(3.9) == []
    assert s.tick(4.01) == [Probe(group_id="p0")]
    assert s.tick(4.02) == []  # one probe is enough


def test_a_suspect_group_is_given_nothing(s):
    """Not even a critical request."""
    s.tick(4.01)
    s.arrive("b", now=4.1, latency_class=LatencyClass.CRITICAL)
    assert "b" not in s.where
    assert s.machine.snapshot(4.1).groups[0].state == "suspect"


def test_any_report_ends_the_suspicion(s):
    """And the group is given work again."""
    s.tick(4.01)
    s.arrive("b", now=4.1)
    s.report(now=4.2)
    assert s.where["b"] == ("p0", 0)
    assert s.tick(6.1) == []


def test_a_pass_start_without_loads_is_a_sign_of_life_too(s):
    """The silence counts from the last word, whatever it said."""
    s.start_pass(now=3.5, loads=False)
    assert s.tick(4.5) == []
    assert s.tick(5.6) == [Probe(group_id="p0")]


def test_a_group_that_stays_silent_after_the_probe_is_lost(s):
    """For as long again; its requests go back to their gateways."""
    s.tick(4.01)
    assert s.tick(5.9) == []
    assert s.tick(6.02) == [
        Abort(request_id="a", attempt=0, gateway_id="g", group_id="p0", reason=AbortReason.WORKER_LOST),
        DeclareLost(group_id="p0", boot_id="boot-1"),
    ]
    assert s.machine.fleet.groups == {}


def test_wakeups_alone_lead_to_the_verdicts(s):
    """A shell that only follows next_wakeup() gets the probe and the loss, in a bounded number of turns."""
    seen = []
    for _ in range(10):
        wakeup = s.machine.next_wakeup()
        if wakeup is None:
            break
        seen += s.tick(wakeup)
    assert [type(command) for command in seen] == [Probe, Abort, DeclareLost]
    assert wakeup is None


def test_a_group_without_work_may_be_silent(s):
    """It owes only heartbeats."""
    s.at(2.1, RequestCancelled(request_id="a"))
    assert s.tick(100.0) == []


def test_the_first_passes_of_a_worker_trip_nothing(machine):
    """Compilation may take a minute."""
    s = machine()
    s.join()
    s.arrive("a", now=0.0)
    assert s.tick(59.0) == []
    assert s.tick(60.01) == [Probe(group_id="p0")]


@pytest.mark.parametrize(("pass_s", "patience_s"), [(0.5, 2.0), (0.75, 2.25), (1.5, 2.5), (20.0, 2.5)])
def test_patience_grows_a_little_with_the_predicted_pass(machine, pass_s, patience_s):
    """Three times a pass, but 2.0 to 2.5 s: a process speaks whatever its engine does."""
    s = machine()
    s.join()
    now = 0.0
    for _ in range(60):
        s.run_pass(start=now, end=now + pass_s, ran=(1000, 1000))
        now += pass_s
    s.arrive("a", now=now)
    assert s.tick(now + patience_s - 0.1) == []
    assert s.tick(now + patience_s + 0.1) == [Probe(group_id="p0")]
    assert s.tick(now + patience_s + 2.0) == []
    assert len(s.tick(now + patience_s + 2.2)) == 2


def test_a_batch_that_a_timer_sends_to_a_group_long_silent_is_probed_in_the_same_step(machine):
    """The worker never said that it got `gone`, which was cancelled; nobody is woken again for no time."""
    s = machine(policy="fixed-batch", interval_s=0.02, watchdog_min_s=2.0, warmup_passes=0)
    s.join()
    s.run_pass(start=0.0, end=0.1)
    s.arrive("gone", now=0.2)
    s.tick(0.22)
    s.at(0.3, RequestCancelled(request_id="gone"))
    s.arrive("next", now=30.0)
    commands = s.tick(30.02)
    assert [type(command) for command in commands] == [Dispatch, Probe]
    assert s.machine.next_wakeup() > 30.02


def test_a_heartbeat_of_an_engine_with_nothing_in_it_says_that_its_pass_has_ended(machine, dispatched):
    """The report of the pass's end was lost; the group must not stay idle for good."""
    s = machine()
    s.join()
    s.arrive("r1", now=0.1)
    s.start_pass(now=0.1)
    s.at(0.3, RequestFinished(request_id="r1", num_output_tokens=1))
    assert not dispatched(s.arrive("r2", now=0.4))
    assert not dispatched(s.report(now=0.5, batch_size=(1, 0)))
    assert dispatched(s.report(now=0.6))
