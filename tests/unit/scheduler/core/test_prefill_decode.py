"""A request's way from prefill to decode."""

import pytest

from hortator.scheduler.core.commands import Abort
from hortator.scheduler.core.events import (
    KvTransferFailed,
    PlacementRefused,
    PrefillFinished,
    RequestCancelled,
    RequestFinished,
    WorkerDraining,
    WorkerLost,
)
from hortator.scheduler.core.model import AbortReason, LatencyClass, Phase


@pytest.fixture
def s(machine):
    """One prefill group p0 and one decode group d0 of 100 blocks per rank, with reservations."""
    scenario = machine(decode_reservation=True, min_fill=0.0)
    scenario.join("p0")
    scenario.join("d0", phase=Phase.DECODE)
    return scenario


def test_decode_ready_requests_are_gathered_for_the_window_and_placed_in_one_round(s, dispatched):
    """2 ms after the first; one batch for the group."""
    for name in ("a", "b"):
        s.arrive(name, 300, now=0.0)
        s.report("p0", now=0.0)
    assert s.finish_prefill("a", now=1.0) == []
    assert s.machine.next_wakeup() == pytest.approx(1.002)
    assert s.finish_prefill("b", now=1.001) == []
    (batch,) = dispatched(s.tick(1.002))
    assert (batch.group_id, batch.phase, batch.dispatch_seq) == ("d0", Phase.DECODE, 1)
    assert {(p.request_id, p.dp_rank, p.num_prefill_tokens) for p in batch.placements} == {
        ("a", 0, 0),
        ("b", 1, 0),
    }
    assert s.machine.requests["a"].group_id == "d0"
    assert s.group("p0").in_flight == {}


def test_a_latency_critical_request_does_not_wait_for_the_decode_window(s, dispatched):
    """It bypasses every hold, this one too."""
    s.arrive("a", 300, now=0.0, latency_class=LatencyClass.CRITICAL)
    (batch,) = dispatched(s.finish_prefill("a", now=1.0))
    assert (batch.group_id, batch.phase) == ("d0", Phase.DECODE)
    assert s.where["a"][0] == "d0"
    assert batch.placements[0].hold_s == 0.0


def test_a_latency_critical_request_closes_a_decode_window_that_is_open(s, members):
    """What was gathered goes with it in one round; the next window opens with the next request."""
    for name, fields in (("a", {}), ("b", {"latency_class": LatencyClass.CRITICAL}), ("c", {})):
        s.arrive(name, 300, now=0.0, **fields)
        s.report("p0", now=0.0)
    assert s.finish_prefill("a", now=1.0) == []
    (batch,) = members(s.finish_prefill("b", now=1.0005))
    assert sorted(batch) == ["a", "b"]
    assert s.finish_prefill("c", now=1.001) == []
    assert s.machine.next_wakeup() == pytest.approx(1.003)


def test_the_immediate_policies_place_decode_at_once(machine):
    """No window."""
    s = machine(policy="immediate-least-tokens")
    s.join("p0")
    s.join("d0", phase=Phase.DECODE)
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    assert s.where["a"] == ("d0", 0)


def test_a_prefill_is_released_only_with_blocks_reserved_at_a_decode_rank(s):
    """2 ranks x 100 blocks; 1920 + 256 tokens take 34: two per rank, the fifth waits for a decode report."""
    s.report("p0", now=0.0)
    for i in range(5):
        s.arrive(f"r{i}", 1920, now=0.0, max_output_tokens=256)
        s.report("p0", now=0.0)
    assert sorted(s.where) == ["r0", "r1", "r2", "r3"]
    assert s.group("d0").reserved_blocks == [68, 68]
    s.at(1.0, RequestCancelled(request_id="r0"))
    s.report("p0", now=1.0)
    assert "r4" in s.where


def test_without_reservations_prefill_does_not_look_at_decode(machine):
    """`decode_reservation` off: prefill-only studies."""
    s = machine(decode_reservation=False)
    s.join("p0")
    s.arrive("a", now=0.0)
    assert s.where == {"a": ("p0", 0)}


def test_with_reservations_nothing_is_prefilled_before_a_decode_group_has_reported(machine):
    """Joined is not enough."""
    s = machine(decode_reservation=True)
    s.join("p0")
    s.join("d0", phase=Phase.DECODE, reported=False)
    s.arrive("a", now=0.0)
    assert s.where == {}
    s.report("d0", now=1.0)
    assert s.where == {"a": ("p0", 0)}


def test_the_expected_output_is_twice_the_learned_mean_and_at_most_the_limit(s):
    """First guess 256: 512 for a limit of 4096, the limit itself where it is less; never below 32."""
    fleet = s.machine.fleet
    assert fleet.expected_output(4096) == 512
    assert fleet.expected_output(100) == 100
    for i in range(400):
        s.arrive(f"r{i}", now=0.0)
        s.report("p0", now=0.0)
        s.at(0.0, RequestFinished(request_id=f"r{i}", num_output_tokens=10))
    assert fleet.expected_output(4096) == 32


def test_decode_ready_requests_without_room_are_tried_again_when_a_decode_group_reports(machine):
    """Not before: nothing else changes the room."""
    s = machine()
    s.join("p0")
    s.join("d0", phase=Phase.DECODE)
    s.report("d0", now=0.0, kv_blocks_used=(100, 100))
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    s.tick(1.002)
    assert s.where["a"] == ("p0", 0)
    assert s.machine.snapshot(1.002).num_waiting_decode == 1
    s.report("d0", now=1.5, kv_blocks_used=(100, 50))
    assert s.where["a"] == ("d0", 1)


def test_a_request_refused_by_decode_waits_with_its_kv_at_the_prefill_group(s):
    """Cancelled then, the abort goes to the group that holds the KV."""
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    s.tick(1.002)
    s.at(1.1, WorkerDraining(group_id="d0"))
    s.at(1.2, PlacementRefused(request_id="a", group_id="d0"))
    assert s.machine.snapshot(1.2).num_waiting_decode == 1
    assert s.at(1.3, RequestCancelled(request_id="a")) == [
        Abort(request_id="a", attempt=0, gateway_id="g", group_id="p0", reason=AbortReason.CANCELLED)
    ]


@pytest.mark.parametrize(("lost", "survives"), [("d0", True), ("p0", False)])
def test_a_request_refused_by_decode_is_lost_with_the_prefill_group_only(s, lost, survives):
    """Its KV is there; the decode group that refused it holds nothing of it."""
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    s.tick(1.002)
    s.at(1.1, WorkerDraining(group_id="d0"))
    s.at(1.2, PlacementRefused(request_id="a", group_id="d0"))
    s.at(1.3, WorkerLost(group_id=lost))
    assert ("a" in s.machine.requests) is survives


def test_a_refused_decode_is_placed_again_at_once(s, dispatched):
    """Same attempt, next batch."""
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    s.tick(1.002)
    (batch,) = dispatched(s.at(1.1, PlacementRefused(request_id="a", group_id="d0")))
    assert (batch.group_id, batch.dispatch_seq, batch.placements[0].attempt) == ("d0", 2, 0)


def test_a_request_that_waits_for_decode_without_a_decode_worker_is_refused_after_the_queue_timeout(
    machine, rejected
):
    """Prefilled at 1 s, so 30 s later: nobody waits for ever because a role is gone."""
    s = machine(queue_timeout_s=30.0)
    s.join("p0")
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    assert rejected(s.tick(30.9)) == {}
    assert s.machine.next_wakeup() == pytest.approx(31.0)
    assert rejected(s.tick(31.0)) == {"a": "no_worker"}
    assert s.machine.requests == {}


def test_a_request_that_finds_no_room_for_decode_is_refused_after_the_queue_timeout(machine, rejected):
    """There is a worker, so the reason is the queue; a refused placement does not start the wait again."""
    s = machine(queue_timeout_s=30.0)
    s.join("p0")
    s.join("d0", phase=Phase.DECODE)
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    s.tick(1.002)
    s.report("d0", now=2.0, kv_blocks_used=(100, 100))
    s.at(2.0, PlacementRefused(request_id="a", group_id="d0"))
    s.report("d0", now=30.9, kv_blocks_used=(100, 100))
    assert rejected(s.tick(31.0)) == {"a": "queue_timeout"}


def test_a_failed_transfer_ends_the_attempt(s):
    """The gateway announces the request again under the next attempt; decode blocks are given back."""
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    assert sum(s.group("d0").reserved_blocks) > 0
    assert s.at(1.001, KvTransferFailed(request_id="a")) == []
    assert s.machine.requests == {}
    assert s.group("d0").reserved_blocks == [0, 0]
    s.report("p0", now=1.5)
    s.arrive("a", now=2.0, attempt=1)
    assert s.where["a"] == ("p0", 0)


def test_losing_the_decode_group_drops_reservations_and_aborts_what_decodes_there(s, machine):
    """A prefill in progress goes on and finds another decode group later."""
    s.arrive("decoding", now=0.0)
    s.report("p0", now=0.0)
    s.finish_prefill("decoding", now=0.1)
    s.tick(0.102)
    s.arrive("prefilling", now=0.2)
    assert s.machine.requests["prefilling"].reservation is not None
    assert s.at(0.3, WorkerLost(group_id="d0")) == [
        Abort(request_id="decoding", attempt=0, gateway_id="g", group_id="d0", reason=AbortReason.WORKER_LOST)
    ]
    assert s.machine.requests["prefilling"].reservation is None
    s.join("d1", now=0.4, phase=Phase.DECODE)
    s.finish_prefill("prefilling", now=0.5)
    s.tick(0.502)
    assert s.where["prefilling"][0] == "d1"


def test_losing_the_prefill_group_aborts_what_waits_for_decode_with_its_kv(s):
    """The KV is gone."""
    s.arrive("a", now=0.0)
    s.finish_prefill("a", now=1.0)
    assert s.at(1.001, WorkerLost(group_id="p0")) == [
        Abort(request_id="a", attempt=0, gateway_id="g", group_id="p0", reason=AbortReason.WORKER_LOST)
    ]
    assert s.machine.next_wakeup() is None or s.machine.next_wakeup() > 1.002


def test_a_new_leader_places_decode_for_a_request_it_has_never_seen(s):
    """`PrefillFinished` says enough; without lengths it says nothing."""
    assert s.at(1.0, PrefillFinished(request_id="x")) == []
    assert s.machine.requests == {}
    s.at(1.0, PrefillFinished(request_id="x", attempt=2, gateway_id="g", num_prompt_tokens=300))
    s.tick(1.002)
    assert s.where["x"] == ("d0", 0)
    assert s.machine.requests["x"].attempt == 2


def test_prefill_finished_of_an_old_attempt_is_ignored(s):
    """Also when it carries lengths: the request is known."""
    s.arrive("a", now=0.0, attempt=3)
    assert s.at(1.0, PrefillFinished(request_id="a", attempt=2, num_prompt_tokens=100)) == []
    assert s.machine.requests["a"].group_id == "p0"


def test_prefill_finished_of_a_later_attempt_ends_the_one_that_waits(s):
    """Its gateway placed it by itself, without a scheduler, and that it withdrew the other was lost on the way."""
    s.arrive("a", now=0.0)
    assert s.machine.requests["a"].group_id == "p0"
    s.at(1.0, PrefillFinished(request_id="a", attempt=1, gateway_id="g", num_prompt_tokens=100))
    s.tick(1.002)
    assert s.where["a"] == ("d0", 0)
    assert s.machine.requests["a"].attempt == 1
    assert not s.machine.fleet.groups["p0"].in_flight


def test_a_prompt_that_no_decode_rank_can_ever_hold_is_refused_on_arrival(machine, rejected):
    """640 tokens of KV per decode rank."""
    s = machine(decode_reservation=True)
    s.join("p0")
    s.join("d0", phase=Phase.DECODE, kv_blocks_total=10)
    assert rejected(s.arrive("a", 700)) == {"a": "prompt_too_long"}
    s.arrive(
        "b", 630, max_output_tokens=4096
    )  # its expected output would not fit: a guess, no reason to refuse
    assert s.where["b"] == ("p0", 0)
