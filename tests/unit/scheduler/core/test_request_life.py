"""Cancellation, deadlines, attempts, refusals and splits: how a request's time with the scheduler ends."""

import pytest

from hortator.scheduler.core.commands import Abort
from hortator.scheduler.core.events import (
    BatchSplit,
    FirstToken,
    GatewayLost,
    KvTransferFailed,
    PlacementRefused,
    PrefillFinished,
    RequestCancelled,
    RequestFinished,
)
from hortator.scheduler.core.model import AbortReason, LatencyClass


@pytest.fixture
def s(machine):
    """p0 and p1, idle; nothing is held back."""
    scenario = machine(min_fill=0.0)
    scenario.join("p0")
    scenario.join("p1")
    return scenario


def _abort(request_id, reason, *, attempt=0, group_id="p0", gateway_id="g"):
    return Abort(
        request_id=request_id, attempt=attempt, gateway_id=gateway_id, group_id=group_id, reason=reason
    )


def test_cancelling_a_waiting_request_needs_no_command(s):
    """Nobody else has heard of it."""
    s.start_pass("p0", now=0.0)
    s.start_pass("p1", now=0.0)
    s.arrive("a", now=0.1)
    assert s.at(0.2, RequestCancelled(request_id="a")) == []
    assert s.end_pass("p0", now=0.3) == []
    assert s.where == {}


def test_cancelling_a_placed_request_corrects_the_worker(s):
    """One abort, to the group that has it."""
    s.arrive("a", now=0.0)
    assert s.at(0.1, RequestCancelled(request_id="a")) == [_abort("a", AbortReason.CANCELLED)]
    assert s.at(0.1, RequestCancelled(request_id="a")) == []


def test_a_cancellation_of_an_old_attempt_changes_nothing(s):
    """The gateway has moved on."""
    s.arrive("a", now=0.0, attempt=1)
    assert s.at(0.1, RequestCancelled(request_id="a", attempt=0)) == []
    assert "a" in s.machine.requests


def test_a_deadline_ends_a_placement_too(s):
    """Whether prefilling or decoding; the shell is asked to wake the machine for it."""
    s.arrive("a", now=0.0, deadline_at=40.0)
    assert s.tick(30.0) == []  # the queue timeout of a request that no longer waits
    assert s.machine.next_wakeup() == 40.0
    assert s.tick(40.0) == [_abort("a", AbortReason.DEADLINE)]


def test_a_request_that_finishes_at_its_deadline_has_finished(s):
    """The event comes first."""
    s.arrive("a", now=0.0, deadline_at=4.0)
    assert s.at(4.0, RequestFinished(request_id="a")) == []


def test_an_announcement_repeated_after_a_reconnect_changes_nothing(s):
    """Waiting or placed, the same attempt is known."""
    s.arrive("a", now=0.0)
    assert s.arrive("a", now=1.0) == []
    assert len(s.machine.requests) == 1


def test_an_older_attempt_never_replaces_a_newer_one(s):
    """Late messages lose."""
    s.arrive("a", now=0.0, attempt=2)
    assert s.arrive("a", now=1.0, attempt=1) == []
    assert s.machine.requests["a"].attempt == 2


def test_a_newer_attempt_takes_the_place_of_the_older(s):
    """One live attempt: the gateway has fenced the older one before it announces."""
    s.arrive("a", 100, now=0.0)
    s.arrive("a", 150, now=1.0, attempt=1)
    assert s.machine.requests["a"].attempt == 1
    assert s.where["a"][0] == "p1"
    assert s.group("p0").in_flight == {}
    assert s.at(1.1, RequestFinished(request_id="a", attempt=0)) == []
    assert "a" in s.machine.requests


def test_a_refused_request_is_placed_again_before_younger_ones(s, members):
    """The same attempt, at the head of the queue."""
    s.arrive("a", 800, now=0.0)
    s.arrive("x", 800, now=0.0)
    s.arrive("b", 800, now=0.1)
    s.arrive("c", 800, now=0.1)
    assert s.at(0.2, PlacementRefused(request_id="a", group_id="p0")) == []
    assert [request.request_id for request in s.machine.waiting] == ["a", "b", "c"]
    s.start_pass("p1", now=0.2)
    assert members(s.end_pass("p1", now=0.4)) == [["a", "b"]]
    assert s.where["a"][0] == "p1"


def test_a_refusal_by_another_group_than_the_current_one_is_out_of_date(s):
    """The request has moved since."""
    s.arrive("a", now=0.0)
    assert s.at(0.2, PlacementRefused(request_id="a", group_id="p1")) == []
    assert s.machine.requests["a"].group_id == "p0"


def test_members_of_a_split_batch_are_retracted(s, dispatched):
    """The gateway announces them again; the others stay."""
    s.start_pass("p0", now=0.0)
    s.start_pass("p1", now=0.0)
    s.arrive("a", 300, now=0.1)
    s.arrive("b", 200, now=0.1)
    (batch,) = dispatched(s.end_pass("p0", now=0.2))
    split = BatchSplit(group_id="p0", batch_id=batch.batch_id, request_ids=("b", "unknown"))
    assert s.at(0.21, split) == [_abort("b", AbortReason.BATCH_SPLIT)]
    assert s.at(0.21, split) == []
    assert list(s.machine.requests) == ["a"]


def test_a_split_of_an_earlier_batch_does_not_touch_a_later_placement_on_the_same_group(machine, dispatched):
    """Refused, placed there again, and only then the first batch's split arrives."""
    s = machine()
    s.join()
    (first,) = dispatched(s.arrive("a", now=0.0))
    s.report(now=0.1)
    (second,) = dispatched(s.at(0.2, PlacementRefused(request_id="a", group_id="p0")))
    assert first.batch_id != second.batch_id
    assert s.at(0.3, BatchSplit(group_id="p0", batch_id=first.batch_id, request_ids=("a",))) == []
    assert s.at(0.3, BatchSplit(group_id="p0", batch_id=second.batch_id, request_ids=("a",))) == [
        _abort("a", AbortReason.BATCH_SPLIT)
    ]


def test_a_lost_gateway_takes_its_requests_with_it(s):
    """Placed ones are stopped at their worker, waiting ones forgotten; other gateways' stay."""
    s.arrive("a", now=0.0, gateway_id="gw1")
    s.arrive("b", now=0.0, gateway_id="gw2")
    s.arrive("c", now=0.1, gateway_id="gw1")
    assert s.at(0.2, GatewayLost(gateway_id="gw1")) == [
        _abort("a", AbortReason.GATEWAY_LOST, gateway_id="gw1")
    ]
    assert list(s.machine.requests) == ["b"]
    assert s.at(0.2, GatewayLost(gateway_id="gw1")) == []


def test_events_about_unknown_requests_change_nothing(s):
    """Gateways and workers may be a message behind."""
    for event in (
        RequestCancelled(request_id="x"),
        RequestFinished(request_id="x"),
        PrefillFinished(request_id="x"),
        FirstToken(request_id="x"),
        PlacementRefused(request_id="x", group_id="p0"),
        KvTransferFailed(request_id="x"),
        BatchSplit(group_id="p0", batch_id="1-1", request_ids=("x",)),
        GatewayLost(gateway_id="nobody"),
    ):
        assert s.at(1.0, event) == []
    assert s.machine.requests == {}


def test_a_critical_request_bypasses_every_hold(machine, members):
    """Placed at once on a running group, while a standard one waits for the pass to end."""
    s = machine()
    s.join()
    s.start_pass(now=0.0)
    assert members(s.arrive("standard", now=0.1)) == []
    assert members(s.arrive("critical", now=0.1, latency_class=LatencyClass.CRITICAL)) == [["critical"]]
    assert len(s.machine.waiting) == 1


def test_a_critical_request_goes_where_it_is_predicted_to_finish_first(s):
    """p0 ends its pass sooner than p1."""
    s.start_pass("p0", now=0.0, predicted_s=0.1)
    s.start_pass("p1", now=0.0, predicted_s=0.5)
    s.arrive("a", now=0.05, latency_class=LatencyClass.CRITICAL)
    assert s.where["a"][0] == "p0"


def test_a_critical_request_that_came_before_any_worker_goes_with_the_first_report(machine, members):
    """It waits only for want of a worker."""
    s = machine()
    s.arrive("standard", now=0.0)
    s.arrive("critical", now=0.1, latency_class=LatencyClass.CRITICAL)
    assert members(s.join(now=1.0))[0] == ["critical"]


def test_a_cancelled_critical_request_is_not_placed(machine):
    """Cancellation wins over urgency."""
    s = machine()
    s.arrive("critical", now=0.1, latency_class=LatencyClass.CRITICAL)
    s.at(0.2, RequestCancelled(request_id="critical"))
    s.join(now=1.0)
    assert s.where == {}


def test_placements_say_how_long_the_request_was_held(s, dispatched):
    """From arrival to dispatch, in seconds."""
    s.start_pass("p0", now=0.0)
    s.start_pass("p1", now=0.0)
    s.arrive("a", now=0.1, gateway_id="gw", attempt=3)
    (batch,) = dispatched(s.end_pass("p0", now=0.35))
    (placement,) = batch.placements
    assert placement.hold_s == pytest.approx(0.25)
    assert (placement.gateway_id, placement.attempt, placement.num_prefill_tokens) == ("gw", 3, 100)
