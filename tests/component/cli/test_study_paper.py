"""`hortator study paper` on a small plan: what it writes, that it goes on where it was, and what it refuses."""

import json
from pathlib import Path

import pytest

from hortator.cli import study_paper
from hortator.cli.bench import result
from hortator.cli.errors import CommandError
from hortator.sim.arrivals import POISSON, RECORDED
from hortator.sim.study.paper_plan import Setup
from hortator.sim.study.plan import BASELINE
from hortator.sim.study.points import Workload

ROOT = Path(__file__).resolve().parents[3]
SMALL = Setup(
    name="small",
    about="a small one",
    cluster="aggregated-4xEP16.yaml",
    workload=Workload(name="short", lengths="short-prompt-lognormal", arrivals=POISSON),
    policies=(BASELINE, "staggered-plus"),
    seeds=(0,),
    load=0.005,
    run_s=6.0,
)
TRACE = Setup(
    name="trace",
    about="needs a trace",
    cluster="h800-64.yaml",
    workload=Workload(name="trace", trace="no-such-trace.csv", arrivals=RECORDED),
    load=0.5,
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run it from the root of the checkout into a temporary folder, as if from an unchanged commit."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(result, "commit", lambda: ("c" * 40, False))

    def go(**changed):
        study_paper.run(
            **{
                "out": tmp_path,
                "traces": None,
                "work": tmp_path / "work",
                "setups": (SMALL, TRACE),
                **changed,
            }
        )
        return json.loads((tmp_path / "paper.json").read_text())

    return go


def test_it_writes_rows_and_a_page_keeps_finished_jobs_and_leaves_out_what_needs_a_trace(run, tmp_path):
    document = run()
    assert document["commit"] == "c" * 40
    assert list(document["settings"]["setups"]) == ["small"]
    assert [row["policy"] for row in document["rows"]] == list(SMALL.policies)
    assert all(
        row["point"]["requests"] > 100 and row["point"]["itl_mean_s"] > 0.03 for row in document["rows"]
    )
    assert "a small one" in (tmp_path / "paper.md").read_text()

    (kept,) = (tmp_path / "work").iterdir()
    lines = kept.read_text().splitlines()
    assert len(lines) == len(document["points"]) == 2
    kept.write_text(lines[1] + "\n")
    assert run()["points"] == document["points"]
    assert sorted(kept.read_text().splitlines()) == sorted(lines)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"only": ["smal"]}, "--only: got 'smal' (allowed: small, trace)"),
        ({"traces": Path("no-such-folder")}, "--traces no-such-folder: not a folder"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(run, changed, text):
    with pytest.raises(CommandError) as refused:
        run(**changed)
    assert str(refused.value) == text
