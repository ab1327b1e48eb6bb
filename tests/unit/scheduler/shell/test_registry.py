from __future__ import annotations

import pytest

from hortator.scheduler.core.commands import Probe
from hortator.scheduler.core.events import GatewayLost, ReportsRefused, WorkerJoined, WorkerLost
from hortator.scheduler.core.model import GroupSpec, Phase
from hortator.scheduler.errors import CloseReason, OutboxClosedError
from hortator.scheduler.registry import (
    MAX_NONSENSE,
    MAX_NONSENSE_ON_STREAM,
    GatewayRegistry,
    InvalidRequest,
    WorkerRegistry,
)


class FakeLater:
    """`call_later` whose time a test moves."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self, delay_s, callback):
        call = FakeCall(self.now + delay_s, callback)
        self.calls.append(call)
        return call

    def advance(self, seconds):
        self.now += seconds
        due = [call for call in self.calls if call.at <= self.now]
        self.calls = [call for call in self.calls if call.at > self.now]
        for call in due:
            if not call.is_cancelled:
                call.callback()


class FakeCall:
    def __init__(self, at, callback):
        self.at = at
        self.callback = callback
        self.is_cancelled = False

    def cancel(self):
        self.is_cancelled = True


class Bench:
    def __init__(self):
        self.events = []
        self.later = FakeLater()
        self.workers = WorkerRegistry(self.events.append, call_later=self.later, grace_s=1.0)
        self.gateways = GatewayRegistry(self.events.append, call_later=self.later, grace_s=1.0)

    def take_events(self):
        events, self.events[:] = list(self.events), []
        return events


@pytest.fixture
def bench():
    return Bench()


def a_group(boot="b1", **changes):
    fields = {"group_id": "w", "boot_id": boot, "phase": Phase.PREFILL, "dp_size": 2}
    return GroupSpec(**{**fields, "chunk_budget_tokens": 100, "kv_blocks_total": 10, **changes})


def test_a_hello_joins_the_worker(bench):
    stream = bench.workers.connect(a_group(), sequence=1)
    assert bench.take_events() == [WorkerJoined(group=a_group())]
    assert bench.workers.get("w") is stream


def test_a_stale_repeated_or_foreign_report_is_dropped(bench):
    stream = bench.workers.connect(a_group(), sequence=5)
    assert stream.drop_reason("w", "b1", 5) == "stale_sequence"
    assert stream.drop_reason("w", "b1", 6) is None
    assert stream.drop_reason("w", "b1", 6) == "stale_sequence"
    assert stream.drop_reason("w", "b1", 4) == "stale_sequence"
    assert stream.drop_reason("w", "b0", 7) == "wrong_boot"
    assert stream.drop_reason("x", "b1", 7) == "wrong_worker"
    assert stream.drop_reason("w", "b1", 7) is None
    assert stream.num_gaps == 0


def test_a_gap_in_the_sequence_is_counted_and_the_report_used(bench):
    stream = bench.workers.connect(a_group(), sequence=1)
    assert stream.drop_reason("w", "b1", 4) is None
    assert stream.num_gaps == 1
    assert stream.drop_reason("w", "b1", 3) == "stale_sequence"


@pytest.mark.parametrize(
    ("report_epoch", "included", "counted"),
    [
        pytest.param(7, 3, 3, id="ours"),
        pytest.param(7, 4, 4, id="the-newest"),
        pytest.param(6, 3, 0, id="an-earlier-leader"),
        pytest.param(8, 3, 0, id="a-later-leader"),
        pytest.param(7, 5, 0, id="never-given-since-it-joined"),
    ],
)
def test_included_work_counts_only_if_it_was_dispatched_by_this_leader(
    bench, report_epoch, included, counted
):
    stream = bench.workers.connect(a_group(), sequence=1)
    stream.highest_dispatch_seq = 4
    assert stream.included(report_epoch=report_epoch, included_dispatch_seq=included, our_epoch=7) == counted


def test_a_broken_stream_loses_the_worker_after_the_grace(bench):
    stream = bench.workers.connect(a_group(), sequence=1)
    bench.take_events()
    bench.workers.disconnect(stream, has_left=False)
    bench.later.advance(0.9)
    assert bench.take_events() == []
    assert bench.workers.get("w") is stream
    bench.later.advance(0.2)
    assert bench.take_events() == [WorkerLost(group_id="w")]
    assert bench.workers.get("w") is None


def test_a_worker_that_closes_its_stream_is_lost_at_once(bench):
    stream = bench.workers.connect(a_group(), sequence=1)
    bench.take_events()
    bench.workers.disconnect(stream, has_left=True)
    assert bench.take_events() == [WorkerLost(group_id="w")]


async def test_the_same_boot_back_in_time_is_not_lost_and_gets_what_was_not_written(bench):
    old = bench.workers.connect(a_group(), sequence=1)
    old.is_draining = True
    old.highest_dispatch_seq = 4
    bench.workers.disconnect(old, has_left=False)
    old.outbox.put(Probe(group_id="w"))
    bench.later.advance(0.5)
    new = bench.workers.connect(a_group(), sequence=1)
    bench.later.advance(10.0)
    assert bench.take_events() == [WorkerJoined(group=a_group())] * 2
    assert await new.outbox.take() == [Probe(group_id="w")]
    assert new.is_draining
    assert new.highest_dispatch_seq == 4


async def test_another_boot_replaces_a_worker_whose_stream_still_stands(bench):
    old = bench.workers.connect(a_group("b1"), sequence=9)
    old.outbox.put(Probe(group_id="w"))
    new = bench.workers.connect(a_group("b2"), sequence=1)
    assert bench.take_events() == [WorkerJoined(group=a_group("b1")), WorkerJoined(group=a_group("b2"))]
    bench.workers.disconnect(old, has_left=False)
    bench.later.advance(10.0)
    assert bench.take_events() == []
    assert bench.workers.get("w") is new
    assert len(new.outbox) == 0
    await old.outbox.take()
    with pytest.raises(OutboxClosedError) as caught:
        await old.outbox.take()
    assert caught.value.reason is CloseReason.REPLACED


def test_a_declared_loss_closes_the_stream_of_that_boot_only(bench):
    stream = bench.workers.connect(a_group("b2"), sequence=1)
    bench.take_events()
    bench.workers.declare_lost("w", "b1")
    assert bench.workers.get("w") is stream
    bench.workers.declare_lost("w", "b2")
    assert bench.workers.get("w") is None
    assert stream.outbox.is_closed
    bench.workers.disconnect(stream, has_left=False)
    bench.later.advance(10.0)
    assert bench.take_events() == []


def test_a_broken_gateway_stream_loses_the_gateway_after_the_grace(bench):
    stream = bench.gateways.connect("gw")
    bench.gateways.disconnect(stream, has_left=False)
    bench.later.advance(0.9)
    assert bench.take_events() == []
    bench.later.advance(0.2)
    assert bench.take_events() == [GatewayLost(gateway_id="gw")]
    assert len(bench.gateways) == 0


def test_a_gateway_that_closes_its_stream_is_lost_at_once(bench):
    bench.gateways.disconnect(bench.gateways.connect("gw"), has_left=True)
    assert bench.take_events() == [GatewayLost(gateway_id="gw")]


async def test_a_gateway_back_in_time_hears_again_what_it_may_have_missed(bench):
    old = bench.gateways.connect("gw")
    bench.gateways.put("gw", InvalidRequest("written", 0, ""))
    await old.outbox.take()
    bench.gateways.disconnect(old, has_left=False)
    bench.gateways.put("gw", InvalidRequest("while away", 0, ""))
    new = bench.gateways.connect("gw")
    bench.later.advance(10.0)
    assert bench.take_events() == []
    assert [item.request_id for item in await new.outbox.take()] == ["written", "while away"]


def test_what_is_told_to_an_unknown_gateway_is_dropped(bench):
    bench.gateways.put("nobody", InvalidRequest("r", 0, ""))
    assert len(bench.gateways) == 0


def test_closing_ends_every_stream_and_every_grace_without_events(bench):
    worker = bench.workers.connect(a_group(), sequence=1)
    gateway = bench.gateways.connect("gw")
    bench.take_events()
    bench.workers.disconnect(worker, has_left=False)
    bench.workers.close(CloseReason.STOPPED)
    bench.gateways.close(CloseReason.STOPPED)
    bench.later.advance(10.0)
    assert bench.take_events() == []
    assert worker.outbox.is_closed
    assert gateway.outbox.is_closed


def test_a_worker_of_which_nothing_makes_sense_is_doubted_and_then_begins_anew(bench):
    stream = bench.workers.connect(a_group(), sequence=1)
    bench.take_events()
    for _ in range(MAX_NONSENSE - 1):
        bench.workers.report_dropped(stream, "stale_sequence")
    assert bench.take_events() == []
    bench.workers.report_dropped(stream, "stale_sequence")
    assert bench.take_events() == [ReportsRefused(group_id="w")]
    for _ in range(MAX_NONSENSE, MAX_NONSENSE_ON_STREAM):
        assert not stream.outbox.is_closed
        bench.workers.report_dropped(stream, "stale_sequence")
    assert stream.outbox.is_closed
    assert bench.take_events() == [], "it is doubted once, and not lost"


def test_one_report_that_makes_sense_is_enough(bench):
    stream = bench.workers.connect(a_group(), sequence=1)
    bench.take_events()
    for _ in range(100):
        bench.workers.report_dropped(stream, "stale_sequence")  # as when each is sent twice
        bench.workers.report_made_sense(stream)
    assert bench.take_events() == []
    assert not stream.outbox.is_closed
