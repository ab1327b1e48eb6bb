"""Run one policy with a timeline attached, and keep what the figures need of it."""

from __future__ import annotations

import numpy as np

from hortator.scheduler.core.model import Phase
from hortator.sim.records import Floats, RequestTable
from hortator.sim.report.data import QUANTILES, TTFT_EDGES, PolicyRun, Waits
from hortator.sim.simulate import Study, plan_groups, simulate
from hortator.sim.timeline import NUM_BINS, Timeline, middle_window

SLOWEST_PERCENT = 99.0


def watch(study: Study, policy: str, *, window_s: float) -> PolicyRun:
    """Simulate the policy and watch it; passes are kept for `window_s` in the middle of the run."""
    run_s = study.workload.wall_s
    entry = [
        plan.spec
        for plan in plan_groups(study.service, seed=study.seed, prefill_only=study.prefill_only)
        if plan.spec.phase is not Phase.DECODE
    ]
    groups = {spec.group_id: spec.dp_size for spec in entry}
    window = middle_window(run_s, window_s)
    timeline = Timeline(groups=groups, window=window, run_s=run_s)
    tables: list[RequestTable] = []
    figures = simulate(study, policy, on_pass=timeline.on_pass, on_end=tables.append)
    (everyone,) = tables
    counted = everyone.where(everyone.arrived_at >= study.warmup_s)
    done = counted.where(counted.is_finished)
    edges = np.linspace(0.0, run_s, NUM_BINS + 1)
    return PolicyRun(
        policy=policy,
        figures=figures,
        window=window,
        groups=groups,
        chunk_budget_tokens=entry[0].chunk_budget_tokens,
        passes=tuple(timeline.passes),
        rank_time=timeline.rank_time(),
        balance=timeline.balance(),
        waiting=mean_numbers(*_held(everyone), edges),
        queued=mean_numbers(everyone.dispatched_at, everyone.started_at, edges),
        ttft_quantiles=_quantiles(done.ttft_s),
        ttft_counts=tuple(np.histogram(done.ttft_s, TTFT_EDGES)[0].tolist()),
        waits=_waits(done),
        slowest_waits=_waits(_slowest(done)),
    )


def mean_numbers(starts: Floats, ends: Floats, edges: Floats) -> tuple[float, ...]:
    """How many of the intervals [start, end) hold, on average between neighbouring edges.

    A NaN start: the interval never began; a NaN end: it never ended.
    """
    began = ~np.isnan(starts)
    ended = began & ~np.isnan(ends)
    area = np.diff(_time_since(starts[began], edges) - _time_since(ends[ended], edges))
    return tuple(np.maximum(0.0, area / np.diff(edges)).tolist())


def _time_since(moments: Floats, edges: Floats) -> Floats:
    """For each edge: the time that has passed since each of the moments before it, summed."""
    moments = np.sort(moments)
    sums = np.concatenate([[0.0], np.cumsum(moments)])
    number = np.searchsorted(moments, edges, side="right")
    since: Floats = number * edges - sums[number]
    return since


def _held(requests: RequestTable) -> tuple[Floats, Floats]:
    """When the scheduler had each request; one that it refused it has not held."""
    taken = requests.where(requests.is_rejected == 0)
    return taken.arrived_at, taken.dispatched_at


def _quantiles(ttft_s: Floats) -> tuple[float, ...]:
    return tuple(np.percentile(ttft_s, QUANTILES).tolist()) if ttft_s.size else ()


def _slowest(done: RequestTable) -> RequestTable:
    ttft_s = done.ttft_s
    return done.where(ttft_s >= np.percentile(ttft_s, SLOWEST_PERCENT)) if ttft_s.size else done


def _waits(done: RequestTable) -> Waits:
    if not done.arrived_at.size:
        return Waits()
    return Waits(
        hold_s=float(done.hold_s.mean()),
        queue_s=float(done.engine_queue_s.mean()),
        running_s=float((done.first_token_at - done.started_at).mean()),
    )
