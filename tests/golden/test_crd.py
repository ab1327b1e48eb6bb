"""The committed CustomResourceDefinitions are what hack/generate-crds writes, and keep to what servers demand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hortator.api.rules import RULES
from hortator.api.scaler_rules import SCALER_RULES, SCALER_TRANSITIONS
from hortator.api.transitions import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
RULES_OF = {"crd.yaml": (*RULES, *TRANSITIONS), "crd-scaler.yaml": (*SCALER_RULES, *SCALER_TRANSITIONS)}


@pytest.fixture(params=RULES_OF)
def committed(request):
    return ROOT / "manifests" / request.param


@pytest.fixture
def rules(committed):
    return RULES_OF[committed.name]


@pytest.fixture
def schema(committed):
    (version,) = yaml.safe_load(committed.read_text())["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def nodes(node, path=""):
    """Every schema inside a schema, with its path."""
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}" if path else name)
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


def test_the_crds_are_up_to_date(tmp_path):
    subprocess.run([sys.executable, ROOT / "hack/generate-crds", tmp_path], check=True, capture_output=True)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert fresh == {name: (ROOT / "manifests" / name).read_text() for name in RULES_OF}, "run: make generate"


def test_the_crd_fits_into_an_annotation(committed):
    assert committed.stat().st_size <= 200 * 1024


def test_every_field_says_what_it_is(schema):
    silent = [
        path for path, node in nodes(schema)
        if path.startswith(("spec.", "status.")) and not path.endswith(("[]", "{}")) and not node.get("description")
    ]  # fmt: skip
    assert silent == []


def test_every_rule_is_in_the_crd_once_with_its_message(schema, rules):
    written = [
        (rule["rule"], rule["message"])
        for _, node in nodes(schema)
        for rule in node.get("x-kubernetes-validations", [])
        if rule["rule"] in {known.cel for known in rules}
    ]
    assert sorted(written) == sorted((rule.cel, rule.message) for rule in rules)


def test_what_a_rule_reads_has_a_default_or_is_required_or_is_asked_for_with_has(schema, rules):
    found = dict(nodes(schema))
    for rule in rules:
        for self, read in set(re.findall(r"\b(self|oldSelf|r|o)((?:\.[a-zA-Z]+)+)\b(?!\()", rule.cel)):
            path, asked = "spec.roles[]" if self in {"r", "o"} else rule.at, self
            for name in read.strip(".").split("."):
                parent, path, asked = found[path], f"{path}.{name}", f"{asked}.{name}"
                is_there = name in parent.get("required", []) or "default" in found[path]
                assert is_there or f"has({asked})" in rule.cel, f"{rule.name} reads {path}"


def test_a_status_has_no_defaults_so_that_the_operator_reads_back_what_it_wrote(schema):
    assert [path for path, node in nodes(schema) if path.startswith("status") and "default" in node] == []


@pytest.mark.parametrize(
    "text", ["fieldPath: .metadata", "preserve-unknown", "$ref", "additionalProperties: false"]
)
def test_what_servers_refuse_is_absent(committed, text):
    assert text not in committed.read_text()


def test_every_list_and_text_of_a_spec_is_bounded(schema):
    open_ended = [
        path for path, node in nodes(schema)
        if path.startswith("spec.")
        and ((node.get("type") == "array" and "maxItems" not in node)
             or (node.get("type") == "string" and "maxLength" not in node and "enum" not in node)
             or ("additionalProperties" in node and "maxProperties" not in node))
    ]  # fmt: skip
    assert open_ended == []


def test_no_default_holds_an_empty_list(schema):
    """An object would be stored with it where the types say that it is absent."""

    def lists(value):
        if isinstance(value, dict):
            return any(lists(inner) for inner in value.values())
        return value == []

    assert [path for path, node in nodes(schema) if "default" in node and lists(node["default"])] == []
