"""Idempotency keys: a client comes back at another gateway while what it asked for may still run."""

import pytest

from hortator.scheduler.core.commands import Abort, Attach, Reject
from hortator.scheduler.core.events import (
    GatewayLost,
    KeyedRequest,
    KeyedRequestsEnded,
    KeyedRequestsListed,
    KvTransferFailed,
    LeaderChanged,
    PlacementRefused,
    PrefillFinished,
    RequestCancelled,
    RequestFinished,
    WorkerLost,
)
from hortator.scheduler.core.model import AbortReason, Phase, RejectReason
from hortator.scheduler.core.request import RequestStatus

KEYED = {"key": "k", "fingerprint": "f"}


@pytest.fixture
def s(machine):
    """Two Aggregated groups; whatever arrives is placed at once."""
    scenario = machine(policy="immediate-least-tokens")
    for name in ("a0", "a1"):
        scenario.join(name, phase=Phase.AGGREGATED)
    return scenario


@pytest.fixture
def placed(s):
    """Request `old` of gateway g1 runs under key k on a0."""
    s.arrive("old", gateway_id="g1", now=1.0, **KEYED)
    assert s.where["old"][0] == "a0"
    return s


def retry(s, name="new", *, now=2.0, gateway="g2", **fields):
    commands = s.arrive(name, gateway_id=gateway, now=now, **(KEYED | fields))
    s.machine.check_invariants()
    return commands


def ended(s, group_id, *, now, request_id="old", attempt=0):
    keyed = KeyedRequest(key="k", request_id=request_id, attempt=attempt)
    return s.at(now, KeyedRequestsEnded(group_id=group_id, requests=(keyed,)))


def attach(name="new", group_id="a0", phase=Phase.AGGREGATED):
    return Attach(request_id=name, attempt=0, gateway_id="g2", group_id=group_id, phase=phase)


def status(s, name):
    return s.machine.requests[name].status


def test_a_retry_after_its_gateway_was_lost_attaches_to_what_runs(placed):
    """The worker was told nothing: it keeps an orphan by itself."""
    assert placed.at(1.5, GatewayLost(gateway_id="g1")) == []
    assert retry(placed) == [attach()]
    assert placed.machine.requests.keys() == {"new"}
    assert placed.group("a0").in_flight.keys() == {"new"}
    placed.at(3.0, RequestFinished(request_id="new", num_output_tokens=5))
    assert not placed.machine.requests


def test_a_retry_attaches_though_its_gateway_is_not_missed_yet(placed):
    """Clients see a broken stream before the scheduler does, whose grace is a second."""
    assert retry(placed) == [attach()]
    assert placed.at(2.5, GatewayLost(gateway_id="g1")) == []
    assert placed.machine.requests.keys() == {"new"}


def test_without_a_key_the_loss_of_a_gateway_ends_its_requests(s):
    s.arrive("old", gateway_id="g1", now=1.0)
    (command,) = s.at(1.5, GatewayLost(gateway_id="g1"))
    assert (command.reason, command.key) == (AbortReason.GATEWAY_LOST, "")


def test_the_same_key_for_another_request_is_refused(placed):
    (command,) = retry(placed, fingerprint="other")
    assert isinstance(command, Reject)
    assert command.reason is RejectReason.KEY_REUSED
    placed.at(2.5, GatewayLost(gateway_id="g1"))
    (command,) = retry(placed, fingerprint="other")
    assert command.reason is RejectReason.KEY_REUSED


def test_who_waits_for_a_placement_loses_it_to_the_newer_claim(machine):
    s = machine()
    s.arrive("old", gateway_id="g1", now=1.0, **KEYED)
    (command,) = retry(s)
    assert (command.request_id, command.gateway_id, command.reason) == ("old", "g1", RejectReason.TAKEN_OVER)
    assert [request.request_id for request in s.machine.waiting] == ["new"]


def test_who_was_taken_over_by_an_older_call_comes_back_and_goes_on(machine):
    """A new leader heard of the older one last, and long after it was announced."""
    s = machine()
    s.arrive("newer", gateway_id="g2", now=5.0, **KEYED)
    (command,) = retry(s, "older", now=5.1, gateway="g1")
    assert (command.request_id, command.reason) == ("newer", RejectReason.TAKEN_OVER)
    (command,) = retry(s, "newer, again", now=5.2, asked_at=4.0)
    assert (command.request_id, command.reason) == ("older", RejectReason.TAKEN_OVER)
    (command,) = retry(s, "older, again", now=5.3, gateway="g1", asked_at=1.0)
    assert (command.request_id, command.reason) == ("older, again", RejectReason.TAKEN_OVER)
    assert [request.request_id for request in s.machine.waiting] == ["newer, again"]


def test_who_was_taken_over_by_a_newer_call_comes_back_for_a_moment(placed):
    """It cannot know which of them is older; the other one can say so, and nothing is generated twice."""
    retry(placed)
    assert retry(placed, "old, again", now=2.1, gateway="g2", asked_at=1.0) == [attach("old, again")]
    assert retry(placed, "new, again", now=2.2, asked_at=2.0) == [attach("new, again")]
    (command,) = retry(placed, "old, too often", now=2.3, asked_at=1.0)
    assert (command.request_id, command.reason) == ("old, too often", RejectReason.TAKEN_OVER)


def test_a_later_attempt_does_not_take_the_key_back(placed):
    """Its client has gone to the other gateway."""
    retry(placed)
    (command,) = retry(placed, "old", gateway="g1", attempt=1)
    assert command.reason is RejectReason.TAKEN_OVER
    assert placed.machine.requests.keys() == {"new"}


def test_who_cannot_attach_is_held_until_the_worker_says_that_nothing_runs(placed, members):
    retry(placed)
    (told,) = placed.at(2.1, PlacementRefused(request_id="new", group_id="a0"))
    assert (told.group_id, told.key, told.reason) == ("a0", "k", AbortReason.SUPERSEDED)
    placed.machine.check_invariants()
    assert status(placed, "new") is RequestStatus.FENCED
    assert placed.tick(2.5) == []
    assert members(ended(placed, "a0", now=3.0)) == [["new"]]
    assert not placed.machine.keys.leftovers


def test_who_cannot_attach_is_held_until_the_worker_is_lost(placed, members):
    retry(placed)
    placed.at(2.1, PlacementRefused(request_id="new", group_id="a0"))
    assert members(placed.at(3.0, WorkerLost(group_id="a0"))) == [["new"]]
    assert placed.where["new"][0] == "a1"


def test_who_is_held_is_refused_when_its_time_in_the_queue_is_over(machine):
    s = machine(policy="immediate-least-tokens", queue_timeout_s=5.0)
    s.join("a0", phase=Phase.AGGREGATED)
    s.arrive("old", gateway_id="g1", now=1.0, **KEYED)
    retry(s)
    s.at(2.1, PlacementRefused(request_id="new", group_id="a0"))
    (command,) = s.tick(7.2)
    assert command.reason is RejectReason.QUEUE_TIMEOUT
    assert not s.machine.requests


def test_a_newer_claim_takes_the_place_of_one_that_is_held(placed, members):
    retry(placed)
    placed.at(2.1, PlacementRefused(request_id="new", group_id="a0"))
    (command,) = retry(placed, "newer", now=2.2, gateway="g3")
    assert (command.request_id, command.reason) == ("new", RejectReason.TAKEN_OVER)
    assert members(ended(placed, "a0", now=3.0)) == [["newer"]]


def test_a_cancelled_request_keeps_its_key_until_its_worker_has_ended_it(placed, members):
    (told,) = placed.at(1.5, RequestCancelled(request_id="old"))
    assert (told.key, told.reason) == ("k", AbortReason.CANCELLED)
    assert retry(placed) == []
    assert status(placed, "new") is RequestStatus.FENCED
    assert members(ended(placed, "a0", now=3.0)) == [["new"]]


def test_a_later_attempt_at_the_same_gateway_does_not_wait_for_the_end_of_the_earlier(placed, members):
    """The gateway takes no more tokens of that; the worker is told all the same."""
    commands = retry(placed, "old", gateway="g1", attempt=1)
    (told,) = [command for command in commands if isinstance(command, Abort)]
    assert (told.attempt, told.key, told.reason) == (0, "k", AbortReason.SUPERSEDED)
    assert members(commands) == [["old"]]
    placed.machine.check_invariants()
    ended(placed, told.group_id, now=3.0)
    assert not placed.machine.keys.leftovers


def test_a_retry_waits_for_every_attempt_that_may_still_run(placed, members):
    """Attempt 0 is ending on one group and attempt 1 on the other when the client comes back."""
    placed.report("a0", now=1.5, prefill_load_tokens=(900, 900))  # so that the next one goes to a1
    retry(placed, "old", gateway="g1", attempt=1)
    assert placed.where["old"][0] == "a1"
    placed.at(2.1, RequestCancelled(request_id="old", attempt=1))
    assert retry(placed) == []
    assert ended(placed, "a1", attempt=1, now=2.5) == []
    assert members(ended(placed, "a0", now=3.0)) == [["new"]]


def test_an_orphan_that_ended_before_its_gateway_was_missed_is_forgotten(placed):
    ended(placed, "a0", now=1.5)
    assert not placed.machine.requests
    assert placed.at(2.0, GatewayLost(gateway_id="g1")) == []
    assert not placed.machine.keys.leftovers


def test_an_orphan_is_forgotten_when_its_worker_gives_it_up(placed, members):
    placed.at(1.5, GatewayLost(gateway_id="g1"))
    ended(placed, "a0", now=31.5)
    assert members(retry(placed, now=40.0)) == [["new"]]


def test_with_the_worker_the_orphan_is_gone(placed, members):
    placed.at(1.5, GatewayLost(gateway_id="g1"))
    placed.at(1.6, WorkerLost(group_id="a0"))
    assert members(retry(placed)) == [["new"]]
    assert placed.where["new"][0] == "a1"


# -- prefill and decode apart ---------------------------------------------------------------------------------


@pytest.fixture
def pd(machine):
    scenario = machine(policy="immediate-least-tokens", decode_reservation=False)
    scenario.join("p0", phase=Phase.PREFILL)
    scenario.join("d0", phase=Phase.DECODE)
    scenario.arrive("old", gateway_id="g1", now=1.0, **KEYED)
    return scenario


@pytest.mark.parametrize("is_prefilled", [False, True])
def test_what_only_prefills_is_ended_before_the_retry_is_placed(pd, members, is_prefilled):
    """It has sent one token at most; its gateway was to bring it to a decode worker."""
    if is_prefilled:
        pd.machine.fleet.groups["d0"].draining = True
        pd.finish_prefill("old", now=1.2)
        assert status(pd, "old") is RequestStatus.DECODE_WAITING
    (told,) = pd.at(1.5, GatewayLost(gateway_id="g1"))
    assert (told.group_id, told.key, told.reason) == ("p0", "k", AbortReason.GATEWAY_LOST)
    assert retry(pd) == []
    assert members(ended(pd, "p0", now=3.0)) == [["new"]]


def test_a_living_gateway_is_told_that_its_prefill_was_taken_over(pd):
    (told,) = retry(pd)
    assert (told.request_id, told.gateway_id, told.reason) == ("old", "g1", AbortReason.TAKEN_OVER)
    assert status(pd, "new") is RequestStatus.FENCED


def test_a_retry_attaches_to_the_decode_worker(pd):
    pd.finish_prefill("old", now=1.2)
    assert status(pd, "old") is RequestStatus.DECODING
    pd.at(1.5, GatewayLost(gateway_id="g1"))
    assert retry(pd) == [attach(group_id="d0", phase=Phase.DECODE)]
    assert status(pd, "new") is RequestStatus.DECODING


def test_what_attached_and_finds_its_kv_lost_is_placed_anew(pd, members):
    pd.finish_prefill("old", now=1.2)
    retry(pd)
    pd.at(2.2, KvTransferFailed(request_id="new"))
    commands = retry(pd, attempt=1, now=2.3)
    assert members(commands) == [["new"]]


# -- a leader that knows nothing ------------------------------------------------------------------------------


def listed(s, group_id, *names, now, attempt=0):
    requests = tuple(KeyedRequest(**KEYED, request_id=name, attempt=attempt) for name in names)
    return s.at(now, KeyedRequestsListed(group_id=group_id, requests=requests))


def test_a_new_leader_learns_from_workers_what_runs_under_which_key(s):
    listed(s, "a1", "old", now=1.0)
    assert retry(s) == [attach(group_id="a1")]


def test_a_retry_that_waits_attaches_when_its_worker_reports(machine):
    s = machine()
    retry(s)
    s.join("a0", phase=Phase.AGGREGATED, reported=False, now=2.5)
    assert listed(s, "a0", "old", now=2.5) == [attach()]
    assert not s.machine.waiting


def test_after_a_change_of_leaders_retries_are_held_again_until_workers_have_told(s, members):
    s.at(50.0, LeaderChanged(epoch=2))
    s.report("a0", now=50.1)
    assert retry(s, now=50.5, is_resumed=True) == []
    assert members(s.tick(52.0)) == [["new"]]


def test_what_a_worker_still_runs_of_a_request_that_was_placed_again_is_ended(placed):
    """The new leader had placed the retry before the worker came back with the older attempt."""
    (told,) = listed(placed, "a1", "older", now=2.0)
    assert (told.request_id, told.group_id, told.key) == ("older", "a1", "k")
    ended(placed, "a1", now=2.5)
    assert not placed.machine.keys.leftovers


def test_a_worker_that_does_not_list_a_key_any_more_has_nothing_left(placed):
    placed.at(1.5, GatewayLost(gateway_id="g1"))
    listed(placed, "a0", now=2.0)
    assert not placed.machine.keys.leftovers


def test_what_a_worker_still_has_when_its_stream_comes_back_is_to_end_all_the_same(placed):
    """The correction may have been lost with the stream."""
    placed.at(1.5, RequestCancelled(request_id="old"))
    (told,) = listed(placed, "a0", "old", now=2.0)
    assert (told.group_id, told.key) == ("a0", "k")


def test_an_orphan_of_which_nothing_is_heard_is_ended(placed):
    """Its gateway may have died before it submitted it, or after it had ended: then nobody will tell of it."""
    placed.at(1.5, GatewayLost(gateway_id="g1"))
    assert placed.tick(100.0) == []
    assert placed.machine.next_wakeup() == 601.5
    (told,) = placed.tick(601.5)
    assert (told.group_id, told.key) == ("a0", "k")
    ended(placed, "a0", now=602.0)
    assert not placed.machine.keys.leftovers
    assert placed.machine.keys.next_check_at is None


def test_of_two_workers_that_list_a_key_one_is_told_to_end(s):
    listed(s, "a0", "old", now=1.0, attempt=0)
    (told,) = listed(s, "a1", "old", now=1.1, attempt=1)
    assert (told.group_id, told.attempt) == ("a0", 0)
    s.machine.check_invariants()
    assert retry(s) == []
    assert ended(s, "a0", now=2.5) == [attach(group_id="a1")]


def test_a_new_leader_holds_what_clients_come_back_for_until_workers_have_told(s, members):
    """Only in its first 2 s, and only retries: a newcomer cannot be running anywhere."""
    assert members(retry(s, "newcomer", now=0.5, key="other")) == [["newcomer"]]
    assert retry(s, now=0.5, is_resumed=True) == []
    s.machine.check_invariants()
    assert s.machine.next_wakeup() == 2.0
    assert listed(s, "a0", "old", now=1.0) == [attach()]
    assert retry(s, "third", now=1.5, key="unknown", is_resumed=True) == []
    assert members(s.tick(2.0)) == [["third"]]
    assert members(retry(s, "fourth", now=2.1, key="late", is_resumed=True)) == [["fourth"]]


def test_what_ends_well_at_its_gateway_leaves_no_key_at_a_new_leader(s, members):
    listed(s, "a0", "old", now=1.0)
    s.at(1.5, RequestFinished(request_id="old", num_output_tokens=3))
    assert members(retry(s)) == [["new"]]


def test_what_is_cancelled_at_its_gateway_is_ended_for_a_new_leader(s):
    listed(s, "a0", "old", now=1.0)
    (told,) = s.at(1.5, RequestCancelled(request_id="old"))
    assert (told.group_id, told.key) == ("a0", "k")
    assert retry(s) == []
    assert status(s, "new") is RequestStatus.FENCED


def test_a_prefilled_request_that_was_taken_over_is_not_placed_for_decode(pd):
    """A new leader met the retry first."""
    pd.at(1.1, WorkerLost(group_id="p0"))
    retry(pd)
    event = PrefillFinished(request_id="old", gateway_id="g1", num_prompt_tokens=9, **KEYED)
    (command,) = pd.at(2.5, event)
    assert (command.request_id, command.reason) == ("old", RejectReason.TAKEN_OVER)


@pytest.fixture
def prefilled_elsewhere(pd):
    """A new leader hears from its gateway that `old` has been prefilled, nobody knows where, and holds it for decode."""
    pd.at(1.1, WorkerLost(group_id="p0"))
    pd.at(1.2, WorkerLost(group_id="d0"))
    pd.at(2.0, PrefillFinished(request_id="old", gateway_id="g1", num_prompt_tokens=9, **KEYED))
    assert status(pd, "old") is RequestStatus.DECODE_WAITING
    return pd


def test_what_a_new_leader_holds_for_decode_may_begin_again(prefilled_elsewhere):
    retry(prefilled_elsewhere, "old", gateway="g1", attempt=1)
    assert status(prefilled_elsewhere, "old") is RequestStatus.WAITING
    assert prefilled_elsewhere.machine.requests["old"].attempt == 1


def test_what_a_new_leader_holds_for_decode_may_be_taken_over(prefilled_elsewhere):
    """Nothing of it runs, so nothing is waited for; its gateway gives its KV back."""
    (command,) = retry(prefilled_elsewhere)
    assert (command.request_id, command.gateway_id, command.reason) == ("old", "g1", AbortReason.TAKEN_OVER)
    assert status(prefilled_elsewhere, "new") is RequestStatus.WAITING
