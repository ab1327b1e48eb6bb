"""The paper's table: its jobs, its rows, its page."""

from pathlib import Path

import pytest

from hortator.api.files import load_llmservice
from hortator.sim.arrivals import POISSON
from hortator.sim.study import paper_page, paper_points
from hortator.sim.study.capacity import Grid, Limits
from hortator.sim.study.paper_plan import POINT, SEARCH, SETUPS, Job, Search, Setup, jobs
from hortator.sim.study.paper_rows import rows
from hortator.sim.study.plan import BASELINE
from hortator.sim.study.points import Workload
from hortator.sim.workload import TraceRequest

CLUSTERS = Path(__file__).resolve().parents[4] / "benchmarks/sim/clusters"
SETUP = Setup(
    name="x",
    about="a small one",
    cluster="prefill-4xEP16.yaml",
    workload=Workload(name="conversation", lengths="conversation", arrivals=POISSON),
    policies=(BASELINE, "staggered-plus"),
    seeds=(0, 1),
    load=0.5,
    search=Search(
        limits=Limits(ttft_p99_s=1.0), grid=Grid(low=0.4, high=0.8, num_loads=3), run_s=60.0, seeds=(0,)
    ),
)


def some(*, ttft, load=None, **changed):
    times = {"mean": ttft, "p50": ttft, "p99": 2 * ttft}
    plain = dict.fromkeys(paper_points.KEPT, 1.0)
    return {
        **plain,
        "requests": 100,
        "rejected": 0,
        "stable": True,
        **{name: times for name in plain if name.endswith("_s") and name != "virtual_s"},
        "prefill_tokens_per_s": 1000.0,
        "output_tokens_per_s": 200.0,
        "offered_rps": 5.0,
        "offered_output_tokens_per_s": 200.0,
        "offered_prompt_tokens_per_s": 1000.0,
        "load": load,
        "is_at_top": False,
        **changed,
    }


def found(job):
    """staggered-plus: half the TTFT, and 0.6 instead of 0.4 as its capacity."""
    is_ours = job.policy != BASELINE
    return some(ttft=1.0 if is_ours else 2.0, load=0.6 if is_ours else 0.4)


def test_a_setup_has_a_point_and_a_search_per_policy_budget_and_seed():
    """2 policies x (2 seeds of points + 1 of searches)."""
    made = list(jobs(SETUP))
    assert len(made) == len(set(made)) == 6
    assert sum(job.kind == SEARCH for job in made) == 2
    assert made[0].key() == f"x/point/{BASELINE}/8192/0"


def test_the_setups_are_told_apart_and_their_clusters_are_there():
    assert len({setup.name for setup in SETUPS}) == len(SETUPS)
    for setup in SETUPS:
        service = load_llmservice(CLUSTERS / setup.cluster)
        assert BASELINE in setup.policies
        assert not (setup.prefill_only and service.spec.topology == "Aggregated")
    chips = {
        setup.cluster: sum(
            role.replicas * role.nodes * role.gpus_per_node
            for role in load_llmservice(CLUSTERS / setup.cluster).spec.roles
        )
        for setup in SETUPS
        if setup.name[0] in "ab"
    }
    assert chips == {"aggregated-4xEP16.yaml": 64, "h800-64.yaml": 64}


def test_rows_compare_seed_by_seed_with_the_baseline():
    baseline, ours = rows(SETUP, found)
    assert baseline["point"]["ttft_to_baseline"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert ours["point"]["ttft_to_baseline"]["mean"] == 0.5
    assert ours["point"]["requests"] == 200
    assert ours["capacity"]["to_baseline"]["mean"] == pytest.approx(1.5)


def test_a_capacity_below_the_grid_is_told_and_not_divided_by():
    def none_of_baseline(job):
        return {"load": None} if (job.kind, job.policy) == (SEARCH, BASELINE) else found(job)

    baseline, ours = rows(SETUP, none_of_baseline)
    assert baseline["capacity"] == {"load": None}
    assert ours["capacity"]["to_baseline"] is None


def test_the_page_has_a_line_per_row_and_table_and_says_what_is_not_final():
    document = {
        "commit": "c" * 40,
        "settings": {"scale": 0.5, "setups": {"x": paper_points.describe(SETUP)}},
        "rows": list(rows(SETUP, found)),
    }
    page = paper_page.page(document)
    assert page.count("| `staggered-plus` | 8,192 |") == 2
    assert "A first look: all runs 0.5 times as long" in page
    assert "p99 TTFT <= 1 s (steps of 41.4 %, 0.5 virtual minutes per try, 1 seed(s))" in page
    assert "first look" not in paper_page.page({**document, "settings": {**document["settings"], "scale": 1}})
    columns = {
        line.count("|")
        for line in page.splitlines()
        if line.startswith(("| `", "| policy", "|---|---|---|---|"))
    }
    assert columns == {len(paper_page.POINT_COLUMNS) + 1, len(paper_page.CAPACITY_COLUMNS) + 1}


def test_a_search_simulates_and_keeps_the_figures_of_the_load_it_found():
    """A trace of one request of 1,000 tokens per 100 ms; short runs."""
    requests = [
        TraceRequest(arrived_at=0.1 * i, num_prompt_tokens=1000, num_output_tokens=3) for i in range(600)
    ]
    setup = Setup(
        name="t",
        about="",
        cluster="prefill-4xEP16.yaml",
        workload=Workload(name="trace", trace="some.csv", arrivals=POISSON),
        prefill_only=True,
        load=0.3,
        search=Search(
            limits=Limits(ttft_p99_s=0.9), grid=Grid(low=0.1, high=1.6, num_loads=3), run_s=20.0, seeds=(0,)
        ),
    )
    service = load_llmservice(CLUSTERS / setup.cluster)
    search, point = (
        paper_points.figures_of(
            Job(setup="t", kind=kind, policy="staggered-plus", chunk_budget_tokens=8192, seed=0),
            setup,
            service,
            requests,
            scale=0.25,
        )
        for kind in (SEARCH, POINT)
    )
    assert (search["load"], search["is_at_top"]) == (0.4, False)
    assert search["tried"] == {"0.4": True, "1.6": False}
    assert search["ttft_s"]["p99"] <= 0.9
    assert search["offered_prompt_tokens_per_s"] == pytest.approx(1000 * search["offered_rps"])
    assert point["offered_rps"] == pytest.approx(search["offered_rps"] * 0.3 / 0.4, rel=0.1)
