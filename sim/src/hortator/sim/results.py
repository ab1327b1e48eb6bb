"""What a virtual run measured: one record per request, and the figures made of them.

TTFT runs from arrival to the end of the pass that completes the prompt. Chunk utilization is prefill tokens
run / (chunk budget x ranks) over passes with prefill. Balance is mean / max of the ranks' prefill tokens per
pass. Busy is the share of time in passes; the bubble ratio is the share of rank-time inside prefill passes
that ranks spend waiting for the fullest one. In-engine queueing runs from dispatch to the start of the first
pass that runs some of the prompt; the depth of the engines' queues is what that makes in the mean over the
run. ITL is over all gaps between consecutive tokens from the second one on; the first gap, in which KV may
move to another group, stands for itself. Goodput counts requests that keep every limit of an SLO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan

import numpy as np
from numpy.typing import NDArray

from hortator.scheduler.core.model import GroupSpec
from hortator.sim.slo import ITL_SHARE, Slo
from hortator.worker.engines.simulated.group_model import GroupModel


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request's life; times in virtual seconds, NaN where it never got there."""

    request_id: str
    arrived_at: float
    num_prompt_tokens: int
    num_output_tokens: int
    block_hashes: tuple[int, ...] = ()
    dispatched_at: float = float("nan")
    started_at: float = float("nan")
    first_token_at: float = float("nan")
    second_token_at: float = float("nan")
    finished_at: float = float("nan")
    prefill_group: str = ""
    dp_rank: int | None = None
    """Of the prefill group."""
    first_decode_pass: int = 1 << 60
    num_late_gaps: int = 0
    """Gaps from the second token on that were longer than the SLO's `itl`."""
    rejected: str = ""

    @property
    def hold_s(self) -> float:
        """Arrival to dispatch."""
        return self.dispatched_at - self.arrived_at

    @property
    def engine_queue_s(self) -> float:
        """Dispatch to the start of the first pass that runs it."""
        return self.started_at - self.dispatched_at

    @property
    def ttft_s(self) -> float:
        """Arrival to the first token."""
        return self.first_token_at - self.arrived_at

    @property
    def first_gap_s(self) -> float:
        """First to second token."""
        return self.second_token_at - self.first_token_at

    @property
    def tpot_s(self) -> float:
        """(E2E - TTFT) / (output tokens - 1); NaN with one token."""
        if isnan(self.second_token_at):
            return float("nan")
        return (self.finished_at - self.first_token_at) / (self.num_output_tokens - 1)

    @property
    def e2e_s(self) -> float:
        """Arrival to the last token."""
        return self.finished_at - self.arrived_at

    def keeps(self, slo: Slo) -> bool:
        """Whether it ended within every limit; one without a second token has no gap to be late."""
        if isnan(self.finished_at) or self.ttft_s > slo.ttft or self.e2e_s > slo.e2e:
            return False
        if isnan(self.second_token_at):
            return True
        num_late = self.num_late_gaps + (self.first_gap_s > slo.itl)
        return self.tpot_s <= slo.tpot and num_late <= (1.0 - ITL_SHARE) * (self.num_output_tokens - 1)


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
    records: list[RequestRecord] = field(default_factory=list)
    live: dict[str, RequestRecord] = field(default_factory=dict)
    totals: PassTotals = field(default_factory=PassTotals)
    token_gaps: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = field(default_factory=list)
    """Per decoding group: gaps between tokens in seconds, and how often each was seen."""
    ended_at: float = 0.0

    @property
    def num_live(self) -> int:
        """Requests that have arrived and not ended."""
        return len(self.live)

    def arrive(self, record: RequestRecord) -> None:
        """A request arrived."""
        self.live[record.request_id] = record
        self.records.append(record)

    def reject(self, request_id: str, reason: str) -> None:
        """The scheduler refused it."""
        self.live.pop(request_id).rejected = reason

    def finish(self, record: RequestRecord) -> None:
        """Its last token is out."""
        del self.live[record.request_id]

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
    counted = [r for r in recorder.records if r.arrived_at >= recorder.warmup_s]
    done = [r for r in counted if not isnan(r.finished_at)]
    decoded = [r for r in done if not isnan(r.second_token_at)]
    totals = recorder.totals
    span_s = max(1e-9, recorder.ended_at)
    prompt_tokens = sum(r.num_prompt_tokens for r in recorder.records if not isnan(r.first_token_at))
    output_tokens = sum(r.num_output_tokens for r in done)
    figures: dict[str, object] = {
        "requests": len(counted),
        "completed": len(done),
        "rejected": sum(1 for r in counted if r.rejected),
        "ttft_s": percentiles([r.ttft_s for r in done]),
        "first_gap_s": percentiles([r.first_gap_s for r in decoded]),
        "tpot_s": percentiles([r.tpot_s for r in decoded]),
        "itl_s": _percentiles_of_gaps(recorder.token_gaps),
        "e2e_s": percentiles([r.e2e_s for r in done]),
        "hold_s": percentiles([r.hold_s for r in done]),
        "engine_queue_s": percentiles([r.engine_queue_s for r in done]),
        "engine_queue_depth": sum(r.engine_queue_s for r in recorder.records if not isnan(r.started_at))
        / span_s,
        "prefill_tokens_per_s": prompt_tokens / span_s,
        "output_tokens_per_s": output_tokens / span_s,
        "chunk_utilization": _ratio(totals.prefill_tokens, totals.prefill_capacity),
        "balance_ratio": _ratio(totals.balance_sum, totals.num_prefill_passes),
        "bubble_ratio": _ratio(totals.bubble_s, totals.prefill_rank_s),
        "busy": totals.busy_s / (span_s * num_groups),
        "forward_passes": totals.num_passes,
        "virtual_s": recorder.ended_at,
        "stable": is_stable(recorder.records),
    }
    if limits := recorder.slo.limits():
        num_good = sum(r.keeps(recorder.slo) for r in counted)
        figures["slo"] = limits
        figures["goodput_rps"] = num_good / max(1e-9, recorder.ended_at - recorder.warmup_s)
        figures["slo_attainment"] = _ratio(num_good, len(counted))
    return figures


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """mean, p50, p90, p99 and max in seconds; zeros when there are none."""
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "p99", "max"), 0.0)
    array = np.asarray(values)
    p50, p90, p99 = (float(v) for v in np.percentile(array, [50, 90, 99]))
    return {"mean": float(array.mean()), "p50": p50, "p90": p90, "p99": p99, "max": float(array.max())}


def _percentiles_of_gaps(
    counted: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]],
) -> dict[str, float]:
    """`percentiles` of values that were seen several times; each percentile is one of the values."""
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


def is_stable(records: Sequence[RequestRecord]) -> bool:
    """False when the queue of the last fifth of arrivals exceeds twice that of the second fifth.

    The queue is the number of requests that have arrived and have no first token yet, averaged over the
    arrivals of the fifth.
    """
    kept = [r for r in records if not r.rejected]
    if len(kept) < 50:
        return True
    arrivals = np.asarray([r.arrived_at for r in kept])
    firsts = np.sort(np.asarray([np.inf if np.isnan(r.first_token_at) else r.first_token_at for r in kept]))
    queue = np.arange(1, len(kept) + 1) - np.searchsorted(firsts, arrivals, side="right")
    fifth = len(kept) // 5
    second = float(queue[fifth : 2 * fifth].mean())
    last = float(queue[4 * fifth :].mean())
    return last <= 2.0 * max(second, 1.0)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
