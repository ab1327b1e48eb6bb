"""One policy's run, reduced to what the figures need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hortator.sim.records import RequestRecord, RequestTable
from hortator.sim.simulate import Study, simulate
from hortator.sim.timeline import PassShape, Sample, Timeline

NUM_QUANTILES = 200
NUM_SAMPLES = 240
"""Per run, whatever its length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRun:
    """Figures of a run and its shape; times in virtual seconds."""

    policy: str
    load: float
    figures: dict[str, Any]
    ttft_quantiles_s: tuple[float, ...]
    """At 0, 1/200, ... 1."""
    mean_waits_s: tuple[float, float, float]
    """Held by the scheduler, queued in the engine, running until the first token."""
    window_s: tuple[float, float]
    passes: tuple[PassShape, ...] = ()
    samples: tuple[Sample, ...] = ()


def run_policy(study: Study, policy: str, *, window_s: float) -> PolicyRun:
    """Simulate a policy; the window lies in the middle of the arrivals.

    Raises:
        ValueError: no request ended.
    """
    wall_s = study.workload.wall_s
    middle = 0.5 * wall_s
    timeline = Timeline(
        window_from_s=max(0.0, middle - 0.5 * window_s),
        window_to_s=middle + 0.5 * window_s,
        sample_s=wall_s / NUM_SAMPLES,
    )
    records: list[RequestRecord] = []
    figures = simulate(study, policy, keep_records=records, timeline=timeline)
    table = RequestTable.of(records)
    done = table.where(table.is_finished & (table.arrived_at >= study.warmup_s))
    if not len(done.arrived_at):
        raise ValueError(f"{policy}: no request ended (allowed: a longer run, or a higher load)")
    quantiles = np.quantile(done.ttft_s, np.linspace(0.0, 1.0, NUM_QUANTILES + 1))
    running = done.ttft_s - done.hold_s - done.engine_queue_s
    return PolicyRun(
        policy=policy,
        load=study.workload.load,
        figures=figures,
        ttft_quantiles_s=tuple(quantiles.tolist()),
        mean_waits_s=(
            float(done.hold_s.mean()),
            float(done.engine_queue_s.mean()),
            float(running.mean()),
        ),
        window_s=(timeline.window_from_s, timeline.window_to_s),
        passes=tuple(timeline.passes),
        samples=tuple(timeline.samples),
    )
