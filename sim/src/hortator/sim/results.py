"""What a virtual run measured, and the figures made of it.

TTFT runs from arrival to the end of the pass that completes the prompt. Chunk utilization is prefill tokens
run / (chunk budget x ranks) over passes with prefill. Balance is mean / max of the ranks' prefill tokens per
pass. Busy is the share of time in passes; the bubble ratio is the share of rank-time inside prefill passes
that ranks spend waiting for the fullest one. In-engine queueing runs from dispatch to the start of the first
pass that runs some of the prompt; the depth of the engines' queues is what that makes in the mean over the
run. ITL is over all gaps between consecutive tokens from the second one on; the first gap, in which KV may
move to another group, stands for itself. Goodput counts requests that keep every limit of an SLO. Where
requests have tenants, TTFT is there for each of them as well.

Of a run with more requests or gaps than are kept as such, percentiles are within PERCENTILE_ERROR of the true
ones, which the figure `percentile_error` then says, and stability is told from bins of time: see `tally`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hortator.scheduler.core.model import GroupSpec
from hortator.sim.distribution import PERCENTILE_ERROR, Distribution
from hortator.sim.queue_bins import MIN_ARRIVALS, keeps_up
from hortator.sim.records import RequestRecord, RequestRows, RequestTable
from hortator.sim.slo import Slo
from hortator.sim.tally import (
    CHUNK_REQUESTS,
    MAX_EXACT_REQUESTS,
    RequestSums,
    Tally,
    TenantTally,
    by_tenant,
    durations,
    unless_nameless,
)
from hortator.sim.workload import tenant_name
from hortator.worker.engines.simulated.group_model import GroupModel

MAX_EXACT_GAPS = 1 << 20
"""Passes that tokens came from, over all groups: 17 MB."""


@dataclass(slots=True, kw_only=True)
class PassTotals:
    """Sums over the passes of all groups."""

    num_passes: int = 0
    prefill_tokens: int = 0
    prefill_capacity: int = 0
    balance_sum: float = 0.0
    num_prefill_passes: int = 0
    busy_s: float = 0.0
    bubble_s: float = 0.0
    prefill_rank_s: float = 0.0


@dataclass(slots=True)
class Recorder:
    """Collects records and pass totals; requests that arrived before `warmup_s` are left out of figures."""

    warmup_s: float = 0.0
    slo: Slo = field(default_factory=Slo)
    keep_records: bool = True
    """False: of requests that have ended only what the figures need."""
    max_rows: int | None = MAX_EXACT_REQUESTS
    """Without records: more ended requests than this become sums; None: never, for `table`."""
    max_gaps: int = MAX_EXACT_GAPS
    """More gaps than this become sums too."""
    records: list[RequestRecord] = field(default_factory=list)
    live: dict[str, RequestRecord] = field(default_factory=dict)
    ended: RequestRows = field(default_factory=RequestRows)
    sums: RequestSums | None = None
    """Of ended requests that are no longer rows."""
    totals: PassTotals = field(default_factory=PassTotals)
    token_gaps: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = field(default_factory=list)
    """Per decoding group: gaps between tokens in seconds, and how often each was seen."""
    gap_sums: Distribution | None = None
    """Of all gaps, where there were more than `max_gaps`; `token_gaps` has none then."""
    ended_at: float = 0.0

    @property
    def num_live(self) -> int:
        """Requests that have arrived and not ended."""
        return len(self.live)

    def arrive(self, record: RequestRecord) -> None:
        """A request arrived."""
        self.live[record.request_id] = record
        if self.keep_records:
            self.records.append(record)

    def reject(self, request_id: str, reason: str) -> None:
        """The scheduler refused it."""
        record = self.live[request_id]
        record.rejected = reason
        self.finish(record)

    def finish(self, record: RequestRecord) -> None:
        """Its last token is out."""
        del self.live[record.request_id]
        if self.keep_records:
            return
        self.ended.add(record)
        if self.max_rows is not None and len(self.ended) > self._num_rows_kept(self.max_rows):
            self._sum_up()

    def table(self) -> RequestTable:
        """All requests that have arrived.

        Raises:
            ValueError: there were more than `max_rows`.
        """
        if self.keep_records:
            return RequestTable.of(self.records)
        self._end_all()
        if self.sums is not None:
            raise ValueError(f"more than {self.max_rows} requests have ended: their rows are gone")
        return RequestTable(*self.ended.columns())

    def tally(self) -> Tally:
        """What the figures need of all requests that have arrived."""
        if self.sums is None:
            return _exact_tally(self.table(), warmup_s=self.warmup_s, slo=self.slo)
        self._end_all()
        self._sum_up()
        return self.sums.tally()

    def _num_rows_kept(self, max_rows: int) -> int:
        return max_rows if self.sums is None else min(max_rows, CHUNK_REQUESTS)

    def _sum_up(self) -> None:
        if self.sums is None:
            self.sums = RequestSums(warmup_s=self.warmup_s, slo=self.slo)
        for rows in self.ended.drain(CHUNK_REQUESTS):
            self.sums.add(rows)

    def _end_all(self) -> None:
        for record in self.live.values():
            self.ended.add(record)
        self.live.clear()

    def start_pass(self, spec: GroupSpec, model: GroupModel, duration_s: float) -> None:
        """A pass began; what it runs is known now."""
        totals = self.totals
        totals.num_passes += 1
        totals.busy_s += duration_s
        tokens = [rank.pass_prefill_tokens for rank in model.ranks]
        total = sum(tokens)
        if total:
            fullest = max(tokens)
            balance = total / len(tokens) / fullest
            totals.num_prefill_passes += 1
            totals.prefill_tokens += total
            totals.prefill_capacity += spec.chunk_budget_tokens * spec.dp_size
            totals.balance_sum += balance
            totals.prefill_rank_s += duration_s * len(tokens)
            totals.bubble_s += duration_s * len(tokens) * (1.0 - balance)

    def end(self, now: float) -> None:
        """The run is over."""
        self.ended_at = now


def summarize(recorder: Recorder, *, num_groups: int) -> dict[str, object]:
    """The JSON object of one policy; see the module docstring for what each figure means."""
    tally = recorder.tally()
    totals = recorder.totals
    span_s = max(1e-9, recorder.ended_at)
    figures: dict[str, object] = {
        "requests": tally.num_requests,
        "completed": tally.num_completed,
        "rejected": tally.num_rejected,
        "ttft_s": tally.percentiles["ttft_s"],
        "first_gap_s": tally.percentiles["first_gap_s"],
        "tpot_s": tally.percentiles["tpot_s"],
        "itl_s": _percentiles_of_gaps(recorder.token_gaps, recorder.gap_sums),
        "e2e_s": tally.percentiles["e2e_s"],
        "hold_s": tally.percentiles["hold_s"],
        "engine_queue_s": tally.percentiles["engine_queue_s"],
        "engine_queue_depth": tally.engine_queue_s / span_s,
        "prefill_tokens_per_s": tally.prefill_tokens / span_s,
        "output_tokens_per_s": tally.output_tokens / span_s,
        "chunk_utilization": _ratio(totals.prefill_tokens, totals.prefill_capacity),
        "balance_ratio": _ratio(totals.balance_sum, totals.num_prefill_passes),
        "bubble_ratio": _ratio(totals.bubble_s, totals.prefill_rank_s),
        "busy": totals.busy_s / (span_s * num_groups),
        "forward_passes": totals.num_passes,
        "virtual_s": recorder.ended_at,
        "stable": tally.is_stable,
    }
    if limits := recorder.slo.limits():
        figures["slo"] = limits
        figures["goodput_rps"] = tally.num_good / max(1e-9, recorder.ended_at - recorder.warmup_s)
        figures["slo_attainment"] = _ratio(tally.num_good, tally.num_requests)
    if tally.tenants:
        figures["tenants"] = {
            tenant_name(number): {
                "requests": found.num_requests,
                "rejected": found.num_rejected,
                "ttft_s": found.ttft_s,
            }
            for number, found in sorted(tally.tenants.items())
        }
    if recorder.sums is not None or recorder.gap_sums is not None:
        figures["percentile_error"] = PERCENTILE_ERROR
    return figures


def _exact_tally(everyone: RequestTable, *, warmup_s: float, slo: Slo) -> Tally:
    counted = everyone.where(everyone.arrived_at >= warmup_s)
    done = counted.where(counted.is_finished)
    has_first_token = ~np.isnan(everyone.first_token_at)
    return Tally(
        num_requests=len(counted.arrived_at),
        num_completed=len(done.arrived_at),
        num_rejected=int(counted.is_rejected.sum()),
        num_good=int(counted.keeps(slo).sum()),
        percentiles={name: percentiles(values_s) for name, values_s in durations(done).items()},
        engine_queue_s=float(np.nansum(everyone.engine_queue_s)),
        prefill_tokens=float(everyone.num_prompt_tokens[has_first_token].sum()),
        output_tokens=float(everyone.num_output_tokens[everyone.is_finished].sum()),
        is_stable=is_stable(everyone),
        tenants=unless_nameless(
            {
                number: TenantTally(
                    num_requests=len(theirs.arrived_at),
                    num_rejected=int(theirs.is_rejected.sum()),
                    ttft_s=percentiles(theirs.ttft_s[~np.isnan(theirs.ttft_s)]),
                )
                for number, theirs in by_tenant(counted)
            }
        ),
    )


def percentiles(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """mean, p50, p90, p99 and max in seconds; zeros when there are none."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        return dict.fromkeys(("mean", "p50", "p90", "p99", "max"), 0.0)
    p50, p90, p99 = (float(v) for v in np.percentile(array, [50, 90, 99]))
    return {"mean": float(array.mean()), "p50": p50, "p90": p90, "p99": p99, "max": float(array.max())}


def _percentiles_of_gaps(
    counted: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]], sums: Distribution | None
) -> dict[str, float]:
    """`percentiles` of values that were seen several times; each percentile is one of the values."""
    if sums is not None:
        return sums.percentiles(is_one_of_them=True)
    gaps = np.concatenate([gaps for gaps, _ in counted] or [np.zeros(0)])
    times = np.concatenate([times for _, times in counted] or [np.zeros(0, np.int64)])
    gaps, times = gaps[times > 0], times[times > 0]
    if not gaps.size:
        return percentiles([])
    p50, p90, p99 = (
        float(v) for v in np.percentile(gaps, [50, 90, 99], weights=times, method="inverted_cdf")
    )
    mean = float(np.average(gaps, weights=times))
    return {"mean": mean, "p50": p50, "p90": p90, "p99": p99, "max": float(gaps.max())}


def is_stable(requests: RequestTable) -> bool:
    """False when the queue of the last fifth of arrivals exceeds twice that of the second fifth.

    The queue is the number of requests that have arrived and have no first token yet, averaged over the
    arrivals of the fifth.
    """
    kept = requests.where(requests.is_rejected == 0)
    num_kept = len(kept.arrived_at)
    if num_kept < MIN_ARRIVALS:
        return True
    firsts = np.sort(np.where(np.isnan(kept.first_token_at), np.inf, kept.first_token_at))
    queue = np.arange(1, num_kept + 1) - np.searchsorted(firsts, kept.arrived_at, side="right")
    fifth = num_kept // 5
    return keeps_up(float(queue[fifth : 2 * fifth].mean()), float(queue[4 * fifth :].mean()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
