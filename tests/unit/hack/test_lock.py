"""hack/lock --verify: what is wrong with a lock file is said, one line each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCKS = ("dev", "runtime", "checkov", "audit", "fuzz")


@pytest.fixture
def checkout(tmp_path):
    """What the verification reads."""
    for name in ("pyproject.toml", "hack/lock", *(f"requirements/{lock}.lock" for lock in LOCKS)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def _verify(checkout):
    command = [sys.executable, checkout / "hack/lock", "--verify"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _edit(path, change):
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def _entries(text):
    """Logical lines of a lock file: a pin with its hashes."""
    return text.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("name", ["dev.lock", "runtime.lock"])
def test_every_pin_of_the_committed_locks_has_a_hash(name):
    pins = [
        line
        for line in _entries((ROOT / "requirements" / name).read_text())
        if line.strip() and not line.startswith("#")
    ]
    assert len(pins) > 40
    assert not [line for line in pins if "==" not in line or " --hash=sha256:" not in line]


def test_the_committed_locks_fit_pyproject(checkout):
    done = _verify(checkout)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["dev.lock", "runtime.lock"])
def test_a_pin_without_a_hash_is_named(checkout, name):
    def without_its_hashes(text):
        lines = _entries(text)
        at = next(index for index, line in enumerate(lines) if line.startswith("pyyaml=="))
        return "\n".join([*lines[:at], lines[at].split()[0], *lines[at + 1 :]]) + "\n"

    _edit(checkout / "requirements" / name, without_its_hashes)
    done = _verify(checkout)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"requirements/{name}: pyyaml==")
    assert line.endswith("has no hash (run: make lock)")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            lambda text: text.replace("pyyaml==", "pyyamlx=="), "pyyaml>=6.0.2 has no pin", id="no pin"
        ),
        pytest.param(
            lambda text: text.replace("pydantic==2.", "pydantic==1."),
            "is pinned at 1.",
            id="a version too old",
        ),
        pytest.param(
            lambda text: text + "torch==2.13.0 --hash=sha256:0\n",
            "torch is pinned",
            id="what is never locked",
        ),
        pytest.param(
            lambda text: "--index-url https://example.org\n" + text,
            "names --index-url",
            id="an index of a machine",
        ),
    ],
)
def test_a_lock_that_does_not_fit_is_refused(checkout, change, problem):
    _edit(checkout / "requirements/dev.lock", change)
    done = _verify(checkout)
    assert done.returncode == 1
    assert f"{problem}" in done.stdout
    assert "run: make lock" in done.stdout
