"""Counters and histograms cheap enough for the hot path: plain numbers, added to by one thread.

`prometheus_client`'s own take a lock and walk all buckets at each observation; at thousands of placements a
second, with half a dozen observations each, that was a quarter of the scheduler's work. These are written by
the event loop's thread only; a scrape reads from another thread, and sees each number before or after an
addition, which is all that a counter promises.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Count:
    """One growing number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count `amount` more."""
        self.value += amount


class Counts(Collector):
    """A counter metric: one `Count` per combination of label values (of `label_names`, in that order)."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self._name = name
        self._text = text
        self.label_names = tuple(labels)
        self._counts: dict[tuple[str, ...], Count] = {}
        if not labels:
            self.of()
        registry.register(self)

    def of(self, *values: str) -> Count:
        """The count of these label values; keep it, looking it up costs more than adding."""
        count = self._counts.get(values)
        if count is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self._name} has the labels {self.label_names}, got {values}")
            count = self._counts[values] = Count()
        return count

    def describe(self) -> Iterator[Metric]:
        """Name and help without values."""
        yield CounterMetricFamily(self._name, self._text, labels=self.label_names)

    def collect(self) -> Iterator[Metric]:
        """What a scrape sees."""
        family = CounterMetricFamily(self._name, self._text, labels=self.label_names)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count.value)
        yield family


class Distribution:
    """Observations in buckets."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * len(bounds)
        """Per bucket, not added up."""
        self.sum = 0.0

    def observe(self, value: float, weight: int = 1) -> None:
        """Count `value` `weight` times."""
        self.counts[bisect_left(self._bounds, value)] += weight
        self.sum += value * weight


class Distributions(Collector):
    """A histogram metric: one `Distribution` per combination of label values (of `label_names`)."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        buckets: Sequence[float],
        labels: Sequence[str] = (),
    ) -> None:
        self._name = name
        self._text = text
        self.label_names = tuple(labels)
        self._bounds = (*buckets, math.inf)
        self._bound_texts = [*(repr(float(bound)) for bound in buckets), "+Inf"]
        self._distributions: dict[tuple[str, ...], Distribution] = {}
        if not labels:
            self.of()
        registry.register(self)

    def of(self, *values: str) -> Distribution:
        """The distribution of these label values; keep it, looking it up costs more than observing."""
        distribution = self._distributions.get(values)
        if distribution is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self._name} has the labels {self.label_names}, got {values}")
            distribution = self._distributions[values] = Distribution(self._bounds)
        return distribution

    def describe(self) -> Iterator[Metric]:
        """Name and help without values."""
        yield HistogramMetricFamily(self._name, self._text, labels=self.label_names)

    def collect(self) -> Iterator[Metric]:
        """What a scrape sees."""
        family = HistogramMetricFamily(self._name, self._text, labels=self.label_names)
        for values, distribution in list(self._distributions.items()):
            total = 0
            buckets: list[tuple[str, float]] = []
            for text, count in zip(self._bound_texts, list(distribution.counts), strict=True):
                total += count
                buckets.append((text, float(total)))
            family.add_metric(values, buckets=buckets, sum_value=distribution.sum)
        yield family
