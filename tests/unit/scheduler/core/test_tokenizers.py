"""While a service moves to a model with another tokenizer, prompts go where their ids mean what they meant."""

import pytest

from hortator.scheduler.core.commands import Abort, Attach, Reject
from hortator.scheduler.core.events import GatewayLost, KeyedRequest, KeyedRequestsEnded, WorkerLost
from hortator.scheduler.core.model import Phase, RejectReason
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.scheduler.core.request import RequestStatus

OLD, NEW = "01", "02"


def two_groups(machine, **settings):
    scenario = machine(**settings)
    scenario.join("old", tokenizer=OLD)
    scenario.join("new", tokenizer=NEW)
    return scenario


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_prompt_goes_to_a_group_that_reads_it(machine, policy):
    """Whatever the loads are: all of one tokenizer first, then some of the other."""
    s = two_groups(machine, policy=policy, min_fill=0.0)
    for number in range(6):
        s.arrive(f"{NEW}-{number}", now=0.0, tokenizer=NEW)
    for number in range(2):
        s.arrive(f"{OLD}-{number}", now=0.0, tokenizer=OLD)
    for tenth in range(1, 5):
        s.report("old", now=tenth / 10)
        s.report("new", now=tenth / 10)
        s.tick(tenth / 10)
    assert {request_id: group for request_id, (group, _) in s.where.items()} == {
        **{f"{NEW}-{number}": "new" for number in range(6)},
        **{f"{OLD}-{number}": "old" for number in range(2)},
    }


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_who_waits_for_one_tokenizer_holds_nobody_of_the_other_back(machine, policy):
    """The first in the queue cannot go: the group that reads it has not reported yet."""
    s = machine(policy=policy, min_fill=0.0)
    s.join("old", tokenizer=OLD)
    s.arrive("first", now=0.0, tokenizer=OLD, attempt=1)
    s.start_pass("old", now=0.0)
    s.at(0.0, WorkerLost(group_id="old"))
    s.join("new", tokenizer=NEW)
    s.arrive("second", now=0.0, tokenizer=NEW)
    s.report("new", now=0.1)
    s.tick(0.1)
    assert s.where["second"][0] == "new"
    s.machine.check_invariants()


@pytest.mark.parametrize(("of_request", "of_group"), [("", NEW), (OLD, "")])
def test_who_does_not_say_takes_and_is_taken_by_all(machine, of_request, of_group):
    """Token ids that a client brought; a worker of an earlier version, or without a tokenizer."""
    s = machine(min_fill=0.0)
    s.join("p0", tokenizer=of_group)
    s.arrive("a", now=0.0, tokenizer=of_request)
    assert s.where["a"][0] == "p0"


def test_newcomers_that_nobody_reads_are_told_at_once(machine):
    """The gateway looks for the tokenizer anew, and its client comes again."""
    s = machine()
    s.join("new", tokenizer=NEW)
    (reject,) = s.arrive("a", now=0.0, tokenizer=OLD)
    assert isinstance(reject, Reject)
    assert reject.reason is RejectReason.NO_WORKER
    assert "another" in reject.message


def test_without_any_group_a_newcomer_waits_as_others_do(machine):
    s = machine()
    assert s.arrive("a", now=0.0, tokenizer=OLD) == []
    s.join("new", tokenizer=NEW, now=1.0)
    assert "a" not in s.where
    s.join("old", tokenizer=OLD, now=2.0)
    s.tick(3.0)
    assert s.where["a"][0] == "old"


def test_what_has_begun_waits_for_a_group_that_reads_it_and_then_hears_why(machine):
    s = machine(queue_timeout_s=30.0)
    s.join("new", tokenizer=NEW)
    assert s.arrive("a", now=0.0, attempt=1, tokenizer=OLD) == []
    s.report("new", now=29.0)
    (reject,) = [command for command in s.tick(30.1) if isinstance(command, Reject)]
    assert reject.reason is RejectReason.NO_WORKER
    assert "tokenizer" in reject.message
    assert "waited 30 s" in reject.message


def test_prefill_and_decode_read_the_same(machine):
    """The emptier decode group has the other tokenizer; nothing is promised or placed there."""
    s = machine(decode_reservation=True, min_fill=0.0)
    s.join("p0", tokenizer=OLD)
    s.join("d-old", phase=Phase.DECODE, tokenizer=OLD)
    s.join("d-new", phase=Phase.DECODE, tokenizer=NEW, kv_blocks_total=1000)
    s.arrive("a", 300, now=0.0, tokenizer=OLD)
    assert s.machine.requests["a"].reservation[0] == "d-old"
    s.finish_prefill("a", now=1.0)
    s.tick(1.1)
    assert s.where["a"][0] == "d-old"


def test_a_request_of_an_earlier_leader_is_decoded_where_it_is_read(machine):
    s = machine(decode_reservation=True)
    s.join("d-new", phase=Phase.DECODE, tokenizer=NEW, kv_blocks_total=1000)
    s.join("d-old", phase=Phase.DECODE, tokenizer=OLD)
    s.finish_prefill("a", now=0.0, num_prompt_tokens=100, tokenizer=OLD)
    s.tick(0.1)
    assert s.where["a"][0] == "d-old"


def test_newcomers_wait_for_nobody_where_only_one_role_has_moved(machine):
    s = machine(decode_reservation=True)
    s.join("p0", tokenizer=NEW)
    s.join("d0", phase=Phase.DECODE, tokenizer=OLD)
    for tokenizer in (OLD, NEW):
        (reject,) = s.arrive(f"of-{tokenizer}", now=0.0, tokenizer=tokenizer)
        assert reject.reason is RejectReason.NO_WORKER


def test_who_comes_back_with_another_tokenizer_does_not_attach(machine):
    """Its gateway would read the tokens wrongly: what runs is ended, then it runs anew where it is read."""
    s = machine(policy="immediate-least-tokens")
    for name, tokenizer in (("old", OLD), ("new", NEW)):
        s.join(name, phase=Phase.AGGREGATED, tokenizer=tokenizer)
    s.arrive("first", now=0.0, gateway_id="g1", key="k", fingerprint="f", tokenizer=OLD)
    s.at(1.0, GatewayLost(gateway_id="g1"))
    commands = s.arrive("second", now=2.0, gateway_id="g2", key="k", fingerprint="f", tokenizer=NEW)
    assert not any(isinstance(command, Attach) for command in commands)
    assert any(isinstance(command, Abort) for command in commands)
    assert s.machine.requests["second"].status is RequestStatus.FENCED
    keyed = KeyedRequest(key="k", request_id="first", attempt=0)
    s.at(2.1, KeyedRequestsEnded(group_id="old", requests=(keyed,)))
    assert s.where["second"][0] == "new"


def test_a_group_that_reads_something_else_is_no_better_place_to_wait_for(machine, members):
    """An idle group would be sooner than a pass that a long prompt makes slow, if it could."""
    s = machine(policy="staggered-plus")
    large = {"chunk_budget_tokens": 8192, "kv_blocks_total": 100_000, "max_sequence_tokens": 200_000}
    s.join("slow", tokenizer=OLD, **large)
    s.arrive("long", 100_000, now=0.0, tokenizer=OLD)
    s.start_pass("slow", now=0.0, prefill_load_tokens=(60_000, 0), batch_size=(1, 0))
    s.join("quick", tokenizer=NEW, **large)
    assert s.arrive("short", 100, now=2.9, tokenizer=OLD) == []
    (batch,) = members(s.end_pass("slow", now=3.0, prefill_load_tokens=(51_808, 0), batch_size=(1, 0)))
    assert batch == ["short"]
