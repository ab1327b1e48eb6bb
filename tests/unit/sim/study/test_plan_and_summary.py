"""Which points the study has, and what it makes of their figures."""

import pytest

from hortator.sim.arrivals import POISSON, RECORDED
from hortator.sim.study import summary
from hortator.sim.study.plan import Case, Plan
from hortator.sim.study.points import LOWER_BOUND, Point, Workload

PLAN = Plan()
CASE = Case(workload="conversation", load=0.7)
MEAN_S = {
    "immediate-least-tokens": 1.2,
    "immediate-least-delay": 1.0,
    "staggered": 0.8,
    "staggered-plus": 0.4,
}


def _figures(point: Point):
    """Twice as good at 2,048 tokens as at 8,192; at 1,024 best of all and unstable."""
    if point.policy == LOWER_BOUND:
        return {"ttft_s": {"mean": 0.2}}
    factor = {1024: 0.1, 2048: 0.5, 4096: 0.8, 8192: 1.0}[point.chunk_budget_tokens]
    mean = MEAN_S[point.policy] * factor * (1.0 + 0.1 * point.seed)
    return {
        "requests": 100,
        "rejected": 0,
        "stable": point.chunk_budget_tokens > 1024,
        "ttft_s": {"mean": mean, "p50": mean, "p99": 2 * mean, "max": 3 * mean},
        "engine_queue_depth": 1.0,
        "chunk_utilization": 0.5,
        "balance_ratio": 0.6,
        "prefill_tokens_per_s": 1000.0,
    }


def test_every_policy_runs_at_the_common_budget_with_every_seed_and_tries_every_budget_once():
    points = PLAN.first_points(CASE)
    assert len(points) == len(set(points))
    for policy in PLAN.policies:
        tried = {(p.seed, p.chunk_budget_tokens) for p in points if p.policy == policy}
        assert tried == {(seed, 8192) for seed in range(5)} | {(0, budget) for budget in PLAN.budgets}
    assert sum(point.policy == LOWER_BOUND for point in points) == 5


def test_the_best_budget_is_the_fastest_stable_one_and_runs_with_the_other_seeds():
    assert PLAN.best_budget(CASE, "staggered", _figures) == 2048
    second = PLAN.second_points(CASE, _figures)
    assert {point.chunk_budget_tokens for point in second} == {2048}
    assert {point.seed for point in second} == {1, 2, 3, 4}
    assert not set(second) & set(PLAN.first_points(CASE))


def test_where_no_budget_is_stable_the_fastest_counts():
    def unstable(point):
        return {**_figures(point), "stable": False}

    assert PLAN.best_budget(CASE, "staggered", unstable) == 1024


def test_ratios_are_taken_to_the_baseline_at_the_common_budget_and_to_the_rival_at_its_best():
    rows = {(row["policy"], row["chunk_budget_tokens"]): row for row in summary.rows(PLAN, CASE, _figures)}
    assert len(rows) == 8
    ours = rows["staggered-plus", 2048]
    assert ours["is_best_budget"]
    assert not rows["staggered-plus", 8192]["is_best_budget"]
    assert ours["mean_to_baseline"]["mean"] == pytest.approx(0.2 / 1.2)
    assert ours["mean_to_rival"]["mean"] == pytest.approx(0.2 / 0.5)
    assert ours["gap"]["mean"] == pytest.approx(1.2)
    assert ours["requests"] == 500


def test_an_interval_that_spans_different_seeds_is_given():
    def uneven(point):
        figures = _figures(point)
        if point.policy == "staggered-plus" and point.seed == 4:
            figures["ttft_s"]["mean"] *= 2
        return figures

    row = next(row for row in summary.rows(PLAN, CASE, uneven) if row["policy"] == "staggered-plus")
    ratio = row["mean_to_baseline"]
    assert ratio["low"] < ratio["mean"] < ratio["high"]


def test_the_page_has_a_line_per_row_and_marks_what_is_unstable():
    def shaky(point):
        return {**_figures(point), "stable": point.policy != "staggered"}

    document = {
        "commit": "0123456789abcdef",
        "settings": {
            "cluster": "c.yaml",
            "min_run_s": 1200.0,
            "seeds": [0],
            "workloads": {"conversation": "made up"},
        },
        "rows": summary.rows(PLAN, CASE, shaky),
    }
    page = summary.page(document)
    lines = [line for line in page.splitlines() if line.startswith("| 0.7")]
    assert len(lines) == len(document["rows"])
    assert all(("UNSTABLE" in line) == ("`staggered`" in line) for line in lines)
    assert "0123456789ab" in page


def test_a_workload_says_what_it_is():
    generated = Workload(name="a", lengths="conversation", arrivals=POISSON)
    assert generated.describe() == "conversation lengths (generated), poisson arrivals"
    assert Workload(name="b", trace="x.csv", arrivals=POISSON).describe() == "x.csv, poisson arrivals"


def test_recorded_bursts_are_not_asked_for_at_the_highest_loads():
    trace = Workload(name="b", trace="x.csv", arrivals=RECORDED)
    assert [case.load for case in PLAN.cases(trace)] == [0.5, 0.7, 0.85]
    drawn = Workload(name="c", trace="x.csv", arrivals=POISSON)
    assert [case.load for case in PLAN.cases(drawn)] == [0.5, 0.7, 0.85, 0.95]
    generated = Workload(name="a", lengths="conversation", arrivals=POISSON)
    assert [case.load for case in PLAN.cases(generated)] == [0.5, 0.7, 0.85, 0.95]


def test_what_is_recorded_runs_once():
    """Another seed would draw nothing."""
    trace = Workload(name="b", trace="x.csv", arrivals=RECORDED)
    case = next(iter(PLAN.cases(trace)))
    assert {point.seed for point in PLAN.first_points(case)} == {0}
    assert PLAN.second_points(case, _figures) == []
    assert all(row["requests"] == 100 for row in summary.rows(PLAN, case, _figures))


def test_a_workload_may_have_loads_of_its_own_unless_others_are_asked_for():
    long = Workload(name="b", trace="x.csv", arrivals=POISSON, loads=(0.3, 0.4))
    assert [case.load for case in PLAN.cases(long)] == [0.3, 0.4]
    assert [case.load for case in Plan(loads=(0.6,)).cases(long)] == [0.6]
