"""Makefile: what is made again when something changes (asked with `make -n`, which runs nothing)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STAMPS = (".stamp-lock", ".stamp-package", ".stamp-torch", ".stamp-helm", ".stamp-promtool")


@pytest.fixture
def checkout(tmp_path):
    """A checkout that is set up: every stamp is newer than what it depends on."""
    for name in (
        "Makefile",
        "pyproject.toml",
        "hack/install-helm",
        "hack/install-promtool",
        "hack/install-torch",
        "hack/find-python",
        "requirements/dev.lock",
        "requirements/helm.lock",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1000, 1000))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for time, name in enumerate(("bin/python", *STAMPS), start=2000):
        (tmp_path / ".venv" / name).touch()
        os.utime(tmp_path / ".venv" / name, (time, time))
    return tmp_path


def _would_run(checkout):
    done = subprocess.run(
        ["make", "--dry-run", "setup"], cwd=checkout, check=True, capture_output=True, text=True
    )
    return done.stdout


def _has(what):
    return {
        "lock": "--require-hashes" in what,
        "package": "--no-deps" in what,
        "torch": "hack/install-torch" in what,
        "helm": "hack/install-helm" in what,
        "promtool": "hack/install-promtool" in what,
    }


def test_a_checkout_that_is_set_up_needs_nothing(checkout):
    assert _has(_would_run(checkout)) == dict.fromkeys(
        ["lock", "package", "torch", "helm", "promtool"], False
    )


@pytest.mark.parametrize(
    ("changed", "made"),
    [
        pytest.param("pyproject.toml", {"package", "torch"}, id="the pin of PyTorch is in pyproject.toml"),
        pytest.param("hack/install-torch", {"torch"}, id="how it is installed"),
        pytest.param("requirements/helm.lock", {"helm"}, id="another helm"),
        pytest.param("hack/install-promtool", {"promtool"}, id="another promtool"),
        pytest.param("requirements/dev.lock", {"lock", "package", "torch"}, id="other pins"),
    ],
)
def test_what_changes_is_installed_again(checkout, changed, made):
    os.utime(checkout / changed, (3000, 3000))
    would = _has(_would_run(checkout))
    assert {name for name, is_made in would.items() if is_made} == made
