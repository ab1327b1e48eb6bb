"""hack/images: what goes into an image, and how the archive is made."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tarfile
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SCRIPT = Path(__file__).resolve().parents[3] / "hack" / "images"


@pytest.fixture(scope="module")
def images():
    loader = SourceFileLoader("hack_images", str(SCRIPT))
    spec = importlib.util.spec_from_loader("hack_images", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["hack_images"] = module
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def test_an_image_has_what_its_requirements_need_in_turn_and_no_tools(images):
    found = images.closure(images.project_requirements(()))
    assert {"grpcio", "pydantic", "pydantic-core", "typing-extensions"} <= found
    assert not found & {"pytest", "ruff", "torch", "kubernetes"}
    assert "kubernetes" in images.closure(images.project_requirements(("operator",)))


def test_what_is_not_installed_is_named_with_the_remedy(images):
    with pytest.raises(images.ImageError, match=r"no-such-distribution is not installed \(make setup\)"):
        images.closure([Requirement("no-such-distribution")])


def test_an_archive_holds_its_layers_by_their_digests_and_runs_as_nobody_in_particular(images, tmp_path):
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_text("#!")
    (root / "bin/tool").chmod(0o700)
    (root / "secretive").write_text("x")
    (root / "secretive").chmod(0o600)
    layer = images.pack(root, tmp_path / "layer.tar")
    output = tmp_path / "image.tar"
    images.write_image("docker.io/library/x:1", [layer, layer], output)
    with tarfile.open(output) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))
        config = json.load(archive.extractfile(manifest["Config"]))
        content = archive.extractfile(manifest["Layers"][0]).read()
    assert manifest["RepoTags"] == ["docker.io/library/x:1"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(content).hexdigest()}"] * 2
    assert config["config"]["User"] == "10001:10001"
    with tarfile.open(tmp_path / "layer.tar") as archive:
        modes = {member.name: (member.mode & 0o777, member.uid) for member in archive if member.isfile()}
    assert modes == {"bin/tool": (0o755, 0), "secretive": (0o644, 0)}


@pytest.mark.parametrize(
    ("path", "is_left_out"),
    [
        ("torch/include/ATen/ATen.h", True),
        ("torch/bin/protoc", True),
        ("torch/bin/torch_shm_manager", False),
        ("torch/lib/libtorch_cpu.so", False),
        ("numpy/tests/test_x.py", True),
        ("grpc/_channel.py", False),
        ("x-1.dist-info/RECORD", True),
        ("x-1.dist-info/METADATA", False),
    ],
)
def test_what_nobody_uses_inside_an_image_is_left_out(images, path, is_left_out):
    assert bool(images.NOT_IN_PACKAGES.search(path)) is is_left_out
