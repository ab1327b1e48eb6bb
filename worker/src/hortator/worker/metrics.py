"""Prometheus metrics of a worker (`hortator_worker_*`). Per-rank loads are read at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hortator.runtime.metrics import LATENCY_BUCKETS_S
from hortator.worker.engine import ForwardPassEnded, RankLoad
from hortator.worker.report import WorkerIdentity

_GATE_BUCKETS_S = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


class WorkerMetrics:
    """All metrics of one worker, on a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.startup = Gauge(
            "hortator_worker_startup_seconds",
            "From the start of the process to members_joined, engine_started and reported.",
            ["phase"],
            registry=registry,
        )
        self.group_members = Gauge(
            "hortator_worker_group_members",
            "Members of the group that are connected, this one included (ordinal 0 counts them).",
            registry=registry,
        )
        self.forward_pass = Histogram(
            "hortator_worker_forward_pass_seconds",
            "Duration of forward passes.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        tokens = Counter(
            "hortator_worker_tokens", "Tokens run in forward passes.", ["kind"], registry=registry
        )
        self._prefill_tokens = tokens.labels("prefill")
        self._decode_tokens = tokens.labels("decode")
        self.batch_splits = Counter(
            "hortator_worker_batch_splits",
            "Batches admitted without members that came too late.",
            registry=registry,
        )
        self.gate_wait = Histogram(
            "hortator_worker_gate_wait_seconds",
            "From a batch's first member to its admission.",
            buckets=_GATE_BUCKETS_S,
            registry=registry,
        )
        self.kv_transfer = Histogram(
            "hortator_worker_kv_transfer_seconds",
            "Pulling the KV of one request from its prefill worker.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.kv_transfer_bytes = Counter(
            "hortator_worker_kv_transfer_bytes", "KV pulled from prefill workers.", registry=registry
        )
        self.kv_leases = Gauge(
            "hortator_worker_kv_leases", "Prefilled requests whose KV waits under a lease.", registry=registry
        )
        self.running = Gauge(
            "hortator_worker_running_requests", "Requests accepted and not ended.", registry=registry
        )
        self.ended = Counter(
            "hortator_worker_ended_requests", "Requests that ended here.", ["reason"], registry=registry
        )
        self.orphans = Gauge(
            "hortator_worker_orphans",
            "Requests with an idempotency key that are kept without a gateway.",
            registry=registry,
        )
        self.attached = Counter(
            "hortator_worker_attached_requests",
            "Requests with which another gateway went on.",
            registry=registry,
        )
        self.refused = Counter(
            "hortator_worker_refused_requests", "Requests that were never admitted.", registry=registry
        )

    def watch(
        self, identity: WorkerIdentity, model: str, rank_loads: Callable[[], Iterable[RankLoad]]
    ) -> None:
        """Publish who this is, and the loads of its ranks at every scrape."""
        info = Info("hortator_worker_boot", "This boot of the worker.", registry=self._registry)
        info.info(
            {
                "worker_id": identity.worker_id,
                "boot_id": identity.boot_id,
                "phase": identity.phase,
                "model": model,
            }
        )
        self._registry.register(_RankCollector(rank_loads))

    def pass_ended(self, ended: ForwardPassEnded) -> None:
        """Count one forward pass."""
        self.forward_pass.observe(ended.duration_s)
        self._prefill_tokens.inc(sum(rank.pass_prefill_tokens for rank in ended.ranks))
        self._decode_tokens.inc(sum(rank.pass_decode_tokens for rank in ended.ranks))


class _RankCollector(Collector):
    def __init__(self, rank_loads: Callable[[], Iterable[RankLoad]]) -> None:
        self._rank_loads = rank_loads

    def collect(self) -> Iterator[Metric]:
        load = GaugeMetricFamily(
            "hortator_worker_prefill_load_tokens",
            "Prompt tokens admitted to a rank and not yet computed.",
            labels=["dp_rank"],
        )
        used = GaugeMetricFamily(
            "hortator_worker_kv_blocks_used", "KV blocks no new request can take.", labels=["dp_rank"]
        )
        batch = GaugeMetricFamily(
            "hortator_worker_batch_size", "Running requests of a rank.", labels=["dp_rank"]
        )
        for rank in self._rank_loads():
            label = [str(rank.dp_rank)]
            load.add_metric(label, rank.prefill_load_tokens)
            used.add_metric(label, rank.kv_blocks_used)
            batch.add_metric(label, rank.batch_size)
        yield from (load, used, batch)
