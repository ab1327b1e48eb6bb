"""The waiting queue's order and its counts."""

import pytest

from hortator.scheduler.core.waiting import WaitingQueue


def _ids(queue):
    return [request.request_id for request in queue]


def test_is_first_in_first_out_within_a_priority(a_request):
    """Higher priorities go first; within one, the order of arrival."""
    queue = WaitingQueue()
    for priority in (0, 5, 0, -1, 5):
        queue.add(a_request(priority=priority))
    assert _ids(queue) == ["r2", "r5", "r1", "r3", "r4"]


def test_counts_requests_and_tokens(a_request):
    """Both follow every add and remove."""
    queue = WaitingQueue()
    first, second = a_request(100), a_request(30)
    queue.add(first)
    queue.add(second)
    assert (len(queue), queue.num_tokens) == (2, 130)
    queue.remove(first)
    assert (len(queue), queue.num_tokens) == (1, 30)
    assert first not in queue
    assert second in queue
    queue.remove(second)
    assert not queue
    assert queue.num_tokens == 0


def test_a_request_that_does_not_wait_cannot_be_removed(a_request):
    """KeyError, and the counts stay."""
    queue = WaitingQueue()
    queue.add(a_request(100))
    with pytest.raises(KeyError):
        queue.remove(a_request(50))
    assert queue.num_tokens == 100


def test_refused_requests_go_back_in_their_order_of_arrival(a_request):
    """Whatever the order of the refusals: r1 and r3 come back before r4, around r2 which never left."""
    queue = WaitingQueue()
    requests = [a_request() for _ in range(4)]
    queue.add(requests[1])
    queue.add(requests[3])
    queue.put_back(requests[2])
    queue.put_back(requests[0])
    assert _ids(queue) == ["r1", "r2", "r3", "r4"]


def test_the_oldest_wait_looks_at_every_priority(a_request):
    """A low priority may hold the oldest request."""
    queue = WaitingQueue()
    assert queue.oldest_wait_s(5.0) == 0.0
    queue.add(a_request(priority=0, now=1.0))
    queue.add(a_request(priority=9, now=3.0))
    assert queue.oldest_wait_s(5.0) == 4.0


def test_a_refused_request_counts_from_its_arrival_for_the_oldest_wait(a_request):
    """Two refusals in the wrong order do not hide the older one."""
    queue = WaitingQueue()
    older, newer = a_request(now=1.0), a_request(now=2.0)
    queue.put_back(older)
    queue.put_back(newer)
    assert queue.oldest_wait_s(5.0) == 4.0
