"""`hortator study` on a small plan: what it writes, that it goes on where it was, and what it refuses."""

import json
from pathlib import Path

import pytest

from hortator.cli import study
from hortator.cli.bench import result
from hortator.cli.errors import CommandError
from hortator.sim.study.plan import BASELINE, RIVAL, Plan

ROOT = Path(__file__).resolve().parents[3]
SMALL = Plan(policies=(BASELINE, RIVAL, "staggered-plus"), budgets=(2048, 8192), seeds=(0, 1), loads=(0.7,))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run it from the root of the checkout into a temporary folder, as if from an unchanged commit."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(result, "commit", lambda: ("c" * 40, False))

    def go(**changed):
        study.run(
            **{
                "plan": SMALL,
                "out": tmp_path,
                "traces": None,
                "work": tmp_path / "work",
                "minutes": 0.1,
                **changed,
            }
        )
        return json.loads((tmp_path / "study.json").read_text())

    return go


def test_it_writes_rows_points_and_a_page_and_keeps_finished_points(run, tmp_path):
    document = run()
    rows = {(row["policy"], row["chunk_budget_tokens"]) for row in document["rows"]}
    assert {(policy, 8192) for policy in SMALL.policies} <= rows
    assert document["commit"] == "c" * 40
    assert list(document["settings"]["workloads"]) == ["conversation"]
    assert all(row["requests"] > 100 and row["gap"]["mean"] > 1.0 for row in document["rows"])
    page = (tmp_path / "study.md").read_text()
    assert page.count("| 0.7 | `") == len(document["rows"])

    (kept,) = (tmp_path / "work").iterdir()
    lines = kept.read_text().splitlines()
    assert len(lines) == len(document["points"])
    kept.write_text("\n".join(lines[1:]) + "\n")
    again = run()
    assert again["points"] == document["points"]
    assert again["rows"] == document["rows"]
    assert sorted(kept.read_text().splitlines()) == sorted(lines)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"plan": Plan(loads=(3.0,))}, "--load: got 3 (allowed: above 0, at most 2)"),
        ({"traces": Path("no-such-folder")}, "--traces no-such-folder: not a folder"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(run, changed, text):
    with pytest.raises(CommandError) as refused:
        run(**changed)
    assert str(refused.value) == text


def test_outside_a_checkout_it_says_where_to_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="run this in the root of a Hortator checkout"):
        run()
