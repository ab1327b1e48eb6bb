"""The shell under loop time: no test here waits in real time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hortator.runtime.metrics import new_registry
from hortator.scheduler.core.commands import Abort, DeclareLost, Dispatch, Probe, Reject
from hortator.scheduler.core.events import AdmissionStopped, PolicyChanged, TimerFired, WorkerDraining
from hortator.scheduler.core.leadership import Leadership, LeadershipSettings
from hortator.scheduler.core.model import (
    AbortReason,
    Batch,
    GroupSpec,
    Phase,
    Placement,
    RankLoads,
    RejectReason,
)
from hortator.scheduler.core.snapshot import GroupSnapshot, SchedulerSnapshot
from hortator.scheduler.driver import Driver
from hortator.scheduler.errors import CloseReason, OutboxClosedError
from hortator.scheduler.metrics import SchedulerMetrics
from hortator.scheduler.registry import DrainOrder, PlacementNotice
from hortator.scheduler.shell import Shell

pytestmark = pytest.mark.looptime

GROUP = GroupSpec(
    group_id="w", boot_id="b", phase=Phase.PREFILL, dp_size=1, chunk_budget_tokens=100, kv_blocks_total=10
)
EMPTY = SchedulerSnapshot(
    epoch=1,
    policy="staggered",
    num_waiting=0,
    waiting_tokens=0,
    num_waiting_decode=0,
    oldest_wait_s=0.0,
    num_in_flight=0,
    groups=(),
)


class FakeMachine:
    """Keeps what it was told; a test sets its answers."""

    def __init__(self):
        self.seen = []
        self.answers = {}
        self.wakeup = None
        self.shown = EMPTY

    def handle(self, event, now):
        self.seen.append((now, event))
        answer = self.answers.get(type(event), [])
        return answer(now) if callable(answer) else answer

    def next_wakeup(self):
        return self.wakeup

    def snapshot(self, now):
        return self.shown


@pytest.fixture
def machine():
    return FakeMachine()


def leads_in(epoch):
    return Leadership(LeadershipSettings(), tag=0, epoch=epoch)


def a_shell(machine):
    """To be made in the test itself: fixtures run under another loop time."""
    metrics = SchedulerMetrics(new_registry(with_process=False), policy="staggered")
    return Shell(
        Driver(machine, metrics=metrics, policy="staggered"), leadership=leads_in(1), metrics=metrics
    )


def fired(machine):
    return [now for now, event in machine.seen if event == TimerFired()]


def an_abort(reason):
    return Abort(request_id="r", attempt=0, gateway_id="gw", group_id="w", reason=reason)


def a_batch():
    members = tuple(
        Placement(request_id=name, attempt=0, gateway_id=gateway, dp_rank=0, num_prefill_tokens=1, hold_s=0.0)
        for name, gateway in (("a", "gw"), ("b", "other"), ("c", "gw"))
    )
    return Batch(
        batch_id="1-1",
        group_id="w",
        phase=Phase.PREFILL,
        dispatch_seq=3,
        predicted_pass_s=0.1,
        placements=members,
    )


async def test_the_machine_is_woken_when_it_asked_to_be(machine):
    shell = a_shell(machine)
    start = shell.now()
    machine.wakeup = start + 2.0
    shell.handle(AdmissionStopped())
    machine.answers[TimerFired] = lambda _now: setattr(machine, "wakeup", None) or []
    await asyncio.sleep(5.0)
    assert fired(machine) == [pytest.approx(start + 2.0)]


async def test_an_earlier_wakeup_moves_the_timer_and_a_later_one_fires_nothing_early(machine):
    shell = a_shell(machine)
    start = shell.now()
    machine.answers[TimerFired] = lambda _now: setattr(machine, "wakeup", None) or []
    machine.wakeup = start + 5.0
    shell.handle(AdmissionStopped())
    machine.wakeup = start + 1.0
    shell.handle(AdmissionStopped())
    machine.wakeup = start + 3.0
    shell.handle(AdmissionStopped())
    await asyncio.sleep(10.0)
    assert fired(machine) == [pytest.approx(start + 3.0)]


async def test_a_wakeup_that_stays_in_the_past_does_not_spin(machine):
    shell = a_shell(machine)
    machine.wakeup = shell.now() - 1.0
    shell.handle(AdmissionStopped())
    await asyncio.sleep(0.01)
    assert 1 <= len(fired(machine)) <= 21  # at most every half millisecond


async def test_time_never_goes_back_for_the_machine(machine):
    shell = a_shell(machine)
    machine.wakeup = shell.now() + 0.5
    shell.handle(AdmissionStopped())
    await asyncio.sleep(0.6)
    shell.handle(AdmissionStopped())
    times = [now for now, _ in machine.seen]
    assert times == sorted(times)


async def test_a_dispatch_goes_to_the_worker_and_each_placement_to_its_gateway(machine):
    shell = a_shell(machine)
    worker = shell.workers.connect(GROUP, sequence=1)
    gateway, other = shell.gateways.connect("gw"), shell.gateways.connect("other")
    batch = a_batch()
    machine.answers[AdmissionStopped] = [Dispatch(batch=batch)]
    shell.handle(AdmissionStopped())
    assert await worker.outbox.take() == [batch]
    assert worker.highest_dispatch_seq == 3
    notices = [PlacementNotice(batch, placement, GROUP) for placement in batch.placements]
    assert await gateway.outbox.take() == [notices[0], notices[2]]
    assert await other.outbox.take() == [notices[1]]


async def test_several_events_are_handled_before_anything_is_written(machine):
    shell = a_shell(machine)
    gateway = shell.gateways.connect("gw")
    reject = Reject(request_id="r", attempt=0, gateway_id="gw", reason=RejectReason.DRAINING)
    machine.answers[AdmissionStopped] = [reject]
    shell.handle_all([AdmissionStopped()] * 3)
    assert await gateway.outbox.take() == [reject] * 3


@pytest.mark.parametrize("reason", AbortReason)
async def test_an_abort_corrects_the_worker_and_tells_the_gateway_unless_it_knows(machine, reason):
    shell = a_shell(machine)
    worker, gateway = shell.workers.connect(GROUP, sequence=1), shell.gateways.connect("gw")
    machine.answers[AdmissionStopped] = [an_abort(reason)]
    shell.handle(AdmissionStopped())
    assert await worker.outbox.take() == [an_abort(reason)]
    is_told = reason not in {AbortReason.CANCELLED, AbortReason.GATEWAY_LOST, AbortReason.SUPERSEDED}
    assert len(gateway.outbox) == (1 if is_told else 0)


async def test_a_probe_goes_to_the_worker_and_a_declared_loss_closes_its_stream(machine):
    shell = a_shell(machine)
    worker = shell.workers.connect(GROUP, sequence=1)
    machine.answers[AdmissionStopped] = [Probe(group_id="w"), DeclareLost(group_id="w", boot_id="b")]
    shell.handle(AdmissionStopped())
    assert await worker.outbox.take() == [Probe(group_id="w")]
    with pytest.raises(OutboxClosedError) as caught:
        await worker.outbox.take()
    assert caught.value.reason is CloseReason.DECLARED_LOST
    assert shell.workers.get("w") is None


async def test_commands_for_a_worker_that_is_gone_are_dropped(machine):
    shell = a_shell(machine)
    machine.answers[AdmissionStopped] = [
        Dispatch(batch=a_batch()),
        Probe(group_id="w"),
        an_abort(AbortReason.WORKER_LOST),
    ]
    gateway = shell.gateways.connect("gw")
    shell.handle(AdmissionStopped())
    assert await gateway.outbox.take() == [an_abort(AbortReason.WORKER_LOST)]


async def test_the_policy_changes_through_the_machine(machine):
    shell = a_shell(machine)
    assert shell.change_policy("fixed-batch") == "staggered"
    assert shell.policy == "fixed-batch"
    assert machine.seen[-1][1] == PolicyChanged(policy="fixed-batch")


def with_in_flight(count):
    loads = RankLoads(prefill_load_tokens=(0,), batch_size=(0,), kv_blocks_used=(0,))
    group = GroupSnapshot(
        spec=GROUP,
        state="draining",
        forward_pass_id=0,
        last_report_age_s=0.0,
        predicted_pass_s=0.0,
        loads=loads,
        num_in_flight=count,
    )
    return replace(EMPTY, groups=(group,))


async def test_a_drained_worker_has_acknowledged_and_nothing_in_flight(machine):
    shell = a_shell(machine)
    worker = shell.workers.connect(GROUP, sequence=1)
    machine.shown = with_in_flight(2)
    drain = asyncio.ensure_future(shell.drain_worker("w", timeout_s=60.0))
    await asyncio.sleep(1.0)
    assert machine.seen[-1][1] == WorkerDraining(group_id="w")
    assert await worker.outbox.take() == [DrainOrder()]
    machine.shown = with_in_flight(0)
    await asyncio.sleep(1.0)
    assert not drain.done()
    worker.is_draining = True
    await asyncio.sleep(1.0)
    assert drain.done()
    assert await drain == 0


async def test_a_drain_that_times_out_says_how_many_are_left(machine):
    shell = a_shell(machine)
    shell.workers.connect(GROUP, sequence=1)
    machine.shown = with_in_flight(2)
    start = shell.now()
    assert await shell.drain_worker("w", timeout_s=3.0) == 2
    assert shell.now() - start == pytest.approx(3.0, abs=0.1)


async def test_a_worker_that_leaves_while_it_drains_is_drained(machine):
    shell = a_shell(machine)
    worker = shell.workers.connect(GROUP, sequence=1)
    machine.shown = with_in_flight(2)
    drain = asyncio.ensure_future(shell.drain_worker("w", timeout_s=60.0))
    await asyncio.sleep(1.0)
    shell.workers.disconnect(worker, has_left=True)
    assert await drain == 0


async def test_an_unknown_worker_cannot_be_drained(machine):
    shell = a_shell(machine)
    with pytest.raises(KeyError):
        await shell.drain_worker("nobody", timeout_s=1.0)


async def test_the_service_drains_when_nothing_waits_for_any_placement(machine):
    shell = a_shell(machine)
    machine.shown = replace(EMPTY, num_waiting=1)
    drain = asyncio.ensure_future(shell.drain(timeout_s=60.0))
    await asyncio.sleep(1.0)
    assert machine.seen[-1][1] == AdmissionStopped()
    machine.shown = replace(EMPTY, num_waiting_decode=1)
    await asyncio.sleep(1.0)
    assert not drain.done()
    machine.shown = EMPTY
    assert await drain is True


async def test_the_drain_of_the_service_has_a_timeout(machine):
    shell = a_shell(machine)
    machine.shown = replace(EMPTY, num_waiting=1)
    assert await shell.drain(timeout_s=5.0) is False


async def test_the_gauges_are_refreshed_about_once_a_second(machine):
    registry = new_registry(with_process=False)
    metrics = SchedulerMetrics(registry, policy="staggered")
    shell = Shell(
        Driver(machine, metrics=metrics, policy="staggered"), leadership=leads_in(1), metrics=metrics
    )
    shell.start()
    machine.shown = replace(EMPTY, waiting_tokens=77)
    await asyncio.sleep(1.5)
    assert registry.get_sample_value("hortator_scheduler_waiting_tokens") == 77
    assert shell.is_alive()
    shell.close()
    await asyncio.sleep(20.0)
    assert not shell.is_alive()


async def test_a_closed_shell_ends_all_streams_and_takes_no_events(machine):
    shell = a_shell(machine)
    worker, gateway = shell.workers.connect(GROUP, sequence=1), shell.gateways.connect("gw")
    before = len(machine.seen)
    shell.close()
    shell.handle(AdmissionStopped())
    assert len(machine.seen) == before
    for stream in (worker, gateway):
        with pytest.raises(OutboxClosedError) as caught:
            await stream.outbox.take()
        assert caught.value.reason is CloseReason.STOPPED
