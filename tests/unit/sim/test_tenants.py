"""Workloads of several tenants."""

from __future__ import annotations

from collections import Counter

import pytest

from hortator.sim.arrivals import POISSON
from hortator.sim.load import LoadedTrace
from hortator.sim.tenants import Tenants, with_tenants
from hortator.sim.workload import TraceRequest, tenant_name


def a_workload(num_requests=3000):
    requests = tuple(
        TraceRequest(arrived_at=0.1 * i, num_prompt_tokens=10 + i % 50, num_output_tokens=1)
        for i in range(num_requests)
    )
    return LoadedTrace(requests=requests, load=0.5, wall_s=0.1 * num_requests, num_tiles=1, arrivals=POISSON)


def test_every_tenant_has_about_the_same_share():
    shares = Counter(
        request.tenant for request in with_tenants(a_workload(), Tenants(count=3), seed=0).requests
    )
    assert shares.keys() == {1, 2, 3}
    assert all(900 <= number <= 1100 for number in shares.values())


def test_a_flood_adds_to_the_first_tenant_and_leaves_all_other_requests_as_they_are():
    calm = with_tenants(a_workload(), Tenants(count=3), seed=0)
    flooded = with_tenants(a_workload(), Tenants(count=3, flood=10.0), seed=0)
    assert [r for r in flooded.requests if r.tenant != 1] == [r for r in calm.requests if r.tenant != 1]
    num_calm, num_flooded = (
        sum(1 for r in workload.requests if r.tenant == 1) for workload in (calm, flooded)
    )
    assert num_flooded == 10 * num_calm
    assert flooded.load == pytest.approx(0.5 * len(flooded.requests) / 3000)
    times = [request.arrived_at for request in flooded.requests]
    assert times == sorted(times)
    assert times[-1] < flooded.wall_s


def test_a_seed_decides_all():
    flood = Tenants(count=3, flood=2.0)
    assert with_tenants(a_workload(), flood, seed=4) == with_tenants(a_workload(), flood, seed=4)
    assert with_tenants(a_workload(), flood, seed=4) != with_tenants(a_workload(), flood, seed=5)


@pytest.mark.parametrize(
    ("values", "words"), [({"count": 0}, "count: got 0"), ({"count": 2, "flood": 0.5}, "flood: got 0.5")]
)
def test_what_is_out_of_range_is_named(values, words):
    with pytest.raises(ValueError, match=words):
        Tenants(**values)


def test_nobody_in_particular_has_no_name():
    assert [tenant_name(number) for number in (0, 1, 12)] == ["", "tenant-1", "tenant-12"]
