"""Benchmark results carry their circumstances."""

import json
import subprocess

import pytest

from hortator.cli.bench import result
from hortator.cli.errors import CommandError


def test_figures_are_medians_of_the_repeats_that_have_them():
    repeats = [{"a": 1.0, "b": 5.0}, {"a": 9.0}, {"a": 2.0}]
    assert result.medians(repeats) == {"a": 2.0, "b": 5.0}


def test_a_document_says_where_and_from_what_it_was_measured(tmp_path):
    document = result.document("x", seed=3, settings={"n": 1}, figures={"a": 1.0}, repeats=[{"a": 1.0}])
    result.write(document, tmp_path / "deep" / "x.json")
    read = json.loads((tmp_path / "deep" / "x.json").read_text())
    assert (read["seed"], read["settings"], read["repeats"]) == (3, {"n": 1}, [{"a": 1.0}])
    assert read["machine"]["num_cores"] >= 1
    assert read["machine"]["python"].startswith("3.")
    assert "commit" in read


def test_an_unwritable_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="--json"):
        result.write({}, tmp_path / "file" / "x.json")


def test_results_that_were_just_written_do_not_make_a_checkout_modified(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    source = tmp_path / "cli" / "result.py"
    for file in (source, tmp_path / "benchmarks/sim/study.json", tmp_path / "benchmarks/results/core.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(result, "__file__", str(source))
    for file in tmp_path.glob("benchmarks/*/*.json"):
        file.write_text("2\n")
    assert not result.commit()[1]
    source.write_text("2\n")
    assert result.commit()[1]
