"""hack/fuzz: what is read of a run, and what it says of an input that fails."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CALM = """\
#2\tINITED cov: 120 ft: 125 corp: 2/30b exec/s: 0 rss: 100Mb
#9\tNEW    cov: 634 ft: 946 corp: 23/2917b lim: 214 exec/s: 24 rss: 149Mb L: 102/196
Done 691 runs in 31 second(s)
stat::number_of_executed_units: 691
"""
RAISED = """\
#7\tNEW    cov: 12 ft: 13 corp: 3/9b
 === Uncaught Python exception: ===
ValueError: Value out of range: 4294967296
Traceback (most recent call last):
==7== ERROR: libFuzzer: fuzz target exited
artifact_prefix='build/fuzz/a/'; Test unit written to {file}
"""


@pytest.fixture
def fuzz(monkeypatch):
    loader = importlib.machinery.SourceFileLoader("hack_fuzz", str(ROOT / "hack" / "fuzz"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    monkeypatch.setitem(sys.modules, loader.name, module)
    loader.exec_module(module)
    return module


def test_a_run_that_found_nothing_is_told_in_numbers(fuzz):
    assert (
        str(fuzz.read("a", CALM, exit_code=0)) == "a: ok (691 executions, 634 edges covered, 23 inputs kept)"
    )


def test_what_was_raised_is_said_with_how_it_becomes_a_test(fuzz, tmp_path):
    file = tmp_path / "crash-1"
    file.write_bytes(b"\x00s")
    outcome = fuzz.read("a", RAISED.format(file=file), exit_code=77)
    assert str(outcome).startswith("a: FAILED: ValueError: Value out of range: 4294967296 (7 executions")
    assert outcome.file == file
    assert "\"what went wrong\": bytes.fromhex('0073')" in fuzz._how_to_make_it_a_test(outcome)


def test_a_run_that_ends_without_a_word_has_failed(fuzz):
    assert fuzz.read("a", "", exit_code=1).failure == "exit code 1, see build/fuzz/a/log"


def _run(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "hack/fuzz", *arguments], check=False, capture_output=True, text=True
    )


def test_targets_are_listed_and_an_unknown_one_is_refused():
    assert {"gateway-streams", "worker-streams", "trace"} <= set(_run("--list").stdout.split())
    refused = _run("nobody")
    assert refused.returncode == 2
    assert refused.stderr.startswith("unknown target nobody (allowed: ")
