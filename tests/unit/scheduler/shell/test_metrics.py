from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from hortator.runtime.metrics import new_registry
from hortator.scheduler.collectors import Counts, Distributions
from hortator.scheduler.core import events
from hortator.scheduler.core.commands import Abort, DeclareLost, Dispatch, Probe, Reject
from hortator.scheduler.core.model import (
    AbortReason,
    Batch,
    GroupSpec,
    Phase,
    Placement,
    RankLoads,
    RejectReason,
)
from hortator.scheduler.core.snapshot import GroupSnapshot, SchedulerSnapshot
from hortator.scheduler.metrics import SchedulerMetrics

PREFIX = "hortator_scheduler_"
IDLE = RankLoads(prefill_load_tokens=(0, 0), batch_size=(0, 0), kv_blocks_used=(0, 0))


class Bench:
    def __init__(self):
        self.registry = new_registry(with_process=False)
        self.metrics = SchedulerMetrics(self.registry, policy="staggered")

    def observe(self, event, *commands, now=0.0):
        self.metrics.observe(now, event, commands, 0.000_02)

    def value(self, name, **labels):
        return self.registry.get_sample_value(PREFIX + name, labels)


@pytest.fixture
def bench():
    return Bench()


def a_group(phase=Phase.AGGREGATED):
    return GroupSpec(group_id="w", phase=phase, dp_size=2, chunk_budget_tokens=100, kv_blocks_total=10)


def a_pass(prefill=(), decode=(), duration_s=0.1):
    return events.ForwardPassEnded(
        group_id="w",
        forward_pass_id=1,
        duration_s=duration_s,
        included_dispatch_seq=0,
        loads=IDLE,
        pass_prefill_tokens=prefill,
        pass_decode_tokens=decode,
    )


def a_dispatch(*holds, phase=Phase.PREFILL):
    members = tuple(
        Placement(
            request_id=f"r{n}", attempt=0, gateway_id="gw", dp_rank=0, num_prefill_tokens=1, hold_s=hold
        )
        for n, hold in enumerate(holds)
    )
    return Dispatch(
        batch=Batch(
            batch_id="b", group_id="w", phase=phase, dispatch_seq=1, predicted_pass_s=0.1, placements=members
        )
    )


def test_placements_are_counted_by_the_policy_in_force_with_their_holds(bench):
    bench.observe(events.TimerFired(), a_dispatch(0.003, 0.004))
    bench.observe(events.PolicyChanged(policy="fixed-batch"), a_dispatch(0.3))
    assert bench.value("placements_total", policy="staggered", phase="prefill") == 2
    assert bench.value("placements_total", policy="fixed-batch", phase="prefill") == 1
    assert bench.value("batches_total", phase="prefill") == 2
    assert bench.value("hold_seconds_count", phase="prefill") == 3
    assert bench.value("hold_seconds_sum", phase="prefill") == pytest.approx(0.307)
    assert bench.value("hold_seconds_bucket", phase="prefill", le="0.005") == 2


def test_refusals_aborts_probes_and_losses_are_counted_by_reason(bench):
    bench.observe(
        events.TimerFired(),
        Reject(request_id="r", attempt=0, gateway_id="gw", reason=RejectReason.DEADLINE),
        Abort(request_id="r", attempt=0, gateway_id="gw", group_id="w", reason=AbortReason.WORKER_LOST),
        Probe(group_id="w"),
        DeclareLost(group_id="w", boot_id="b"),
    )
    assert bench.value("rejections_total", reason="deadline") == 1
    assert bench.value("aborts_total", reason="worker_lost") == 1
    assert bench.value("probes_total", ep_group="w") == 1
    assert bench.value("workers_lost_total", ep_group="w", reason="silent") == 1


def test_a_pass_shows_its_time_its_chunk_utilization_and_its_balance(bench):
    bench.observe(events.WorkerJoined(group=a_group()))
    bench.observe(a_pass(prefill=(80, 20), decode=(0, 20), duration_s=0.25))
    assert bench.value("forward_pass_seconds_sum", phase="aggregated") == 0.25
    # 100 prefill tokens of 2 ranks x 100
    assert bench.value("chunk_utilization_ratio_sum", phase="aggregated") == 0.5
    # mean of (80, 40) over its maximum
    assert bench.value("balance_ratio_sum", phase="aggregated") == pytest.approx(60 / 80)


def test_an_empty_pass_has_no_balance_and_a_decode_group_no_chunk_utilization(bench):
    bench.observe(events.WorkerJoined(group=a_group(Phase.DECODE)))
    bench.observe(a_pass())
    bench.observe(a_pass(decode=(3, 1)))
    assert bench.value("balance_ratio_count", phase="decode") == 1
    assert bench.value("balance_ratio_sum", phase="decode") == pytest.approx(2 / 3)
    assert bench.value("chunk_utilization_ratio_count", phase="decode") == 0


def test_a_pass_of_an_unknown_group_is_not_observed(bench):
    bench.observe(a_pass(prefill=(1, 2)))
    assert bench.value("forward_pass_seconds_count", phase="aggregated") == 0


def test_itl_counts_every_sequence_that_ran_in_two_passes_running(bench):
    bench.observe(events.WorkerJoined(group=a_group()))
    bench.observe(a_pass(decode=(4, 4)), now=1.0)
    bench.observe(a_pass(decode=(4, 2)), now=1.03)  # 6 of the 8 are still there: 30 ms each
    bench.observe(a_pass(prefill=(50, 0)), now=1.5)  # no decode: the gap that follows is no token's
    bench.observe(a_pass(decode=(1, 0)), now=9.0)
    bench.observe(a_pass(decode=(1, 5)), now=9.01)  # 1 token after 10 ms
    assert bench.value("itl_seconds_count") == 7
    assert bench.value("itl_seconds_sum") == pytest.approx(6 * 0.03 + 0.01)


def test_a_finished_request_gives_ttft_tpot_e2e_and_first_gap(bench):
    bench.observe(
        events.RequestFinished(request_id="r", num_output_tokens=5, ttft_s=0.5, e2e_s=0.9, first_gap_s=0.2)
    )
    assert bench.value("requests_total", outcome="finished") == 1
    assert bench.value("ttft_seconds_sum") == 0.5
    assert bench.value("e2e_seconds_sum") == 0.9
    assert bench.value("tpot_seconds_sum") == pytest.approx(0.1)  # 0.4 s over 4 gaps
    assert bench.value("first_gap_seconds_sum") == 0.2


def test_a_request_of_one_token_has_no_tpot_and_one_of_none_has_failed(bench):
    bench.observe(events.RequestFinished(request_id="r", num_output_tokens=1, ttft_s=0.5, e2e_s=0.5))
    bench.observe(events.RequestFinished(request_id="s", num_output_tokens=0))
    bench.observe(events.RequestCancelled(request_id="t"))
    assert bench.value("tpot_seconds_count") == 0
    assert bench.value("ttft_seconds_count") == 1
    assert bench.value("requests_total", outcome="failed") == 1
    assert bench.value("requests_total", outcome="cancelled") == 1


def test_events_split_batches_and_dropped_messages_are_counted(bench):
    bench.observe(events.BatchSplit(group_id="w", batch_id="b", request_ids=("x", "y")))
    bench.metrics.observe_dropped("stale_sequence")
    bench.metrics.observe_core_error(events.TimerFired())
    assert bench.value("events_total", event="BatchSplit") == 1
    assert bench.value("decision_seconds_count") == 1
    assert bench.value("split_batches_total", ep_group="w") == 1
    assert bench.value("split_members_total", ep_group="w") == 2
    assert bench.value("messages_dropped_total", reason="stale_sequence") == 1
    assert bench.value("core_errors_total", event="TimerFired") == 1


def a_snapshot(*groups):
    return SchedulerSnapshot(
        epoch=1,
        policy="staggered",
        num_waiting=3,
        waiting_tokens=300,
        num_waiting_decode=2,
        oldest_wait_s=1.5,
        num_in_flight=4,
        waiting_by_tenant={"acme": (2, 250)},
        groups=groups,
    )


def test_the_gauges_show_the_last_snapshot_and_forget_ranks_that_are_gone(bench):
    loads = RankLoads(prefill_load_tokens=(7, 8), batch_size=(1, 2), kv_blocks_used=(3, 4))
    group = GroupSnapshot(
        spec=a_group(),
        state="running",
        forward_pass_id=1,
        last_report_age_s=0.1,
        predicted_pass_s=0.1,
        loads=loads,
        num_in_flight=4,
    )
    bench.metrics.refresh(a_snapshot(group), num_gateways=2)
    assert bench.value("waiting_requests", phase="prefill") == 3
    assert bench.value("waiting_requests", phase="decode") == 2
    assert bench.value("waiting_tokens") == 300
    assert bench.value("tenant_waiting_requests", tenant="acme") == 2
    assert bench.value("tenant_waiting_tokens", tenant="acme") == 250
    assert bench.value("oldest_wait_seconds") == 1.5
    assert bench.value("gateways") == 2
    assert bench.value("workers", phase="aggregated", state="running") == 1
    assert bench.value("rank_prefill_load_tokens", ep_group="w", dp_rank="1") == 8
    assert bench.value("rank_kv_blocks_used", ep_group="w", dp_rank="0") == 3
    bench.metrics.refresh(a_snapshot(), num_gateways=0)
    assert bench.value("workers", phase="aggregated", state="running") == 0
    assert bench.value("rank_prefill_load_tokens", ep_group="w", dp_rank="1") is None


def test_what_is_not_known_has_no_series(bench):
    """An autoscaler that reads 0 would take the service for idle."""
    known = replace(a_snapshot(), saturation={Phase.PREFILL: 0.75}, predicted_ttft_s=0.5)
    bench.metrics.refresh(known, num_gateways=0)
    assert bench.value("saturation_ratio", phase="prefill") == 0.75
    assert bench.value("saturation_ratio", phase="decode") is None
    assert bench.value("predicted_ttft_seconds", policy="staggered") == 0.5
    bench.observe(events.PolicyChanged(policy="staggered-plus"))
    assert bench.value("predicted_ttft_seconds", policy="staggered") is None
    bench.metrics.refresh(a_snapshot(), num_gateways=0)
    assert bench.value("saturation_ratio", phase="prefill") is None
    assert bench.value("predicted_ttft_seconds", policy="staggered") is None


def test_the_whole_exposition_can_be_scraped(bench):
    bench.observe(events.WorkerJoined(group=a_group()))
    bench.observe(a_pass(prefill=(80, 20)))
    text = generate_latest(bench.registry).decode()
    assert 'hortator_scheduler_events_total{event="ForwardPassEnded"} 1.0' in text
    assert 'hortator_scheduler_forward_pass_seconds_bucket{le="+Inf",phase="aggregated"} 1.0' in text


def test_bounds_of_buckets_are_inclusive_and_weights_count():
    registry = new_registry(with_process=False)
    family = Distributions(registry, "d", "text", (1.0, 2.0), ("l",))
    family.of("a").observe(1.0, 3)
    family.of("a").observe(2.5)
    assert registry.get_sample_value("d_bucket", {"l": "a", "le": "1.0"}) == 3
    assert registry.get_sample_value("d_bucket", {"l": "a", "le": "2.0"}) == 3
    assert registry.get_sample_value("d_bucket", {"l": "a", "le": "+Inf"}) == 4
    assert registry.get_sample_value("d_count", {"l": "a"}) == 4
    assert registry.get_sample_value("d_sum", {"l": "a"}) == 5.5


def test_label_values_must_fit_the_labels():
    counts = Counts(new_registry(with_process=False), "c", "text", ("one",))
    with pytest.raises(ValueError, match="has the labels"):
        counts.of("a", "b")
