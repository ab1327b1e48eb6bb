"""Whose request is considered next when several tenants wait."""

import pytest

from hortator.scheduler.core.waiting import WaitingQueue


@pytest.fixture
def queue_of(a_request):
    """`queue_of("aab", prompts=...)`: one request per letter, the letter is its tenant; ids are r1, r2, ..."""

    def make(tenants, prompt=100, *, weights=None, queue=None):
        queue = WaitingQueue(weights or {}) if queue is None else queue
        requests = [a_request(prompt, tenant=tenant) for tenant in tenants]
        for request in requests:
            queue.add(request)
        return queue, requests

    return make


def _owners(queue):
    return "".join(request.tenant for request in queue)


def _ids(queue):
    return [request.request_id for request in queue]


def test_tenants_take_turns_whoever_came_first(queue_of):
    """Four of a wait before b comes with two: a's head, then one each."""
    queue, _ = queue_of("aaaabb")
    assert _owners(queue) == "ababaa"
    assert _ids(queue) == ["r1", "r5", "r2", "r6", "r3", "r4"]


def test_turns_are_counted_in_work_not_in_requests(a_request):
    """One prompt of 300 of a for three of 100 of b."""
    queue = WaitingQueue()
    for _ in range(2):
        queue.add(a_request(300, tenant="a"))
    for _ in range(6):
        queue.add(a_request(100, tenant="b"))
    assert _owners(queue) == "abbbabbb"


def test_a_weight_multiplies_the_share(queue_of):
    """b weighs 3: three of b for one of a."""
    queue, _ = queue_of("aaabbbbbb", weights={"b": 3.0})
    assert _owners(queue) == "abbbabbba"


def test_service_that_was_had_counts(queue_of):
    """After two of a were placed b has two turns before a has its next."""
    queue, requests = queue_of("aaaabbb")
    queue.take(requests[0])
    queue.take(requests[1])
    assert _owners(queue) == "bbaba"


def test_what_is_withdrawn_is_not_charged(queue_of):
    """A cancelled request had no service."""
    queue, requests = queue_of("aaabb")
    queue.remove(requests[0])
    assert _owners(queue) == "abab"


def test_a_placement_that_is_refused_is_given_back(queue_of):
    """Taken and put back: as if nothing had happened, also where nobody else of the tenant waits."""
    for tenants in ("aaabb", "abb"):
        queue, requests = queue_of(tenants)
        before = _ids(queue)
        queue.take(requests[0])
        assert _ids(queue) != before
        queue.put_back(requests[0])
        assert _ids(queue) == before


def test_nobody_saves_up_service_while_not_waiting(queue_of):
    """b comes after twenty of a were placed: it shares from now on, and does not go first twenty times."""
    queue, requests = queue_of("a" * 24)
    for request in requests[:20]:
        queue.take(request)
    queue_of("bbb", queue=queue)
    assert _owners(queue) == "abababa"


def test_a_tenant_that_comes_back_at_once_is_not_a_newcomer(queue_of):
    """a had three turns while b and c waited; leaving the queue for a moment does not wipe that out."""
    queue, requests = queue_of("aaabbbccc")
    for request in requests[:3]:
        queue.take(request)
    queue_of("a", queue=queue)
    assert _owners(queue) == "bcbcbca"


def test_service_is_forgotten_when_nobody_waits(queue_of):
    """The next busy period starts from nothing."""
    queue, requests = queue_of("aaab")
    for request in requests:
        queue.take(request)
    queue_of("aab", queue=queue)
    assert _owners(queue) == "aba"


def test_priorities_come_before_fairness(a_request):
    """All of the flood's urgent requests go before anybody's others."""
    queue = WaitingQueue()
    for tenant, priority in (("b", 0), ("a", 5), ("a", 5), ("a", 0)):
        queue.add(a_request(tenant=tenant, priority=priority))
    assert _owners(queue) == "aaba"


def test_one_tenant_is_a_plain_queue_whatever_was_placed(a_request):
    """In order of arrival, also after placements out of order."""
    queue = WaitingQueue({"a": 7.0})
    requests = [a_request(100 * (i % 3 + 1), tenant="a") for i in range(9)]
    for request in requests:
        queue.add(request)
    for index in (4, 0, 7):
        queue.take(requests[index])
    assert _ids(queue) == ["r2", "r3", "r4", "r6", "r7", "r9"]


def test_loads_are_known_by_tenant_over_all_priorities(a_request):
    """And a tenant with nothing waiting is not kept."""
    queue = WaitingQueue()
    requests = [a_request(100, tenant="a"), a_request(50, tenant="a", priority=2), a_request(7, tenant="b")]
    for request in requests:
        queue.add(request)
    load = queue.tenants["a"]
    assert (load.num_requests, load.num_tokens) == (2, 150)
    queue.take(requests[0])
    queue.remove(requests[1])
    assert list(queue.tenants) == ["b"]


def test_tenants_that_come_once_do_not_pile_up(a_request):
    """A thousand names, each served once, beside one that always waits and is served in its turn."""
    queue = WaitingQueue()
    queue.add(a_request(tenant="stays"))
    for i in range(1000):
        queue.add(a_request(tenant=f"t{i}"))
        queue.add(a_request(tenant="stays"))
        for request in list(queue)[:2]:
            queue.take(request)
    (level,) = queue._levels.values()
    assert len(level.newcomers._ends) <= 64


def test_only_tenants_that_are_asked_for_are_counted(a_request):
    """Names that clients choose are no labels; one with nothing waiting counts as nothing."""
    queue = WaitingQueue()
    queue.add(a_request(30, tenant="a"))
    queue.add(a_request(50, tenant="b"))
    assert queue.loads_of(["a", "c"]) == {"a": (1, 30), "c": (0, 0)}
