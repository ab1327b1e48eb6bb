"""The committed CustomResourceDefinition is what hack/generate-crds writes, and keeps to what servers demand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hortator.api.rules import RULES
from hortator.api.transitions import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "manifests/crd.yaml"


def schema():
    (version,) = yaml.safe_load(COMMITTED.read_text())["spec"]["versions"]
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


def test_the_crd_is_up_to_date(tmp_path):
    fresh = tmp_path / "crd.yaml"
    subprocess.run([sys.executable, ROOT / "hack/generate-crds", fresh], check=True, capture_output=True)
    assert fresh.read_text() == COMMITTED.read_text(), "run: make generate"


def test_the_crd_fits_into_an_annotation():
    assert COMMITTED.stat().st_size <= 200 * 1024


def test_every_field_says_what_it_is():
    silent = [
        path for path, node in nodes(schema())
        if path.startswith(("spec.", "status.")) and not path.endswith(("[]", "{}")) and not node.get("description")
    ]  # fmt: skip
    assert silent == []


def test_every_rule_is_in_the_crd_once_with_its_message():
    written = [
        (rule["rule"], rule["message"])
        for _, node in nodes(schema())
        for rule in node.get("x-kubernetes-validations", [])
        if rule["rule"] in {known.cel for known in (*RULES, *TRANSITIONS)}
    ]
    assert sorted(written) == sorted((rule.cel, rule.message) for rule in (*RULES, *TRANSITIONS))


def test_what_a_rule_reads_has_a_default_or_is_required_or_is_asked_for_with_has():
    found = dict(nodes(schema()))
    for rule in (*RULES, *TRANSITIONS):
        for self, read in set(re.findall(r"\b(self|oldSelf|r|o)((?:\.[a-zA-Z]+)+)\b(?!\()", rule.cel)):
            path, asked = "spec.roles[]" if self in {"r", "o"} else rule.at, self
            for name in read.strip(".").split("."):
                parent, path, asked = found[path], f"{path}.{name}", f"{asked}.{name}"
                is_there = name in parent.get("required", []) or "default" in found[path]
                assert is_there or f"has({asked})" in rule.cel, f"{rule.name} reads {path}"


def test_a_status_has_no_defaults_so_that_the_operator_reads_back_what_it_wrote():
    assert [path for path, node in nodes(schema()) if path.startswith("status") and "default" in node] == []


@pytest.mark.parametrize(
    "text", ["fieldPath: .metadata", "preserve-unknown", "$ref", "additionalProperties: false"]
)
def test_what_servers_refuse_is_absent(text):
    assert text not in COMMITTED.read_text()


def test_every_list_and_text_of_a_spec_is_bounded():
    open_ended = [
        path for path, node in nodes(schema())
        if path.startswith("spec.")
        and ((node.get("type") == "array" and "maxItems" not in node)
             or (node.get("type") == "string" and "maxLength" not in node and "enum" not in node)
             or ("additionalProperties" in node and "maxProperties" not in node))
    ]  # fmt: skip
    assert open_ended == []


def test_no_default_holds_an_empty_list():
    """An object would be stored with it where the types say that it is absent."""

    def lists(value):
        if isinstance(value, dict):
            return any(lists(inner) for inner in value.values())
        return value == []

    assert [path for path, node in nodes(schema()) if "default" in node and lists(node["default"])] == []
