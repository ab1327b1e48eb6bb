"""Workloads of several tenants, one of whom may flood: what does that do to the others?

Every request of a workload is given to one of the tenants by lot, so all have the same share of it. A flood
multiplies what the first tenant asks for and leaves every other request as it is: lengths are drawn from the
workload's own, times are uniform over the flood. So two runs that differ in the flood only have the same
requests of all the others, at the same times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hortator.sim.load import LoadedTrace

FLOODING = 1
"""Number of the tenant that floods."""
MAX_TENANTS = 1000
MAX_FLOOD = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenants:
    """How many, and how the first one behaves.

    Raises:
        ValueError: out of range; the message begins with the field.
    """

    count: int
    flood: float = 1.0
    """The first asks for so many times its share; 1: it is like the others."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_TENANTS:
            raise ValueError(f"count: got {self.count} (allowed: 1 to {MAX_TENANTS})")
        if not 1.0 <= self.flood <= MAX_FLOOD:
            raise ValueError(f"flood: got {self.flood:g} (allowed: 1 to {MAX_FLOOD:g})")


def with_tenants(workload: LoadedTrace, tenants: Tenants, *, seed: int) -> LoadedTrace:
    """The workload with its requests given to tenants, and what a flood adds. Its load is that of all."""
    share_stream, flood_stream = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence((seed, 0x7E4A)).spawn(2)
    )
    requests = workload.requests
    owners = share_stream.integers(1, tenants.count + 1, size=len(requests))
    owned = [replace(request, tenant=owner) for request, owner in zip(requests, owners.tolist(), strict=True)]
    mine = [request for request in owned if request.tenant == FLOODING]
    num_more = round((tenants.flood - 1.0) * len(mine))
    if num_more == 0:
        return replace(workload, requests=tuple(owned))
    times = flood_stream.uniform(0.0, workload.wall_s, size=num_more)
    like = flood_stream.integers(len(mine), size=num_more)
    more = [
        replace(mine[index], arrived_at=at) for at, index in zip(times.tolist(), like.tolist(), strict=True)
    ]
    merged = sorted([*owned, *more], key=lambda request: request.arrived_at)
    return replace(workload, requests=tuple(merged), load=workload.load * (1.0 + num_more / len(requests)))
