"""What a run's figures need of its requests: of rows while they are few, of sums when they are many.

A run of a million requests must not hold a million of anything. Up to MAX_EXACT_REQUESTS, ended requests are
rows, and every figure is exact. With one more, the rows so far become sums and those to come follow, chunk by
chunk: counts, sums, means and maxima stay exact, percentiles and stability then come from histograms; see
`distribution` and `queue_bins` for what that costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from hortator.sim.distribution import Distribution
from hortator.sim.queue_bins import QueueBins
from hortator.sim.records import Floats, RequestTable
from hortator.sim.slo import Slo

MAX_EXACT_REQUESTS = 1 << 19
"""42 MB of rows; twenty minutes of conversations at load 0.95 on 64 ranks are 490 000."""
CHUNK_REQUESTS = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantTally:
    """Of one tenant's requests that arrived after the warm-up."""

    num_requests: int
    num_rejected: int
    ttft_s: dict[str, float]
    """mean, p50, p90, p99, max."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Of the requests that arrived after the warm-up, and, where it says so, of everyone."""

    num_requests: int
    num_completed: int
    num_rejected: int
    num_good: int
    """Ended within every limit of the SLO."""
    percentiles: dict[str, dict[str, float]]
    """By figure: mean, p50, p90, p99, max in seconds."""
    engine_queue_s: float
    """Everyone's, summed."""
    prefill_tokens: float
    """Everyone's with a first token."""
    output_tokens: float
    """Everyone's with a last token."""
    is_stable: bool
    """Over everyone."""
    tenants: Mapping[int, TenantTally] = field(default_factory=dict)
    """By number; empty where nobody has one."""


def durations(done: RequestTable) -> dict[str, Floats]:
    """What percentiles are told of, by figure, of requests that completed."""
    decoded = done.where(~np.isnan(done.second_token_at))
    return {
        "ttft_s": done.ttft_s,
        "first_gap_s": decoded.first_gap_s,
        "tpot_s": decoded.tpot_s,
        "e2e_s": done.e2e_s,
        "hold_s": done.hold_s,
        "engine_queue_s": done.engine_queue_s,
    }


def by_tenant(requests: RequestTable) -> Iterator[tuple[int, RequestTable]]:
    """The requests of each tenant; 0: of those without one."""
    for number in np.unique(requests.tenant):
        yield int(number), requests.where(requests.tenant == number)


def unless_nameless(tenants: Mapping[int, TenantTally]) -> Mapping[int, TenantTally]:
    """Nothing where nobody has a tenant: the figures of all say it already."""
    return tenants if any(tenants) else {}


class _TenantSums:
    """Of one tenant."""

    __slots__ = ("num_rejected", "num_requests", "ttft_s")

    def __init__(self) -> None:
        self.num_requests = self.num_rejected = 0
        self.ttft_s = Distribution()

    def add(self, requests: RequestTable) -> None:
        self.num_requests += len(requests.arrived_at)
        self.num_rejected += int(requests.is_rejected.sum())
        self.ttft_s.add(requests.ttft_s[~np.isnan(requests.ttft_s)])

    def tally(self) -> TenantTally:
        return TenantTally(
            num_requests=self.num_requests,
            num_rejected=self.num_rejected,
            ttft_s=self.ttft_s.percentiles(),
        )


class RequestSums:
    """Sums over requests that were added as rows, in any order; about 1.5 MB."""

    __slots__ = (
        "_distributions",
        "_engine_queue_s",
        "_num_good",
        "_num_rejected",
        "_num_requests",
        "_output_tokens",
        "_prefill_tokens",
        "_queue",
        "_slo",
        "_tenants",
        "_warmup_s",
    )

    def __init__(self, *, warmup_s: float, slo: Slo) -> None:
        self._warmup_s = warmup_s
        self._slo = slo
        self._num_requests = self._num_rejected = self._num_good = 0
        self._engine_queue_s = self._prefill_tokens = self._output_tokens = 0.0
        self._distributions: dict[str, Distribution] = {}
        self._queue = QueueBins()
        self._tenants: dict[int, _TenantSums] = {}

    def add(self, everyone: RequestTable) -> None:
        """Add some requests; each once, when nothing of it changes any more."""
        counted = everyone.where(everyone.arrived_at >= self._warmup_s)
        self._num_requests += len(counted.arrived_at)
        self._num_rejected += int(counted.is_rejected.sum())
        self._num_good += int(counted.keeps(self._slo).sum())
        for name, values_s in durations(counted.where(counted.is_finished)).items():
            self._distributions.setdefault(name, Distribution()).add(values_s)
        for number, theirs in by_tenant(counted):
            self._tenants.setdefault(number, _TenantSums()).add(theirs)
        self._engine_queue_s += float(np.nansum(everyone.engine_queue_s))
        self._prefill_tokens += float(everyone.num_prompt_tokens[~np.isnan(everyone.first_token_at)].sum())
        self._output_tokens += float(everyone.num_output_tokens[everyone.is_finished].sum())
        taken = everyone.where(everyone.is_rejected == 0)
        self._queue.add(taken.arrived_at, taken.first_token_at)

    def tally(self) -> Tally:
        """Of all that were added."""
        return Tally(
            num_requests=self._num_requests,
            num_completed=self._distributions["ttft_s"].num,
            num_rejected=self._num_rejected,
            num_good=self._num_good,
            percentiles={name: found.percentiles() for name, found in self._distributions.items()},
            engine_queue_s=self._engine_queue_s,
            prefill_tokens=self._prefill_tokens,
            output_tokens=self._output_tokens,
            is_stable=self._queue.is_stable(),
            tenants=unless_nameless({number: found.tally() for number, found in self._tenants.items()}),
        )
