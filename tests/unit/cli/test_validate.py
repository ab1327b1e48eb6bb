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


def scaler(name="decode", **spec):
    return {
        "apiVersion": "serving.hortator.dev/v1alpha1",
        "kind": "LLMServiceScaler",
        "metadata": {"name": name},
        "spec": {"serviceName": "base", "role": "Aggregated", "replicas": 3} | spec,
    }


@pytest.fixture
def write_all(tmp_path):
    def file(name, *documents):
        path = tmp_path / name
        path.write_text(yaml.safe_dump_all(documents))
        return path

    return file


def test_scalers_are_valid_alone_and_beside_their_service(write_all, capsys):
    file = write_all("x.yaml", scaler())
    assert validate.run(file=file, against=None, as_json=False) == 0
    line = "LLMServiceScaler decode is valid: Aggregated of base has 3 groups per role set"
    assert capsys.readouterr().out == f"{file}: {line}\n"
    file = write_all("y.yaml", changed({}), scaler())
    assert validate.run(file=file, against=None, as_json=False) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"{file}: {line}"]


def test_a_scaler_that_breaks_a_rule_is_named(write_all):
    bounds = {"minReplicas": 3, "maxReplicas": 2}
    file = write_all("x.yaml", scaler(), scaler("b", replicas=-1), scaler("c", autoscaling=bounds))
    first, second = refusal(file)
    assert first.startswith(f"{file}: LLMServiceScaler b: spec.replicas: got -1")
    assert second.startswith(f"{file}: LLMServiceScaler c: spec.autoscaling.minReplicas: ")


def test_what_is_wrong_with_the_service_is_said_beside_what_is_wrong_with_its_scaler(write_all):
    file = write_all("x.yaml", changed({"spec.roles[0].nodes": 65}), scaler(replicas=-1))
    assert [line.split(": ")[1] for line in refusal(file)] == [
        "spec.roles[0].nodes",
        "LLMServiceScaler decode",
    ]


def test_a_scaler_beside_its_service_names_one_of_its_roles_and_none_twice(write_all):
    others = scaler("elsewhere", serviceName="another", role="Decode")
    file = write_all("x.yaml", changed({}), scaler(), scaler("again"), scaler("d", role="Decode"), others)
    assert refusal(file) == [
        (
            f"{file}: LLMServiceScaler again: spec.role: Aggregated belongs to LLMServiceScaler decode"
            " (allowed: one for each role)"
        ),
        f"{file}: LLMServiceScaler d: spec.role: got Decode (allowed: roles of base: Aggregated)",
    ]


def test_what_a_scaler_is_about_cannot_change(write_all, capsys):
    old = write_all("old.yaml", scaler(), scaler("b", serviceName="other"))
    new = write_all("new.yaml", scaler(replicas=5), scaler("b", serviceName="third"))
    (line,) = refusal(new, old)
    assert line.startswith(f"{new}: LLMServiceScaler b: spec.serviceName: ")
    assert validate.run(file=new, against=old, as_json=True) == 2
    assert json.loads(capsys.readouterr().out)["problems"][0]["field"].startswith("LLMServiceScaler b: ")
