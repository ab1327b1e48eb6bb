"""hack/audit: not to know is never said to be clean; and the linter's security rules are on, each exception explained."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ("api", "runtime", "scheduler", "gateway", "worker", "sim", "cli", "client", "operator", "hack")


@pytest.fixture
def audit(monkeypatch):
    loader = importlib.machinery.SourceFileLoader("hack_audit", str(ROOT / "hack" / "audit"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    monkeypatch.setitem(sys.modules, loader.name, module)
    loader.exec_module(module)
    return module


def _output(*dependencies):
    return json.dumps({"dependencies": dependencies, "fixes": []})


CLEAN = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "Dependency not found"}
VULNERABLE = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}


def _told(audit, *findings, **environment):
    return audit.told(list(findings), environment=environment)


def test_a_lock_of_which_all_is_known_is_clean(audit):
    lines, code = _told(audit, audit.read("a.lock", _output(CLEAN), ""), HORTATOR_AUDIT="require")
    assert (lines, code) == (["a.lock: 1 packages checked", "no known vulnerability"], 0)


def test_a_vulnerability_fails_and_says_what_mends_it(audit):
    lines, code = _told(audit, audit.read("a.lock", _output(CLEAN, VULNERABLE), ""))
    assert code == 1
    assert lines[0] == "a.lock: c 2: PYSEC-1 (mended in: 3)"


@pytest.mark.parametrize(
    ("output", "errors", "why"),
    [
        (_output(CLEAN, UNKNOWN), "", "1 of 2 packages: Dependency not found"),
        (_output(UNKNOWN), "No known vulnerabilities found", "1 of 1 packages: Dependency not found"),
        ("", "trace\nERROR: no connection\n", "pip-audit: ERROR: no connection"),
        (_output(), "", "it has no packages"),
        ("[]", "", "pip-audit: it said nothing"),
    ],
)
def test_what_is_not_known_is_not_said_to_be_clean(audit, output, errors, why):
    finding = audit.read("a.lock", output, errors)
    lines, code = _told(audit, finding)
    assert f"a.lock: NOT CHECKED: {why}" in lines
    assert lines[-1].startswith("NOT CHECKED")
    assert code == 0
    assert _told(audit, finding, HORTATOR_AUDIT="require")[1] == 1


def test_nothing_to_look_at_is_not_known_either(audit):
    assert _told(audit, HORTATOR_AUDIT="require")[1] == 1


def test_the_linters_security_rules_are_on():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert lint["select"] == ["ALL"]
    assert [rule for rule in lint["ignore"] if re.fullmatch(r"S\d*", rule)] == ["S311"]
    shipped = {folder: rules for folder, rules in lint["per-file-ignores"].items() if folder[:-3] in SHIPPED}
    assert {rule for rules in shipped.values() for rule in rules if re.fullmatch(r"S\d+", rule)} == {
        "S603",
        "S607",
    }


def test_each_exception_from_a_security_rule_says_why():
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in SHIPPED
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and (path.suffix == ".py" or folder == "hack")
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if re.search(r"# noqa: (?:[A-Z]+\d+, )*S\d", line)
    ]
    assert len(lines) > 20
    assert [line for line in lines if not re.search(r"# noqa: [A-Z0-9, ]+ (?:#|-) \w", line)] == []
