"""`hortator study sensitivity` on two cases: what it writes, that it goes on, and what it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hortator.cli import study_sensitivity
from hortator.cli.bench import result
from hortator.cli.errors import CommandError
from hortator.cli.main import app

ROOT = Path(__file__).resolve().parents[3]


def test_it_writes_rows_points_and_a_page_and_keeps_finished_points(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(result, "commit", lambda: ("c" * 40, False))

    def go():
        plan = study_sensitivity.plan_of(seeds=1, loads=None, cases=["latency-5ms", "theory-1"])
        study_sensitivity.run(plan=plan, out=tmp_path, work=tmp_path / "work", minutes=0.05)
        return json.loads((tmp_path / "sensitivity.json").read_text())

    document = go()
    assert {row["case"] for row in document["rows"]} == {"latency-5ms", "theory-1"}
    assert all(row["requests"] > 10 and row["mean_to_perfect"] is None for row in document["rows"])
    assert "**latency-5ms**: 5 ms" in (tmp_path / "sensitivity.md").read_text()
    (kept,) = (tmp_path / "work").iterdir()
    lines = kept.read_text().splitlines()
    assert len(lines) == len(document["points"]) == 7
    kept.write_text("\n".join(lines[2:]) + "\n")
    assert go()["points"] == document["points"]


def test_an_unknown_case_is_told():
    with pytest.raises(CommandError) as refused:
        study_sensitivity.plan_of(seeds=1, loads=None, cases=["perfet"])
    assert str(refused.value).startswith("--case: got 'perfet' (allowed: perfect, engine-1.1, ")


def test_an_option_before_the_name_of_the_study_is_refused():
    """It would be of another study, and do nothing."""
    done = CliRunner().invoke(app, ["study", "--minutes", "1", "sensitivity"])
    assert str(done.exception) == (
        "--minutes: goes behind the name of the study, like: hortator study sensitivity --minutes ..."
    )
