"""Which clusters the sensitivity study has, and what it makes of their figures."""

from pathlib import Path

import pytest

from hortator.api.files import load_llmservice
from hortator.sim.disturbances import parse_disturbances
from hortator.sim.simulate import entry_role, pass_cost
from hortator.sim.study import sensitivity_page
from hortator.sim.study.plan import BASELINE, RIVAL
from hortator.sim.study.sensitivity import (
    BY_NAME,
    CASES,
    THEORY,
    CasePoint,
    SensitivityPlan,
    figures_of,
    service_of,
)

SERVICE = load_llmservice(Path(__file__).resolve().parents[4] / "benchmarks/sim/clusters/prefill-4xEP16.yaml")
PLAN = SensitivityPlan(
    seeds=(0, 1),
    cases=(BY_NAME["perfect"], BY_NAME["latency-5ms"], BY_NAME["one-group"]),
    theory=(BY_NAME["theory-4"],),
)


def _figures(point: CasePoint):
    mean = {BASELINE: 1.2, RIVAL: 1.0, "staggered": 0.8, "staggered-plus": 0.5}[point.policy]
    if point.case == "latency-5ms" and point.policy == "staggered-plus":
        mean = 1.1 if point.seed else 1.3
    return {
        "requests": 100,
        "rejected": 1,
        "stable": point.case != "one-group",
        "ttft_s": {"mean": mean, "p50": mean, "p99": 2 * mean, "max": 3 * mean},
        "hold_s": {"mean": 0.1},
        "engine_queue_s": {"mean": 0.2},
        "pass_s": 0.6,
        "busy": 0.5,
        "chunk_utilization": 0.4,
    }


def test_the_names_of_cases_are_their_own_and_every_disturbance_can_be_read():
    assert len(BY_NAME) == len(CASES) + len(THEORY)
    for case in BY_NAME.values():
        parse_disturbances(case.disturb)
        assert RIVAL in case.policies
        assert not case.reference or set(case.policies) & set(BY_NAME[case.reference].policies)


def test_every_case_runs_with_every_policy_and_seed_once():
    points = PLAN.points()
    assert len(points) == len(set(points)) == 2 * (4 + 3 + 4 + 4)
    assert {point.load for point in points if point.case == "theory-4"} == {0.5}
    assert len({point.key() for point in points}) == len(points)


def test_a_case_changes_one_thing_of_the_cluster():
    no_chunks = entry_role(service_of(BY_NAME["no-chunks"], SERVICE))
    assert (no_chunks.chunked_prefill, no_chunks.chunk_budget_tokens, no_chunks.replicas) == (False, 8192, 4)
    skewed = service_of(BY_NAME["expert-skew-2"], SERVICE)
    assert pass_cost(skewed, entry_role(skewed)).expert_skew == 2.0
    assert entry_role(service_of(BY_NAME["one-group"], SERVICE)).replicas == 1


def test_ratios_are_to_the_rival_of_the_case_and_to_the_policy_itself_undisturbed():
    rows = {(row["case"], row["policy"]): row for row in sensitivity_page.rows(PLAN, _figures)}
    late = rows["latency-5ms", "staggered-plus"]
    assert late["mean_to_rival"] == {
        "mean": pytest.approx(1.2),
        "low": pytest.approx(1.1),
        "high": pytest.approx(1.3),
    }
    assert late["mean_to_perfect"]["mean"] == pytest.approx(2.4)
    assert rows["perfect", "staggered"]["mean_to_perfect"] is None
    assert rows["theory-4", "staggered"]["wait_s"]["mean"] == pytest.approx(0.3)


def test_the_page_says_where_ours_loses():
    document = {
        "commit": "c" * 40,
        "settings": {"seeds": [0, 1], "cluster": "x.yaml", "min_run_s": 1200.0, "loads": [0.7]},
        "rows": sensitivity_page.rows(PLAN, _figures),
    }
    page = sensitivity_page.page(document)
    assert "- mean TTFT: latency-5ms (1.20)." in page
    assert "mean TTFT, in times of the perfect cluster's: latency-5ms (2.40)." in page
    assert "- UNSTABLE: one-group." in page
    assert "| 4 | `staggered` | 0.300 (0.300-0.300) | 0.600 | 0.500 | 0.500 | 0.125 | 0.800 |" in page


def test_a_held_prompt_waits_for_the_next_group_and_one_sent_at_once_for_its_own():
    """Half a pass against half a pass over four, with room for chance in half a minute."""
    waits = {}
    for policy in (BASELINE, "staggered"):
        point = CasePoint(case="theory-4", load=0.5, seed=0, policy=policy)
        figures = figures_of(point, SERVICE, min_run_s=30.0)
        waits[policy] = (figures["hold_s"]["mean"] + figures["engine_queue_s"]["mean"]) / figures["pass_s"]
    assert 0.45 < waits[BASELINE] < 0.75
    assert 0.1 < waits["staggered"] < 0.3
