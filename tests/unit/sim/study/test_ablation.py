"""The ablation: its points, its rows, its page."""

from dataclasses import fields
from pathlib import Path

import pytest

from hortator.api.files import load_llmservice
from hortator.scheduler.core.model import SchedulerSettings
from hortator.sim.study import ablation_page
from hortator.sim.study.ablation import (
    BY_NAME,
    VARIANTS,
    WHOLE,
    AblationPlan,
    AblationPoint,
    figures_of,
)

SERVICE = load_llmservice(Path(__file__).resolve().parents[4] / "benchmarks/sim/clusters/prefill-4xEP16.yaml")
PLAN = AblationPlan(
    seeds=(0, 1),
    loads=(0.5, 0.95),
    variants=tuple(BY_NAME[name] for name in (WHOLE, "no-backlog", "weight-2", "weight-20")),
)


def _figures(point):
    """Without the backlog: 1.5 and 1.7 times the mean at 0.95, and the same at 0.5. With beta 2 a mean of 0.8
    and a p99 of 1.1 times the whole's, with beta 20 a mean of 1.01 and a p99 of 0.9."""
    mean = 1.0 + point.seed
    p99 = 2.0
    if point.variant == "weight-2":
        mean, p99 = 0.8 * mean, 1.1 * p99
    if point.variant == "weight-20":
        mean, p99 = 1.01 * mean, 0.9 * p99
    if point.variant == "no-backlog" and point.load == 0.95:
        mean *= 1.5 + 0.2 * point.seed
    return {
        "requests": 100,
        "stable": point.variant != "no-backlog" or point.load < 0.9,
        "busy": 0.5,
        "ttft_s": {"mean": mean, "p50": mean, "p99": p99, "max": 3.0},
    }


def test_every_variant_runs_at_every_load_with_every_seed():
    points = list(PLAN.points())
    assert len(points) == len(set(points)) == 2 * 2 * 4
    assert points[0].key() == "0.5/0/whole"


def test_every_variant_but_the_whole_changes_a_setting_from_its_default():
    names = {field.name for field in fields(SchedulerSettings)}
    defaults = SchedulerSettings()
    assert not BY_NAME[WHOLE].settings
    for variant in VARIANTS[1:]:
        assert variant.settings
        for name, value in variant.settings.items():
            assert name in names
            assert value != getattr(defaults, name)


def test_ratios_are_taken_seed_by_seed():
    rows = {(row["load"], row["variant"]): row for row in ablation_page.rows(PLAN, _figures)}
    without = rows[0.95, "no-backlog"]
    assert without["mean_to_whole"] == {
        "mean": pytest.approx(1.6),
        "low": pytest.approx(1.5),
        "high": pytest.approx(1.7),
    }
    assert not without["stable"]
    assert rows[0.5, "no-backlog"]["mean_to_whole"]["mean"] == 1.0


def test_the_page_says_what_an_ingredient_is_good_for():
    document = {
        "commit": "c" * 40,
        "settings": {
            "seeds": [0, 1],
            "cluster": "x.yaml",
            "chunk_budget_tokens": 4096,
            "min_run_s": 1200.0,
            "variants": ablation_page.about_variants(),
        },
        "rows": ablation_page.rows(PLAN, _figures),
    }
    page = ablation_page.page(document)
    assert "- `no-backlog`: mean 1.60 at 0.95 (unstable); p99 the same." in page
    assert "- 0.95: mean 1.00 (1.00-1.00) with `whole`; p99 0.90 (0.90-0.90) with `weight-20`." in page
    assert (
        "| 0.95 | `no-backlog` | 2.450 UNSTABLE | 2.450 | 2.000 | 3.00 | 1.60 (1.50-1.70) | 1.00 (1.00-1.00) | 50 % |"
        in page
    )


def test_a_point_runs_the_policy_with_the_settings_of_its_variant():
    """At load 0.9 a pass that is never filled for its own sake serves less."""
    whole, without = (
        figures_of(AblationPoint(load=0.9, seed=0, variant=name), SERVICE, min_run_s=20.0)
        for name in (WHOLE, "no-backlog")
    )
    assert whole["requests"] == without["requests"] > 500
    assert whole["ttft_s"]["mean"] < without["ttft_s"]["mean"]
