"""`hortator plan`: objects, layout and warnings of a manifest, without a cluster."""

import json
from pathlib import Path

import pytest
import yaml

from hortator.api.files import load_llmservice
from hortator.cli import plan
from hortator.cli.errors import CommandError

SAMPLES = Path(__file__).resolve().parents[3] / "manifests/samples"
SIMULATED = SAMPLES / "llmservice-simulated-64.yaml"


def run(file=SIMULATED, **options):
    plan.run(**{"file": file, "output": "table", "registry": "", "as_json": False, **options})


def test_yaml_is_what_kubectl_takes(capsys):
    run(output="yaml")
    objects = list(yaml.safe_load_all(capsys.readouterr().out))
    kinds = [obj["kind"] for obj in objects]
    assert kinds.count("StatefulSet") == 3
    assert all(obj["apiVersion"] and obj["metadata"]["name"] for obj in objects)


def test_yaml_keeps_warnings_off_standard_output(capsys):
    run(output="yaml")
    shown = capsys.readouterr()
    assert "warning" not in shown.out
    assert "warning: spec.roles[1].replicas: one Decode group" in shown.err


def test_json_has_the_layout_the_warnings_and_the_objects(capsys):
    run(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["numRanks"] == 64
    assert [group["workerId"] for group in document["groups"]] == ["prefill-0", "prefill-1", "decode-0"]
    last = document["groups"][2]["members"][3]
    assert last == {"ordinal": 3, "pod": "simulated-d-0-3", "ranks": list(range(24, 32))}
    assert [line["field"] for line in document["warnings"]] == ["spec.roles[1].replicas"]
    assert len(document["objects"]) == 20


def test_images_come_from_a_registry(capsys):
    run(registry="registry.example/llm/", output="yaml")
    assert "image: registry.example/llm/hortator-worker:" in capsys.readouterr().out


def test_a_wrong_manifest_is_one_line_per_problem(tmp_path, capsys):
    file = tmp_path / "m.yaml"
    file.write_text(
        SIMULATED.read_text().replace("nodes: 2", "nodes: 3").replace("backend: Simulated", "backend: X")
    )
    with pytest.raises(CommandError) as caught:
        run(file)
    assert caught.value.exit_code == 2
    assert all(line.startswith(f"{file}: spec.") for line in caught.value.lines)
    assert not capsys.readouterr().out


def test_an_unknown_output_is_refused():
    with pytest.raises(CommandError, match="--output: got 'xml' \\(allowed: table, yaml, lws\\)"):
        run(output="xml")


def test_the_shown_ranks_are_all_ranks():
    service = load_llmservice(SAMPLES / "llmservice-h800-64.yaml")
    wanted = plan.desired(
        service, uid=plan.UNKNOWN_UID, options=plan.Options(images=plan.Images.of_version("1"))
    )
    document = plan.document(service, wanted, ())
    for group in document["groups"]:
        ranks = [rank for member in group["members"] for rank in member["ranks"]]
        assert ranks == list(range(len(ranks)))
    assert sum(len(member["ranks"]) for group in document["groups"] for member in group["members"]) == 64


def test_leader_worker_sets_come_without_an_owner_and_say_what_they_are(capsys):
    run(output="lws")
    shown = capsys.readouterr()
    objects = list(yaml.safe_load_all(shown.out))
    kinds = [obj["kind"] for obj in objects]
    assert kinds.count("LeaderWorkerSet") == 2
    assert not {"StatefulSet", "ControllerRevision", "PodDisruptionBudget", "Secret"} & set(kinds)
    assert not any("ownerReferences" in obj["metadata"] for obj in objects)
    assert "rendered, never run" in shown.err
    assert "Secret simulated-d-identity" in shown.err


def test_leader_worker_sets_are_not_in_gangs_of_others(tmp_path):
    file = tmp_path / "m.yaml"
    text = SIMULATED.read_text().replace("\nspec:\n", "\nspec:\n  placement: {gang: {provider: Volcano}}\n")
    file.write_text(text)
    with pytest.raises(CommandError, match=r"provider Volcano \(allowed: Builtin, None"):
        run(file, output="lws")


def test_a_gang_of_another_scheduler_is_shown_and_warned_of(tmp_path, capsys):
    file = tmp_path / "m.yaml"
    text = SIMULATED.read_text().replace("\nspec:\n", "\nspec:\n  placement: {gang: {provider: Volcano}}\n")
    file.write_text(text)
    run(file)
    shown = capsys.readouterr().out
    assert "simulated-d-0-*" in shown
    assert "all 4 pods of a group or none" in shown
    assert "spec.placement.gang.provider: Volcano" in shown


def test_scalers_in_the_same_file_say_how_many_groups_there_are(tmp_path, capsys):
    scaler = {
        "apiVersion": "serving.hortator.dev/v1alpha1",
        "kind": "LLMServiceScaler",
        "metadata": {"name": "decode", "namespace": "default"},
        "spec": {"serviceName": "simulated", "role": "Decode", "replicas": 2},
    }
    file = tmp_path / "m.yaml"
    file.write_text(f"{SIMULATED.read_text()}\n---\n{yaml.safe_dump(scaler)}")
    run(file, as_json=True)
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [group["workerId"] for group in groups] == ["prefill-0", "prefill-1", "decode-0", "decode-1"]
    file.write_text(yaml.safe_dump(scaler))
    with pytest.raises(CommandError, match="no LLMService in it"):
        run(file)
