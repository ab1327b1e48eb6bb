"""`hortator study ablation`, very short: what it writes, and that it goes on."""

import json
from pathlib import Path

from hortator.cli import study_ablation
from hortator.cli.bench import result
from hortator.sim.study.ablation import BY_NAME, WHOLE, AblationPlan

ROOT = Path(__file__).resolve().parents[3]


def test_it_writes_rows_points_and_a_page_and_keeps_finished_points(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(result, "commit", lambda: ("c" * 40, False))
    plan = AblationPlan(seeds=(0,), loads=(0.7,), variants=(BY_NAME[WHOLE], BY_NAME["one-start"]))

    def go():
        study_ablation.run(plan=plan, out=tmp_path, work=tmp_path / "work", minutes=0.05)
        return json.loads((tmp_path / "ablation.json").read_text())

    document = go()
    assert [row["variant"] for row in document["rows"]] == [WHOLE, "one-start"]
    assert "| 0.7 | nothing |" in (tmp_path / "ablation.md").read_text()
    (kept,) = (tmp_path / "work").iterdir()
    kept.write_text(kept.read_text().splitlines()[0] + "\n")
    assert go()["points"] == document["points"]
