"""What the gateway measures. Names begin with `hortator_gateway_`; no label carries a request id.

Times per token are observed tens of thousands of times a second, so their histograms are plain counters
that become Prometheus samples only when somebody scrapes (`TimeHistogram`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from hortator.runtime.metrics import LATENCY_BUCKETS_S

TOKEN_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05,
    0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0,
)  # fmt: skip
"""For times between tokens, in seconds."""

_PREFIX = "hortator_gateway_"


class TimeHistogram(Collector):
    """A histogram of seconds that costs a bisection per observation. One event loop writes it."""

    def __init__(
        self, name: str, documentation: str, buckets_s: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(buckets_s)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def observe_zeros(self, number: int) -> None:
        """Count `number` durations of zero: tokens that came in one delta."""
        self._counts[0] += number

    def collect(self) -> Iterator[Metric]:
        """The samples, cumulative as Prometheus wants them."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets=buckets, sum_value=self._sum)
        yield family

    def describe(self) -> Iterator[Metric]:
        """The name, for the registry."""
        yield HistogramMetricFamily(self._name, self._documentation)


class GatewayMetrics:
    """All metrics of one gateway, in its own registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def times(name: str, documentation: str, buckets_s: Sequence[float]) -> TimeHistogram:
            return TimeHistogram(f"{_PREFIX}{name}", documentation, buckets_s, registry)

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}{name}", documentation, labels, registry=registry)

        self._registry = registry
        self.ttft = times("ttft_seconds", "Accepted to first token out.", LATENCY_BUCKETS_S)
        self.tpot = times("tpot_seconds", "(E2E - TTFT) / (output tokens - 1).", TOKEN_BUCKETS_S)
        self.itl = times(
            "itl_seconds", "Gap between consecutive tokens as workers send them.", TOKEN_BUCKETS_S
        )
        self.e2e = times("e2e_seconds", "Accepted to last token.", LATENCY_BUCKETS_S)
        self.first_gap = times("first_gap_seconds", "First to second token.", LATENCY_BUCKETS_S)
        self.hold = times("hold_seconds", "First announcement to first placement.", LATENCY_BUCKETS_S)
        self.coalescing = times(
            "coalescing_seconds", "Time that the oldest token of a held message waited.", TOKEN_BUCKETS_S
        )
        self.requests = counter("requests", "Requests ended, by outcome.", "outcome")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of accepted requests.")
        self.output_tokens = counter("output_tokens", "Output tokens of ended requests.")
        self.replacements = counter("replacements", "Requests announced again, by reason.", "reason")
        self.refusals = counter("refusals", "Placements that workers refused.")
        self.limit_refusals = counter(
            "limit_refusals", "Calls refused or ended by a limit of this gateway, by its setting.", "limit"
        )
        self.messages = counter("messages", "Messages sent to clients.")
        self.degraded = Gauge(
            f"{_PREFIX}degraded",
            "1 while no scheduler leads and this gateway places by itself.",
            registry=registry,
        )
        self.placements = counter("placements", "Placements taken, by who chose the worker.", "by")
        self.stale_placements = counter("stale_placements", "Placements of older epochs, ignored.")

    def gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Publish a value that is read when somebody scrapes."""
        Gauge(f"{_PREFIX}{name}", documentation, registry=self._registry).set_function(read)
