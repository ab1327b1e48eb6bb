"""Who has a say in which pass is run."""

import pytest

from hortator.scheduler.core.policies.hearing import hear
from hortator.scheduler.core.policies.staggered import consider
from hortator.scheduler.core.waiting import WaitingQueue

ROOM = 2000


@pytest.fixture
def hearing(a_request, a_fleet, a_group_state):
    """`hearing("FFFa", ...)`: one request of 100 tokens per letter; F has asked for a hundred shares of late."""

    def make(letters, *, prompt=100, priorities=None):
        group = a_group_state()
        fleet = a_fleet(group)
        rate = fleet.tokens_per_s()
        for tenant in dict.fromkeys(letters):
            fleet.asked.observe(tenant, int((100 if tenant == "F" else 0.5) * 10 * rate), 0.0)
        queue = WaitingQueue()
        for index, tenant in enumerate(letters):
            priority = 0 if priorities is None else priorities[index]
            queue.add(a_request(prompt, tenant=tenant, priority=priority))
        considered = consider(queue, 4 * ROOM, group)
        return hear(fleet, queue, considered, ROOM, 5.0)

    return make


def _owners(requests):
    return "".join(request.tenant for request in requests)


def test_a_flood_rides_along_up_to_the_last_turn_of_the_others(hearing):
    """Six of F before one of a and two of b: those that go are in order of turn, and end with b's last."""
    found = hearing("FFFFFFabb")
    assert found.unheard == {"F"}
    assert _owners(found.considered) == "FabFb"
    assert _owners(found.heard(found.considered)) == "abb"


def test_a_tenant_alone_is_heard_whatever_it_asks_for(hearing):
    """There is nobody to protect."""
    found = hearing("FFFF")
    assert (found.unheard, _owners(found.considered)) == (frozenset(), "FFFF")


def test_without_a_flood_everybody_is_heard(hearing):
    """And everything that is considered may go."""
    found = hearing("aaab")
    assert (found.unheard, _owners(found.considered)) == (frozenset(), "abaa")


def test_a_flood_that_is_far_behind_is_heard(hearing, a_request, a_fleet, a_group_state):
    """F's turns before anybody else's are 1100 tokens, more than half of a pass of 2000: it is owed that."""
    fleet = a_fleet(a_group_state())
    for tenant in ("F", "a"):
        fleet.asked.observe(tenant, int((100 if tenant == "F" else 0.5) * 10 * fleet.tokens_per_s()), 0.0)
    for num_placed, unheard in ((9, {"F"}), (11, set())):
        queue = WaitingQueue()
        others = [a_request(100, tenant="a") for _ in range(20)]
        for request in [*(a_request(100, tenant="F") for _ in range(30)), *others]:
            queue.add(request)
        for request in others[:num_placed]:
            queue.take(request)
        considered = list(queue)
        assert _owners(considered).startswith("F" * num_placed + "a")
        assert hear(fleet, queue, considered, ROOM, 5.0).unheard == unheard


def test_only_the_highest_priority_is_judged(hearing):
    """F alone has urgent requests: they go first, and it is heard."""
    found = hearing("FFab", priorities=[5, 5, 0, 0])
    assert found.unheard == frozenset()
    assert _owners(found.considered) == "FFab"
