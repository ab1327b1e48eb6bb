from __future__ import annotations

import pytest

from hortator.runtime.metrics import new_registry
from hortator.scheduler.core.commands import Dispatch, Probe, Reject
from hortator.scheduler.core.events import PolicyChanged, RequestFinished, TimerFired
from hortator.scheduler.core.model import Batch, Phase, Placement, RejectReason
from hortator.scheduler.driver import MAX_RECENT_PLACEMENTS, Driver
from hortator.scheduler.metrics import SchedulerMetrics


class ScriptedMachine:
    """Answers each event with the next list of commands; an exception in the script is raised."""

    def __init__(self, *script):
        self.script = list(script)
        self.seen = []

    def handle(self, event, now):
        self.seen.append((now, event))
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def next_wakeup(self):
        return 12.5

    def snapshot(self, now):
        return ("snapshot", now)


class ListRecorder:
    def __init__(self):
        self.recorded = []
        self.answers = []

    def answered(self, now, commands):
        self.answers.append((now, list(commands)))

    def record(self, now, event):
        self.recorded.append((now, event))


@pytest.fixture
def registry():
    return new_registry(with_process=False)


def a_driver(machine, registry, **options):
    metrics = SchedulerMetrics(registry, policy="staggered")
    return Driver(machine, metrics=metrics, policy="staggered", **options)


def a_dispatch(count):
    members = tuple(
        Placement(request_id=f"r{n}", attempt=0, gateway_id="g", dp_rank=0, num_prefill_tokens=1, hold_s=0.0)
        for n in range(count)
    )
    return Dispatch(
        batch=Batch(
            batch_id="b",
            group_id="w",
            phase=Phase.PREFILL,
            dispatch_seq=1,
            predicted_pass_s=0.0,
            placements=members,
        )
    )


def test_an_event_goes_to_recorder_and_machine_and_its_commands_come_back(registry):
    machine, recorder = ScriptedMachine([Probe(group_id="w")]), ListRecorder()
    driver = a_driver(machine, registry, recorder=recorder)
    assert driver.handle(TimerFired(), 3.0) == [Probe(group_id="w")]
    assert machine.seen == recorder.recorded == [(3.0, TimerFired())]
    assert recorder.answers == [(3.0, [Probe(group_id="w")])]
    assert driver.next_wakeup() == 12.5
    assert driver.snapshot(4.0) == ("snapshot", 4.0)


def test_the_time_of_a_decision_is_measured_with_the_stopwatch(registry):
    ticks = iter((10.0, 10.25))
    driver = a_driver(ScriptedMachine([]), registry, stopwatch=lambda: next(ticks))
    driver.handle(TimerFired(), 0.0)
    assert registry.get_sample_value("hortator_scheduler_decision_seconds_sum") == 0.25


def test_an_event_the_core_fails_on_is_recorded_counted_and_the_next_one_is_handled(registry):
    machine, recorder = ScriptedMachine(RuntimeError("bug"), [Probe(group_id="w")]), ListRecorder()
    driver = a_driver(machine, registry, recorder=recorder)
    assert driver.handle(TimerFired(), 1.0) == []
    assert driver.handle(TimerFired(), 2.0) == [Probe(group_id="w")]
    assert len(recorder.recorded) == 2
    assert registry.get_sample_value("hortator_scheduler_core_errors_total", {"event": "TimerFired"}) == 1


def test_the_tally_keeps_the_newest_placements_and_counts_ends(registry):
    reject = Reject(request_id="x", attempt=0, gateway_id="g", reason=RejectReason.NO_WORKER)
    driver = a_driver(
        ScriptedMachine([a_dispatch(2)], [a_dispatch(MAX_RECENT_PLACEMENTS), reject], [], []), registry
    )
    driver.handle(TimerFired(), 0.0)
    assert [placed.placement.request_id for placed in driver.tally.recent_placements] == ["r0", "r1"]
    driver.handle(TimerFired(), 0.0)
    driver.handle(RequestFinished(request_id="r", num_output_tokens=1), 0.0)
    driver.handle(RequestFinished(request_id="r", num_output_tokens=0), 0.0)
    assert len(driver.tally.recent_placements) == MAX_RECENT_PLACEMENTS
    assert driver.tally.num_rejected == {RejectReason.NO_WORKER: 1}
    assert driver.tally.num_finished == 1


def test_the_policy_follows_the_event_that_changes_it(registry):
    driver = a_driver(ScriptedMachine([]), registry)
    assert driver.policy == "staggered"
    driver.handle(PolicyChanged(policy="fixed-batch"), 0.0)
    assert driver.policy == "fixed-batch"
