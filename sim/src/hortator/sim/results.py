"""What a virtual run measured: one record per request, and the figures made of them.

TTFT runs from arrival to the end of the pass that completes the prompt. Chunk utilization is prefill tokens
run / (chunk budget x ranks) over passes with prefill. Balance is mean / max of the ranks' prefill tokens per
pass. Busy is the share of time in passes; the bubble ratio is the share of rank-time inside prefill passes
that ranks spend waiting for the fullest one. In-engine queueing runs from dispatch to the first pass start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hortator.scheduler.core.model import GroupSpec
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
    first_token_at: float = float("nan")
    second_token_at: float = float("nan")
    finished_at: float = float("nan")
    prefill_group: str = ""
    first_decode_pass: int = 1 << 60
    rejected: str = ""


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
    records: list[RequestRecord] = field(default_factory=list)
    live: dict[str, RequestRecord] = field(default_factory=dict)
    totals: PassTotals = field(default_factory=PassTotals)
    num_groups: int = 0
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
    done = [r for r in counted if r.finished_at == r.finished_at]
    ttft = [r.first_token_at - r.arrived_at for r in done]
    decoded = [r for r in done if r.num_output_tokens > 1 and r.second_token_at == r.second_token_at]
    totals = recorder.totals
    span_s = max(1e-9, recorder.ended_at)
    prompt_tokens = sum(r.num_prompt_tokens for r in recorder.records if r.first_token_at == r.first_token_at)
    output_tokens = sum(r.num_output_tokens for r in done)
    return {
        "requests": len(counted),
        "completed": len(done),
        "rejected": sum(1 for r in counted if r.rejected),
        "ttft_s": percentiles(ttft),
        "first_gap_s": percentiles([r.second_token_at - r.first_token_at for r in decoded]),
        "tpot_s": percentiles(
            [(r.finished_at - r.first_token_at) / (r.num_output_tokens - 1) for r in decoded]
        ),
        "e2e_s": percentiles([r.finished_at - r.arrived_at for r in done]),
        "hold_s": percentiles([r.dispatched_at - r.arrived_at for r in done]),
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


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """mean, p50, p90, p99 and max in seconds; zeros when there are none."""
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "p99", "max"), 0.0)
    array = np.asarray(values)
    p50, p90, p99 = (float(v) for v in np.percentile(array, [50, 90, 99]))
    return {"mean": float(array.mean()), "p50": p50, "p90": p90, "p99": p99, "max": float(array.max())}


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
