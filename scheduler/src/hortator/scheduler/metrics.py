"""Prometheus metrics, derived from what went into the machine and what came out; the core never counts.

- Counters and histograms come from (event, commands), gauges from a snapshot taken about once a second
  (`refresh`), so that a scrape never touches the machine.
- Labels are few: `ep_group`, `dp_rank`, `phase`, `policy`, `outcome`, `reason`, `state`, `event`; never a
  request id, and of the tenants only those that the settings name (the others are names that clients choose).
- TTFT, TPOT, E2E and first gap are what gateways report when a request finishes: all four describe the same
  requests. ITL is seen from the workers: between the ends of two consecutive passes of a group every
  sequence that ran in both waits exactly that long for its next token.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge

from hortator.runtime.metrics import LATENCY_BUCKETS_S, RATIO_BUCKETS
from hortator.scheduler.collectors import Count, Counts, Distributions
from hortator.scheduler.core.commands import Abort, Attach, Command, DeclareLost, Dispatch, Probe, Reject
from hortator.scheduler.core.events import (
    BatchSplit,
    Event,
    ForwardPassEnded,
    PolicyChanged,
    RequestCancelled,
    RequestFinished,
    WorkerJoined,
)
from hortator.scheduler.core.leadership import Leadership
from hortator.scheduler.core.model import GroupSpec, LostReason, Phase, RejectReason
from hortator.scheduler.core.snapshot import GroupSnapshot, SchedulerSnapshot

DECISION_BUCKETS_S = (
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25,
)  # fmt: skip
TOKEN_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.15, 0.2, 0.5, 1.0, 2.0,
)  # fmt: skip
WORKER_STATES = ("unreported", "ready", "running", "suspect", "draining")

_PREFIX = "hortator_scheduler_"


class SchedulerMetrics:
    """Every metric of the scheduler in one registry. Observed from one thread only."""

    def __init__(self, registry: CollectorRegistry, *, policy: str) -> None:
        self._specs: dict[str, GroupSpec] = {}
        self._last_decode: dict[str, tuple[float, int]] = {}
        self._ranks_shown: dict[str, int] = {}

        def counts(name: str, text: str, *labels: str) -> Counts:
            return Counts(registry, _PREFIX + name, text, labels)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(_PREFIX + name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Distributions:
            return Distributions(registry, _PREFIX + name, text, buckets, labels)

        self._waiting = gauge("waiting_requests", "Requests waiting for a placement.", "phase")
        self._waiting_tokens = gauge("waiting_tokens", "Prompt tokens waiting for a prefill placement.")
        self._tenant_requests = gauge(
            "tenant_waiting_requests", "Waiting requests of each tenant that the settings name.", "tenant"
        )
        self._tenant_tokens = gauge(
            "tenant_waiting_tokens", "Waiting prompt tokens of each tenant that the settings name.", "tenant"
        )
        self._oldest_wait = gauge("oldest_wait_seconds", "Age of the oldest waiting request.")
        self._in_flight = gauge("in_flight_requests", "Requests placed and not finished.")
        self._rank_prefill = gauge(
            "rank_prefill_load_tokens", "Prompt tokens admitted and not computed.", "ep_group", "dp_rank"
        )
        self._rank_kv = gauge("rank_kv_blocks_used", "KV blocks in use.", "ep_group", "dp_rank")
        self._rank_batch = gauge("rank_batch_size", "Requests in the engine.", "ep_group", "dp_rank")
        self._workers = gauge("workers", "Workers by state.", "phase", "state")
        self._saturation = gauge(
            "saturation_ratio", "Asked / what the groups can do; only at the leader, and once known.", "phase"
        )
        self._predicted_ttft = gauge(
            "predicted_ttft_seconds",
            "Of a request of mean length that arrives now; only at the leader, and once known.",
            "policy",
        )
        self._gateways = gauge("gateways", "Gateways connected.")
        self._is_leader = gauge("is_leader", "1 while this scheduler leads, 0 while it is a standby.")
        self._epoch = gauge("epoch", "The newest leadership epoch heard of.")
        self._witnesses = gauge(
            "witnesses", "Workers and gateways that say whether they have a leader.", "led"
        )
        leader_changes = counts("leader_changes", "Times that this scheduler took or lost the lead.", "to")
        self._takeovers, self._stepped_down = leader_changes.of("leader"), leader_changes.of("standby")
        self._takeover = histogram(
            "takeover_seconds",
            "From when most witnesses were without a leader to this scheduler's lead.",
            LATENCY_BUCKETS_S,
        ).of()

        hold = histogram("hold_seconds", "Arrival to placement.", LATENCY_BUCKETS_S, "phase")
        passes = histogram("forward_pass_seconds", "Forward pass time.", LATENCY_BUCKETS_S, "phase")
        utilization = histogram(
            "chunk_utilization_ratio", "Prefill tokens run / chunk budget, per pass.", RATIO_BUCKETS, "phase"
        )
        balance = histogram(
            "balance_ratio", "Mean / maximum of the ranks' tokens, per pass.", RATIO_BUCKETS, "phase"
        )
        batches = counts("batches", "Batches dispatched.", "phase")
        self._hold = {phase: hold.of(phase.value) for phase in Phase}
        self._pass = {phase: passes.of(phase.value) for phase in Phase}
        self._utilization = {phase: utilization.of(phase.value) for phase in Phase}
        self._balance = {phase: balance.of(phase.value) for phase in Phase}
        self._batches = {phase: batches.of(phase.value) for phase in Phase}

        self._decision = histogram("decision_seconds", "Core time per event.", DECISION_BUCKETS_S).of()
        self._ttft = histogram("ttft_seconds", "Time to first token, at the gateway.", LATENCY_BUCKETS_S).of()
        self._tpot = histogram("tpot_seconds", "(E2E - TTFT) / (output tokens - 1).", TOKEN_BUCKETS_S).of()
        self._e2e = histogram("e2e_seconds", "Arrival to last token, at the gateway.", LATENCY_BUCKETS_S).of()
        self._first_gap = histogram("first_gap_seconds", "First to second token.", TOKEN_BUCKETS_S).of()
        self._itl = histogram("itl_seconds", "Gap between tokens, per token.", TOKEN_BUCKETS_S).of()

        self._events = counts("events", "Events handled by the core.", "event")
        self._event_counts: dict[type[object], Count] = {}
        self._placements = counts("placements", "Placements decided.", "policy", "phase")
        self._placement_counts = self._placements_of(policy)
        self._rejections = counts("rejections", "Requests refused.", "reason")
        for reason in RejectReason:
            self._rejections.of(reason.value)
        self._aborts = counts("aborts", "Placements taken back.", "reason")
        self._attached = counts("attached", "Requests that attached to what ran under their key.", "phase")
        self._splits = counts("split_batches", "Batches that lost members at the worker's gate.", "ep_group")
        self._split_members = counts("split_members", "Members that missed their batch.", "ep_group")
        self._probes = counts("probes", "Silent workers asked for their state.", "ep_group")
        self._lost = counts("workers_lost", "Workers given up by the watchdog.", "ep_group", "reason")
        requests = counts("requests", "Requests that ended at the gateway.", "outcome")
        self._finished, self._failed, self._cancelled = (
            requests.of(outcome) for outcome in ("finished", "failed", "cancelled")
        )
        self._dropped = counts("messages_dropped", "Messages not understood or out of date.", "reason")
        self._core_errors = counts("core_errors", "Events the core failed on (a bug).", "event")

    def observe(self, now: float, event: Event, commands: Sequence[Command], decision_s: float) -> None:
        """Count one event and what came of it. O(ranks) for the end of a pass, else O(1) per placement."""
        kind = type(event)
        count = self._event_counts.get(kind)
        if count is None:
            count = self._event_counts[kind] = self._events.of(kind.__name__)
        count.value += 1
        self._decision.observe(decision_s)
        match event:
            case ForwardPassEnded():
                self._observe_pass(now, event)
            case RequestFinished():
                self._observe_finished(event)
            case RequestCancelled():
                self._cancelled.add()
            case BatchSplit():
                self._splits.of(event.group_id).add()
                self._split_members.of(event.group_id).add(len(event.request_ids))
            case WorkerJoined():
                self._specs[event.group.group_id] = event.group
                for counts in (self._splits, self._split_members, self._probes):
                    counts.of(event.group.group_id)  # 0 is a value, a missing series is none
                for reason in LostReason:
                    self._lost.of(event.group.group_id, reason.value)
            case PolicyChanged():
                self._placement_counts = self._placements_of(event.policy)
                self._predicted_ttft.clear()
            case _:
                pass
        for command in commands:
            self._observe_command(command)

    def observe_dropped(self, reason: str) -> None:
        """Count a message that never became an event."""
        self._dropped.of(reason).add()

    def observe_core_error(self, event: Event) -> None:
        """Count an event on which the core raised."""
        self._core_errors.of(type(event).__name__).add()

    def observe_lead(self, *, unled_s: float) -> None:
        """Count a takeover, `unled_s` after most witnesses had lost their leader."""
        self._takeovers.add()
        self._takeover.observe(unled_s)

    def observe_step_down(self) -> None:
        """Count a lost or resigned lead."""
        self._stepped_down.add()

    def refresh_leadership(self, leadership: Leadership) -> None:
        """Set the gauges of who leads."""
        self._is_leader.set(leadership.is_leader)
        self._epoch.set(leadership.newest_epoch)
        self._witnesses.labels("yes").set(leadership.num_witnesses - leadership.num_unled)
        self._witnesses.labels("no").set(leadership.num_unled)

    def refresh(self, snapshot: SchedulerSnapshot, *, num_gateways: int) -> None:
        """Set the gauges."""
        self._waiting.labels("prefill").set(snapshot.num_waiting)
        self._waiting.labels("decode").set(snapshot.num_waiting_decode)
        self._waiting_tokens.set(snapshot.waiting_tokens)
        for tenant, (num_requests, num_tokens) in snapshot.waiting_by_tenant.items():
            self._tenant_requests.labels(tenant).set(num_requests)
            self._tenant_tokens.labels(tenant).set(num_tokens)
        self._oldest_wait.set(snapshot.oldest_wait_s)
        self._in_flight.set(snapshot.num_in_flight)
        self._gateways.set(num_gateways)
        for phase in Phase:
            of_phase = [group.state for group in snapshot.groups if group.spec.phase is phase]
            for state in WORKER_STATES:
                self._workers.labels(phase.value, state).set(of_phase.count(state))
        self._refresh_saturation(snapshot)
        for group in snapshot.groups:
            self._refresh_ranks(group)
        for gone in self._ranks_shown.keys() - {group.spec.group_id for group in snapshot.groups}:
            self._forget_ranks(gone, 0, self._ranks_shown.pop(gone))
            self._specs.pop(gone, None)
            self._last_decode.pop(gone, None)

    def _placements_of(self, policy: str) -> dict[Phase, Count]:
        return {phase: self._placements.of(policy, phase.value) for phase in Phase}

    def _observe_command(self, command: Command) -> None:
        match command:
            case Dispatch(batch=batch):
                placements = batch.placements
                self._placement_counts[batch.phase].value += len(placements)
                self._batches[batch.phase].value += 1
                hold = self._hold[batch.phase]
                for placement in placements:
                    hold.observe(placement.hold_s)
            case Reject():
                self._rejections.of(command.reason.value).add()
            case Attach():
                self._attached.of(command.phase.value).add()
            case Abort():
                self._aborts.of(command.reason.value).add()
            case Probe():
                self._probes.of(command.group_id).add()
            case DeclareLost():
                self._lost.of(command.group_id, command.reason.value).add()

    def _observe_pass(self, now: float, event: ForwardPassEnded) -> None:
        spec = self._specs.get(event.group_id)
        if spec is None:
            return
        phase = spec.phase
        self._pass[phase].observe(event.duration_s)
        prefill = sum(event.pass_prefill_tokens)
        decode = sum(event.pass_decode_tokens)
        if phase is not Phase.DECODE:
            self._utilization[phase].observe(prefill / (spec.dp_size * spec.chunk_budget_tokens))
        if prefill or decode:
            if not decode:
                fullest = max(event.pass_prefill_tokens)
            elif not prefill:
                fullest = max(event.pass_decode_tokens)
            else:
                fullest = max(map(int.__add__, event.pass_prefill_tokens, event.pass_decode_tokens))
            self._balance[phase].observe((prefill + decode) / spec.dp_size / fullest)
        last_at, last_decode = self._last_decode.get(event.group_id, (now, 0))
        if last_decode and decode:
            self._itl.observe(now - last_at, min(last_decode, decode))
        self._last_decode[event.group_id] = (now, decode)

    def _observe_finished(self, event: RequestFinished) -> None:
        if event.num_output_tokens == 0:
            self._failed.add()
            return
        self._finished.add()
        self._ttft.observe(event.ttft_s)
        self._e2e.observe(event.e2e_s)
        if event.num_output_tokens > 1:
            self._tpot.observe(max(event.e2e_s - event.ttft_s, 0.0) / (event.num_output_tokens - 1))
            self._first_gap.observe(event.first_gap_s)

    def _refresh_saturation(self, snapshot: SchedulerSnapshot) -> None:
        """An unknown figure has no series: a scaler must not take it for an idle cluster."""
        for phase in Phase:
            share = snapshot.saturation.get(phase)
            if share is None:
                self._saturation.remove(phase.value)
            else:
                self._saturation.labels(phase.value).set(share)
        if snapshot.predicted_ttft_s is None:
            self._predicted_ttft.clear()
        else:
            self._predicted_ttft.labels(snapshot.policy).set(snapshot.predicted_ttft_s)

    def _refresh_ranks(self, group: GroupSnapshot) -> None:
        group_id = group.spec.group_id
        loads = group.loads
        for rank, (prefill, blocks, batch) in enumerate(
            zip(loads.prefill_load_tokens, loads.kv_blocks_used, loads.batch_size, strict=True)
        ):
            dp_rank = str(rank)
            self._rank_prefill.labels(group_id, dp_rank).set(prefill)
            self._rank_kv.labels(group_id, dp_rank).set(blocks)
            self._rank_batch.labels(group_id, dp_rank).set(batch)
        num_ranks = len(loads.prefill_load_tokens)
        self._forget_ranks(group_id, num_ranks, self._ranks_shown.get(group_id, 0))
        self._ranks_shown[group_id] = num_ranks

    def _forget_ranks(self, group_id: str, first: int, end: int) -> None:
        for rank in range(first, end):
            for gauge in (self._rank_prefill, self._rank_kv, self._rank_batch):
                gauge.remove(group_id, str(rank))
