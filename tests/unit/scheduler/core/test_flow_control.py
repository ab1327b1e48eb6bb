"""Which arrivals are refused, and what ends a wait."""

import pytest

from hortator.scheduler.core.commands import Reject
from hortator.scheduler.core.events import AdmissionStopped, PlacementRefused, RequestCancelled
from hortator.scheduler.core.model import LatencyClass, RejectReason, TenantSettings


def test_the_queue_holds_at_most_max_waiting_requests(machine, rejected):
    """The next arrival is refused with a hint when to come back; one that leaves makes room."""
    s = machine(max_waiting_requests=2)
    assert rejected(s.arrive("a")) == {}
    assert rejected(s.arrive("b")) == {}
    (reject,) = s.arrive("c")
    assert (reject.reason, reject.retry_after_s) == (RejectReason.QUEUE_FULL_REQUESTS, 1.0)
    s.at(0.0, RequestCancelled(request_id="a"))
    assert rejected(s.arrive("c")) == {}


def test_the_queue_holds_at_most_max_waiting_tokens(machine, rejected):
    """600 + 400 fit into 1000; one more does not."""
    s = machine(max_waiting_tokens=1000)
    assert rejected(s.arrive("a", 600)) == {}
    assert rejected(s.arrive("b", 401)) == {"b": "queue_full_tokens"}
    assert rejected(s.arrive("c", 400)) == {}


def test_queue_limits_and_a_drain_do_not_turn_away_what_has_begun(machine, rejected):
    """A later attempt resumes a request whose tokens a client has already seen."""
    s = machine(max_waiting_requests=0)
    assert rejected(s.arrive("a", attempt=1)) == {}
    s.at(0.0, AdmissionStopped())
    assert rejected(s.arrive("b", attempt=1)) == {}
    assert rejected(s.arrive("c", attempt=0)) == {"c": "draining"}


def test_a_rejected_request_leaves_nothing_behind(machine):
    """It may come again under the same id."""
    s = machine(max_waiting_requests=0)
    s.arrive("a")
    assert s.machine.requests == {}
    assert s.machine.next_wakeup() is None


def test_a_deadline_that_has_passed_is_refused_on_arrival(machine, rejected):
    """Deadlines are absolute times of the same clock."""
    s = machine()
    assert rejected(s.arrive("a", now=5.0, deadline_at=5.0)) == {"a": "deadline"}
    assert rejected(s.arrive("b", now=5.0, deadline_at=5.1)) == {}


def test_a_predicted_wait_beyond_the_deadline_is_refused_once_the_estimate_is_trained(machine, rejected):
    """Not before: nobody is refused on a guess."""
    for passes in (5, 6):
        s = machine()
        s.join()
        for i in range(passes):
            s.run_pass(start=0.2 * i, end=0.2 * i + 0.2, ran=(1000, 1000))
        s.start_pass(now=2.0)
        for i in range(20):
            s.arrive(f"r{i}", 1000, now=2.0)  # ten full passes of about 0.2 s
        expected = {} if passes == 5 else {"late": "predicted_wait"}
        assert rejected(s.arrive("late", now=2.0, deadline_at=3.0)) == expected
        assert rejected(s.arrive("patient", now=2.0, deadline_at=6.0)) == {}


def test_retry_after_is_the_time_to_work_off_the_queue_within_bounds(machine):
    """Waiting tokens / fleet rate, between 50 ms and 30 s."""
    s = machine(max_waiting_requests=1)
    s.join()
    s.start_pass(now=0.0)
    s.arrive("a", 6000, now=0.0)
    (reject,) = s.arrive("b", now=0.0)
    rate = 2000 / s.group().full_pass_s
    assert reject.retry_after_s == pytest.approx(6000 / rate)


def test_a_prompt_longer_than_any_group_takes_is_refused_once_groups_are_known(machine, rejected):
    """Before the first worker there is nothing to judge by."""
    s = machine()
    assert rejected(s.arrive("early", 7000)) == {}
    s.at(0.0, RequestCancelled(request_id="early"))
    s.join()
    assert rejected(s.arrive("a", 6400)) == {"a": "prompt_too_long"}
    assert rejected(s.arrive("b", 6399)) == {}


def test_without_chunked_prefill_the_chunk_budget_is_the_limit(machine, rejected):
    """And the message names it."""
    s = machine()
    s.join(chunked_prefill=False)
    (reject,) = s.arrive("a", 1001)
    assert reject.reason is RejectReason.PROMPT_TOO_LONG
    assert "1000" in reject.message
    assert rejected(s.arrive("b", 1000)) == {}


def test_a_wait_ends_at_the_queue_timeout_with_the_reason(machine, rejected):
    """No worker at all, or workers that had no room."""
    for joined, reason in ((False, "no_worker"), (True, "queue_timeout")):
        s = machine(queue_timeout_s=3.0)
        if joined:
            s.join()
            s.start_pass(now=1.0)
        s.arrive("a", now=1.0)
        assert s.machine.next_wakeup() == 4.0
        assert rejected(s.tick(3.999)) == {}
        assert rejected(s.tick(4.0)) == {"a": reason}
        assert s.machine.requests == {}


def test_a_wait_ends_at_the_deadline_if_that_is_earlier(machine, rejected):
    """And before anything is placed at that very moment."""
    s = machine()
    s.arrive("a", now=1.0, deadline_at=2.0)
    assert s.machine.next_wakeup() == 2.0
    assert rejected(s.join(now=2.0)) == {"a": "deadline"}
    assert s.where == {}


def test_many_ended_requests_do_not_grow_the_expiry_heap(machine):
    """Entries of requests that have ended are dropped now and then."""
    s = machine()
    for i in range(2000):
        s.arrive(f"r{i}", now=0.0)
        s.at(0.0, RequestCancelled(request_id=f"r{i}"))
    assert len(s.machine._expiries) < 200


def test_a_rebuilt_expiry_heap_still_ends_waits(machine, rejected):
    """Those that live keep their entry."""
    s = machine(queue_timeout_s=3.0)
    s.arrive("keeper", now=0.0)
    for i in range(500):
        s.arrive(f"r{i}", now=0.1)
        s.at(0.1, RequestCancelled(request_id=f"r{i}"))
    assert rejected(s.tick(3.0)) == {"keeper": "no_worker"}


def test_draining_refuses_arrivals_and_still_places_what_waits(machine, rejected, members):
    """`AdmissionStopped`."""
    s = machine()
    s.arrive("a", now=0.0)
    s.at(0.5, AdmissionStopped())
    assert rejected(s.arrive("b", now=0.6)) == {"b": "draining"}
    assert members(s.join(now=1.0)) == [["a"]]


def test_a_refused_placement_counts_against_the_queue_timeout_from_arrival(machine, rejected):
    """A request bounced by workers does not live for ever."""
    s = machine(queue_timeout_s=3.0, policy="immediate-least-tokens")
    s.join()
    s.arrive("a", now=0.0)
    for now in (1.0, 2.0):
        assert rejected(s.at(now, PlacementRefused(request_id="a", group_id="p0"))) == {}
    assert rejected(s.at(3.0, PlacementRefused(request_id="a", group_id="p0"))) == {"a": "queue_timeout"}


def test_a_reject_names_the_attempt_and_its_gateway(machine):
    """So that the shell can deliver it without a look-up."""
    s = machine()
    (reject,) = s.arrive("a", now=5.0, attempt=2, gateway_id="gw-7", deadline_at=5.0)
    assert isinstance(reject, Reject)
    assert (reject.request_id, reject.attempt, reject.gateway_id) == ("a", 2, "gw-7")


def test_a_tenant_holds_at_most_its_share_of_the_queue(machine, rejected):
    """Half of four requests, a tenth of 10 000 tokens for b; the refusal names who and what, others come in."""
    s = machine(
        max_waiting_requests=4,
        max_waiting_tokens=10_000,
        max_tenant_share=0.5,
        tenants=(TenantSettings(name="b", queue_share=0.1), TenantSettings(name="c", queue_share=1.0)),
    )
    assert rejected(s.arrive("a1", tenant="a") + s.arrive("a2", tenant="a")) == {}
    (reject,) = s.arrive("a3", tenant="a")
    assert (reject.reason, reject.message) == (
        RejectReason.TENANT_QUOTA,
        "tenant 'a': 2 requests wait; the limit is 2",
    )
    assert reject.retry_after_s > 0.0
    (reject,) = s.arrive("b1", 1001, tenant="b")
    assert reject.message == "tenant 'b': 0 prompt tokens wait; the limit is 1000"
    assert rejected(s.arrive("b2", 1000, tenant="b")) == {}
    assert rejected(s.arrive("c1", tenant="c")) == {}
    assert rejected(s.arrive("c2", tenant="c")) == {"c2": "queue_full_requests"}
    s.at(0.0, RequestCancelled(request_id="a1"))
    assert rejected(s.arrive("a3", tenant="a")) == {}


def test_a_share_of_the_queue_does_not_turn_away_what_has_begun(machine, rejected):
    """As with the limits of the whole queue."""
    s = machine(max_waiting_requests=4, max_tenant_share=0.25)
    assert rejected(s.arrive("a", tenant="t")) == {}
    assert rejected(s.arrive("b", tenant="t", attempt=1)) == {}
    assert rejected(s.arrive("c", tenant="t")) == {"c": "tenant_quota"}


def _trained(machine, **settings):
    """One group of 2000 tokens per pass of about 0.2 s, in a pass that began at 2.0."""
    s = machine(**settings)
    s.join()
    for i in range(6):
        s.run_pass(start=0.2 * i, end=0.2 * i + 0.2, ran=(1000, 1000))
    s.start_pass(now=2.0)
    return s


def test_a_newcomer_that_would_wait_too_long_is_refused_on_arrival(machine, rejected):
    """Twenty prompts of 1000 are about 2 s of work: more than 1.5 s; with none set the queue's timeout counts."""
    for settings, refused in (
        ({"max_wait_s": 1.5}, True),
        ({"max_wait_s": 3.0}, False),
        ({"queue_timeout_s": 1.5}, True),
        ({"queue_timeout_s": 1.5, "max_wait_s": 3.0}, False),
    ):
        s = _trained(machine, **({"queue_timeout_s": 30.0} | settings))
        for i in range(20):
            s.arrive(f"r{i}", 1000, now=2.0)
        commands = s.arrive("late", now=2.0)
        assert rejected(commands) == ({"late": "predicted_wait"} if refused else {})
        assert rejected(s.arrive("begun", now=2.0, attempt=1)) == {}
        assert rejected(s.arrive("critical", now=2.0, latency_class=LatencyClass.CRITICAL)) == {}
        if refused:
            (reject,) = commands
            assert "the limit is 1.5 s" in reject.message
            assert reject.retry_after_s > 0.85 * 1.5


def test_the_wait_is_predicted_for_the_tenant(machine, rejected):
    """The flood has 1.2 s of work waiting; who takes turns with it has little before it."""
    s = _trained(machine, max_wait_s=1.5)
    for i in range(20):
        s.arrive(f"r{i}", 1000, now=2.0, tenant="flood")
    num_tokens = s.machine.waiting.tenants["flood"].num_tokens
    assert 12_000 <= num_tokens < 20_000
    s.arrive("own", 1000, now=2.0, tenant="calm")
    assert s.machine.waiting.tokens_ahead("calm", 0) == 2000
    assert s.machine.waiting.tokens_ahead("other", 0) == 0
    assert s.machine.waiting.tokens_ahead("flood", 0) == num_tokens + 1000
    assert rejected(s.arrive("a", now=2.0, tenant="calm")) == {}
    assert rejected(s.arrive("b", now=2.0, tenant="flood")) == {"b": "predicted_wait"}


def test_what_has_a_lower_priority_is_not_waited_for(machine, rejected):
    """An urgent newcomer goes before a long queue, and waits for what is urgent."""
    s = _trained(machine, max_wait_s=1.5)
    for i in range(20):
        s.arrive(f"r{i}", 1000, now=2.0)
    num_tokens = s.machine.waiting.num_tokens
    assert rejected(s.arrive("late", 1000, now=2.0)) == {"late": "predicted_wait"}
    assert rejected(s.arrive("urgent", 1000, now=2.0, priority=5)) == {}
    assert s.machine.waiting.tokens_ahead("", 5) == 1000
    assert s.machine.waiting.tokens_ahead("", 0) == num_tokens + 1000


def test_what_is_resumed_is_waited_for_as_far_as_it_takes_turns(machine):
    """At a quarter, 3000 tokens of newcomers let 1000 of the resumed go before; never more than there are."""
    s = _trained(machine, resumed_share=0.25)
    for i in range(8):
        s.arrive(f"r{i}", 1000, now=2.0, attempt=1)
    assert s.machine.waiting.tokens_ahead("", 0) == 0
    for i in range(3):
        s.arrive(f"n{i}", 1000, now=2.0)
    assert s.machine.waiting.tokens_ahead("", 0) == pytest.approx(4000)
    for i in range(3, 27):
        s.arrive(f"n{i}", 1000, now=2.0)
    assert s.machine.waiting.tokens_ahead("", 0) == pytest.approx(27_000 + 8000)


def test_who_is_refused_for_flooding_still_floods(machine, rejected):
    """Refused requests count as asked for; else a limit on its queue would make a flood look harmless."""
    s = _trained(machine, max_waiting_requests=30, tenants=(TenantSettings(name="flood", queue_share=0.1),))
    s.arrive("calm", 100, now=2.0, tenant="calm")
    for i in range(400):
        s.arrive(f"r{i}", 1000, now=2.0, tenant="flood")
    assert s.machine.waiting.tenants["flood"].num_requests == 3
    rate = s.machine.fleet.tokens_per_s()
    assert s.machine.fleet.asked.asks_too_much("flood", 2.0, tokens_per_s=rate)
    assert not s.machine.fleet.asked.asks_too_much("calm", 2.0, tokens_per_s=rate)


def test_a_flood_cannot_count_on_more_than_its_share(machine, rejected):
    """Alone in the queue with 1 s of work; the other tenant, who asked a moment ago, is owed the half."""
    s = _trained(machine, max_wait_s=2.0)
    s.arrive("calm", 100, now=2.0, tenant="calm")
    for i in range(200):
        s.arrive(f"r{i}", 1000, now=2.0, attempt=1, tenant="flood")
    for request_id in ("calm", *(f"r{i}" for i in range(10, 200))):
        s.at(2.0, RequestCancelled(request_id=request_id))
    wait_s = 10_000 / s.machine.fleet.tokens_per_s()
    assert 0.85 * 2.0 / 2 < wait_s < 0.85 * 2.0
    assert rejected(s.arrive("late", now=2.0, tenant="flood")) == {"late": "predicted_wait"}
    assert rejected(s.arrive("calm", now=2.0, tenant="calm")) == {}
