"""hack/install-torch, with an index of its own and in an environment of its own: a tiny wheel that says it is PyTorch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "hack" / "install-torch"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter with pip and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    pip = metadata.distribution("pip")  # copied: ensurepip takes seconds
    for entry in ("pip", f"pip-{pip.version}.dist-info"):
        shutil.copytree(str(pip.locate_file(entry)), packages / entry)
    return folder / "bin" / "python"


class Checkout:
    """A pyproject.toml with a pin, the script, and the only index that has the wheel."""

    def __init__(self, folder, python):
        self._folder = folder
        self._python = python
        (folder / "hack").mkdir()
        (folder / "nothing").mkdir()
        shutil.copy(SCRIPT, folder / "hack")

    @property
    def index(self):
        return f"file://{self._folder}/index"

    def pin(self, version):
        (self._folder / "pyproject.toml").write_text(
            f'[project]\nname = "x"\n[project.optional-dependencies]\ncpu = ["safetensors>=0.7", "torch=={version}"]\n'
        )

    def publish(self, version, *, num_bytes):
        """A wheel with a payload of `num_bytes`, not compressed."""
        folder = self._folder / "index" / "torch"
        folder.mkdir(parents=True, exist_ok=True)
        name, info = f"torch-{version}-py3-none-any.whl", f"torch-{version}.dist-info"
        with zipfile.ZipFile(folder / name, "w") as wheel:
            wheel.writestr("torch/payload", b"\0" * num_bytes)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        links = "".join(f'<a href="{path.name}">{path.name}</a>\n' for path in folder.glob("*.whl"))
        (folder / "index.html").write_text(f"<html><body>{links}</body></html>")

    def install(self, **environment):
        """Without TORCH_INDEX_URL pip finds nothing at all."""
        default = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._folder),
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_INDEX_URL": f"file://{self._folder}/nothing",
        }
        return subprocess.run(
            [self._python, self._folder / "hack/install-torch"],
            check=False,
            capture_output=True,
            text=True,
            env=default | environment,
        )

    def installed(self):
        code = "from importlib import metadata; print(metadata.version('torch'))"
        done = subprocess.run([self._python, "-c", code], check=False, capture_output=True, text=True)
        return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, python):
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torch"], check=True)
    return Checkout(tmp_path, python)


def test_the_size_is_said_before_it_is_installed_from_the_index_that_is_named(checkout):
    """The size comes from the dry run, the wheel from the install: both are told the index."""
    checkout.publish("9.9.1", num_bytes=2_000_000)
    checkout.pin("9.9.1")
    done = checkout.install(TORCH_INDEX_URL=checkout.index)
    assert done.returncode == 0, done.stderr
    assert "PyTorch 9.9.1: 1 files, 2 MB" in done.stdout
    assert "TORCH_INDEX_URL" not in done.stdout
    assert checkout.installed() == "9.9.1"


def test_what_is_installed_is_not_asked_for_again(checkout):
    """A local build of the version counts; the default index here has nothing, so asking would fail."""
    checkout.publish("9.9.1+cpu", num_bytes=1)
    checkout.pin("9.9.1")
    assert checkout.install(TORCH_INDEX_URL=checkout.index).returncode == 0
    assert checkout.installed() == "9.9.1+cpu"
    done = checkout.install()
    assert (done.returncode, done.stdout) == (0, "PyTorch 9.9.1 is installed\n")


def test_another_pin_replaces_what_is_installed(checkout):
    checkout.publish("9.9.1", num_bytes=1)
    checkout.publish("9.9.2", num_bytes=3_000_000)
    checkout.pin("9.9.1")
    assert checkout.install(TORCH_INDEX_URL=checkout.index).returncode == 0
    checkout.pin("9.9.2")
    done = checkout.install(TORCH_INDEX_URL=checkout.index)
    assert "PyTorch 9.9.2: 1 files, 3 MB" in done.stdout
    assert checkout.installed() == "9.9.2"


def test_an_index_without_it_is_a_failure_that_says_what_to_expect_and_what_to_set(checkout):
    checkout.pin("9.9.3")
    done = checkout.install()
    assert done.returncode != 0
    assert "PyTorch 9.9.3: size unknown, expect about 190 MB" in done.stdout
    assert "set TORCH_INDEX_URL" in done.stdout
    assert "torch==9.9.3" in done.stderr
    assert checkout.installed() == ""
