"""What the order of turn promises, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.waiting import WaitingQueue

TENANTS = ("a", "b", "c", "d")
WEIGHTS = {"a": 1.0, "b": 3.0, "c": 0.5}


def _request(seq: int, tenant: str, cost: int, priority: int = 0) -> RequestState:
    return RequestState(
        request_id=f"r{seq}",
        attempt=0,
        gateway_id="g",
        num_prompt_tokens=cost,
        max_output_tokens=1,
        cost_tokens=float(cost),
        now=float(seq),
        seq=seq,
        priority=priority,
        tenant=tenant,
    )


steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "take", "take", "remove", "put_back"]),
        st.sampled_from(TENANTS),
        st.integers(1, 5000),
        st.integers(0, 1),
        st.integers(0, 40),
    ),
    max_size=120,
)


@given(steps)
def test_no_request_is_lost_and_each_tenants_oldest_come_first(steps):
    """Every request that waits is met exactly once, higher priorities first, a tenant's in order of arrival."""
    queue = WaitingQueue(WEIGHTS)
    waiting: dict[str, RequestState] = {}
    taken: list[RequestState] = []
    for seq, (what, tenant, cost, priority, pick) in enumerate(steps):
        if what == "add":
            request = _request(seq, tenant, cost, priority)
            waiting[request.request_id] = request
            queue.add(request)
        elif what == "put_back" and taken:
            request = taken.pop(pick % len(taken))
            waiting[request.request_id] = request
            queue.put_back(request)
        elif what in ("take", "remove") and waiting:
            request = waiting.pop(list(waiting)[pick % len(waiting)])
            if what == "take":
                queue.take(request)
                taken.append(request)
            else:
                queue.remove(request)
        met = list(queue)
        assert len(met) == len(queue)
        assert {r.request_id for r in met} == waiting.keys()
        assert [r.priority for r in met] == sorted((r.priority for r in met), reverse=True)
        for owner in TENANTS:
            for level in (0, 1):
                mine = [r.seq for r in met if (r.tenant, r.priority) == (owner, level)]
                assert mine == sorted(mine)


@given(
    st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 5000)), min_size=1, max_size=120),
    st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 5000)), max_size=60),
)
def test_tenants_that_wait_all_the_time_get_service_by_weight(first, later):
    """In order of turn, the service per weight of two lanes never differs by more than one request of each.

    Some requests wait from the beginning, others come while those are served.
    """
    queue = WaitingQueue(WEIGHTS)
    arrivals = [_request(seq, tenant, cost) for seq, (tenant, cost) in enumerate([*first, *later])]
    for request in arrivals[: len(first)]:
        queue.add(request)
    coming = arrivals[len(first) :]
    longest = dict.fromkeys(TENANTS, 0.0)
    for request in arrivals:
        weight = WEIGHTS.get(request.tenant, 1.0)
        longest[request.tenant] = max(longest[request.tenant], request.cost_tokens / weight)
    service = dict.fromkeys(TENANTS, 0.0)
    since = {tenant: dict(service) for tenant in queue.tenants}  # service of all when this one began to wait
    while queue:
        request = next(iter(queue))
        queue.take(request)
        service[request.tenant] += request.cost_tokens / WEIGHTS.get(request.tenant, 1.0)
        for tenant in since.keys() - queue.tenants.keys():
            del since[tenant]
        if coming:
            newcomer = coming.pop(0)
            queue.add(newcomer)
            since.setdefault(newcomer.tenant, dict(service))
        for one, from_one in since.items():
            for other, from_other in since.items():
                begun = max(from_one, from_other, key=lambda s: sum(s.values()))
                gap = (service[one] - begun[one]) - (service[other] - begun[other])
                assert gap <= longest[one] + longest[other] + 1e-6


@given(st.lists(st.integers(1, 5000), max_size=40), st.data())
def test_one_tenant_is_a_plain_queue(costs, data):
    """Whatever is placed in whatever order: the rest is in order of arrival."""
    queue = WaitingQueue(WEIGHTS)
    requests = [_request(seq, "b", cost) for seq, cost in enumerate(costs)]
    for request in requests:
        queue.add(request)
    while requests:
        queue.take(requests.pop(data.draw(st.integers(0, len(requests) - 1))))
        assert list(queue) == requests
