"""`hortator validate`: exit code 0 or 2, one line per problem."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cases.llmservice import BASE, changed
from hortator.cli import validate
from hortator.cli.errors import CommandError
from hortator.cli.main import app

SAMPLES = sorted((Path(__file__).parents[3] / "manifests" / "samples").glob("llmservice-*.yaml"))


@pytest.fixture
def write(tmp_path):
    def file(name, changes):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(changed(changes)))
        return path

    return file


def refusal(file, against=None):
    with pytest.raises(CommandError) as caught:
        validate.run(file=file, against=against, as_json=False)
    assert caught.value.exit_code == 2
    return list(caught.value.lines)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_is_valid(path, capsys):
    assert validate.run(file=path, against=None, as_json=False) == 0
    assert "is valid" in capsys.readouterr().out


def test_a_valid_service_is_summed_up_in_one_line(write, capsys):
    file = write("x.yaml", {"spec.replicas": 2})
    assert validate.run(file=file, against=None, as_json=False) == 0
    assert capsys.readouterr().out == (
        f"{file}: LLMService base is valid: 2 Aggregated x 16 ranks, 32 ranks in all\n"
    )


def test_each_problem_is_one_line_with_file_field_and_what_is_allowed(write):
    file = write("x.yaml", {"spec.roles[0].nodes": 65, "spec.drain.timeout": "2h"})
    assert refusal(file) == [
        f"{file}: spec.roles[0].nodes: got 65, should be less than or equal to 64 (allowed: 1 to 64)",
        f"{file}: spec.drain.timeout: got '2h' (allowed: a duration from 0s to 1h, like 5ms, 2s, 1m30s, 1h)",
    ]


def test_a_change_is_checked_against_what_was_there(write):
    old = write("old.yaml", {})
    new = write("new.yaml", {"spec.roles[0].gpuResourceName": "example.com/gpu"})
    (line,) = refusal(new, old)
    assert line == (
        f"{new}: spec.roles[0].gpuResourceName: nodes, gpusPerNode, gpuResourceName and parallelism of a role "
        "may change only while suspend is true before and after (got nvidia.com/gpu, then example.com/gpu)"
    )
    assert validate.run(file=new, against=new, as_json=False) == 0


def test_two_different_services_are_no_change(write):
    old, new = write("old.yaml", {"metadata.name": "one"}), write("new.yaml", {"metadata.name": "two"})
    assert refusal(new, old) == [f"{new}: metadata.name: got two (allowed: one, as in --against)"]


def test_an_object_from_a_cluster_can_be_what_was_there(tmp_path, write):
    old = tmp_path / "old.yaml"
    stored = BASE | {"metadata": {"name": "base", "uid": "u", "generation": 3}, "status": {"replicas": 1}}
    old.write_text(yaml.safe_dump(stored))
    assert validate.run(file=write("new.yaml", {}), against=old, as_json=False) == 0


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"spec.suspend": "yes"}, [{"field": "spec.suspend", "message": "got 'yes' (allowed: true, false)"}]),
    ],
)
def test_as_json(write, capsys, changes, problems):
    file = write("x.yaml", changes)
    assert validate.run(file=file, against=None, as_json=True) == (2 if problems else 0)
    assert json.loads(capsys.readouterr().out) == {
        "file": str(file),
        "valid": not problems,
        "problems": problems,
    }


def test_a_file_that_cannot_be_read_as_json(tmp_path, capsys):
    file = tmp_path / "nowhere.yaml"
    assert validate.run(file=file, against=None, as_json=True) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem == {"field": "", "message": f"{file}: cannot be read: No such file or directory"}


def test_the_command_passes_on_what_it_is_given(write):
    result = CliRunner().invoke(app, ["validate", "-f", str(write("x.yaml", {})), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["valid"]
