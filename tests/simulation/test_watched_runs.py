"""A run that is watched is the run that is not, and what was seen agrees with its figures."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hortator.api.files import load_llmservice
from hortator.sim.report.collect import watch
from hortator.sim.report.data import PolicyRun
from hortator.sim.simulate import Study, generated_workload, simulate

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ("immediate-least-tokens", "staggered-plus")


@cache
def _study(file: str, load: float, prefill_only: bool) -> Study:
    service = load_llmservice(ROOT / file)
    workload = generated_workload(service, load=load, seed=3, min_run_s=12.0)
    return Study(service=service, workload=workload, seed=3, prefill_only=prefill_only)


def _prefill() -> Study:
    return _study("benchmarks/sim/clusters/prefill-4xEP16.yaml", 0.7, prefill_only=True)


@cache
def _watched(policy: str) -> PolicyRun:
    return watch(_prefill(), policy, window_s=4.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_watching_changes_no_figure(policy: str) -> None:
    assert _watched(policy).figures == simulate(_prefill(), policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_passes_of_a_group_follow_each_other_and_cover_the_window_as_the_figures_say(policy: str) -> None:
    run = _watched(policy)
    assert {observed.group_id for observed in run.passes} == set(run.groups)
    for group_id, num_ranks in run.groups.items():
        passes = [observed for observed in run.passes if observed.group_id == group_id]
        assert all(len(observed.tokens) == num_ranks for observed in passes)
        assert all(max(observed.tokens) <= run.chunk_budget_tokens for observed in passes)
        assert all(a.started_at + a.duration_s <= b.started_at + 1e-9 for a, b in pairwise(passes))
    time = run.rank_time
    bubble = time.bubble_s / (time.filled_s + time.bubble_s)
    assert bubble == pytest.approx(
        run.figures["bubble_ratio"], abs=0.02
    )  # the figure counts the drain as well


@pytest.mark.parametrize("policy", POLICIES)
def test_waits_add_up_to_ttft_and_queues_to_their_mean_depth(policy: str) -> None:
    run = _watched(policy)
    assert run.waits.total_s == pytest.approx(run.figures["ttft_s"]["mean"])
    assert run.waits.hold_s == pytest.approx(run.figures["hold_s"]["mean"])
    assert run.slowest_waits.total_s >= run.figures["ttft_s"]["p99"]
    depth = np.mean(run.queued) * _prefill().workload.wall_s / run.figures["virtual_s"]
    assert depth == pytest.approx(
        run.figures["engine_queue_depth"], rel=0.05, abs=0.01
    )  # which counts the drain
    assert sum(run.ttft_counts) == run.figures["completed"]


def test_groups_that_prefill_and_decode_are_drawn_with_their_decodes() -> None:
    study = _study("e2e/manifests/aggregated.yaml", 0.05, prefill_only=False)
    run = watch(study, "staggered", window_s=1.0)
    assert any(any(observed.decode_tokens) for observed in run.passes)
    assert run.rank_time.decode_only_s > 0
