"""hack/check: what it finds on a fresh clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def clone(tmp_path):
    """The protos and what checks them, in a repository of their own."""
    (tmp_path / "hack").mkdir()
    for name in ("check", "renew-proto-baseline"):
        shutil.copy(ROOT / "hack" / name, tmp_path / "hack")
    shutil.copytree(ROOT / "proto", tmp_path / "proto", ignore=shutil.ignore_patterns("gen"))
    return tmp_path


def _commit(folder):
    """Everything in `folder` becomes its last commit, as on a fresh clone."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for arguments in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "-m", "all")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def _check(folder):
    command = [sys.executable, folder / "hack" / "check", "proto-breaking"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _remove_a_field(folder):
    proto = folder / "proto/hortator/rpc/worker/v1/worker.proto"
    text = proto.read_text()
    assert "  string gateway_id = 1;\n" in text
    proto.write_text(text.replace("  string gateway_id = 1;\n", "", 1))


def _add_a_field(folder, name="surplus"):
    proto = folder / "proto/hortator/rpc/worker/v1/worker.proto"
    text = proto.read_text()
    old = "message SubmitHello {\n"
    assert old in text
    proto.write_text(text.replace(old, f"{old}  string {name} = 900;\n", 1))


def test_the_committed_protos_pass(clone):
    _commit(clone)
    done = _check(clone)
    assert done.returncode == 0, done.stdout
    assert "against proto/baseline.json\nagainst HEAD\n" in done.stdout


def test_a_removed_field_fails_though_it_is_committed(clone):
    _remove_a_field(clone)
    _commit(clone)
    done = _check(clone)
    assert done.returncode == 1
    assert '"gateway_id" on message "SubmitHello" was deleted' in done.stdout
    assert "check proto-breaking: FAILED" in done.stdout


def test_a_removed_field_that_is_newer_than_the_baseline_fails_before_it_is_committed(clone):
    _add_a_field(clone)
    _commit(clone)
    assert _check(clone).returncode == 0
    shutil.copy(ROOT / "proto/hortator/rpc/worker/v1/worker.proto", clone / "proto/hortator/rpc/worker/v1")
    assert _check(clone).returncode == 1


def _renew(folder, **environment):
    return subprocess.run(
        [folder / "hack" / "renew-proto-baseline"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHON": sys.executable, **environment},
    )


def test_the_baseline_is_renewed_for_what_is_new_and_keeps_it_from_then_on(clone):
    _add_a_field(clone)
    assert _renew(clone).returncode == 0
    shutil.copy(ROOT / "proto/hortator/rpc/worker/v1/worker.proto", clone / "proto/hortator/rpc/worker/v1")
    done = _check(clone)
    assert done.returncode == 1
    assert '"surplus" on message "SubmitHello" was deleted' in done.stdout


def test_the_baseline_is_not_renewed_over_a_break_unless_that_is_wanted(clone):
    before = (clone / "proto/baseline.json").read_text()
    _remove_a_field(clone)
    assert _renew(clone).returncode != 0
    assert (clone / "proto/baseline.json").read_text() == before
    assert _renew(clone, ON_PURPOSE="1").returncode == 0
    assert _check(clone).returncode == 0


def test_the_committed_baseline_has_everything_that_the_protos_have(clone):
    """Else what was added since may be taken away again unnoticed."""
    before = (clone / "proto/baseline.json").read_text()
    assert _renew(clone).returncode == 0
    assert (clone / "proto/baseline.json").read_text() == before, "run: hack/renew-proto-baseline"
