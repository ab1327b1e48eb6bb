"""The image for groups over several pods: the worker, Debian's Open MPI and OpenSSH, and the double of TensorRT-LLM.

What `worker/Dockerfile` makes on NVIDIA's release image, made of this machine's files by the means of `hack/images`: binaries
of installed Debian packages, what they are linked with, a user with a shell.
"""

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from doubles.trtllm import SITE
from hortator.worker.engines.torch_moe.assets import builtin_tokenizer_path

ROOT = Path(__file__).resolve().parents[2]
NAME = "docker.io/hortator-lab/launch:1"
MODEL = Path("opt/models/double")
PACKAGES = ("openmpi-common", "libopenmpi3", "libpmix2")
"""Laid whole: plug-ins that are loaded by name, and the texts of errors."""
PROGRAMS = ("mpirun", "orted", "ssh", "ssh-keygen", "/usr/sbin/sshd", "bash")
NOT_NEEDED = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/lintian/")


def write_launch_image(folder: Path) -> Path:
    """The image as a tar file."""
    images = _hack_images()
    root = folder / "launch"
    images.lay_skeleton(root)
    images.lay_python(root)
    images.lay_distributions(root, images.closure(images.project_requirements(("worker", "cli"))))
    for package in PACKAGES:
        _lay_package(root, package)
    for program in PROGRAMS:
        source = Path(shutil.which(program) or program)
        images.copy(source.resolve(), root / "usr/bin" / source.name)
    images.lay_libraries(root, root)
    _lay_own(root)
    images.lay_hortator(root)
    output = folder / "launch.tar"
    images.write_image(NAME, [images.pack(root, folder / "launch.layer")], output)
    return output


def _lay_own(root: Path) -> None:
    (root / "usr/sbin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/sshd").rename(root / "usr/sbin/sshd")
    (root / "bin").mkdir(exist_ok=True)
    for name in ("sh", "bash"):
        (root / "bin" / name).symlink_to("/usr/bin/bash")
    passwd = root / "etc/passwd"
    passwd.write_text(passwd.read_text().replace("/home/hortator:/sbin/nologin", "/home/hortator:/bin/bash"))
    site = next((root / "usr/local/lib").glob("python*/site-packages"))
    shutil.copytree(
        SITE / "tensorrt_llm", site / "tensorrt_llm", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy2(SITE / "bin/trtllm-llmapi-launch", root / "usr/local/bin")
    (root / MODEL).mkdir(parents=True)
    (root / MODEL / "config.json").write_text(
        '{"vocab_size": 2048, "max_position_embeddings": 1024, "eos_token_id": 1}'
    )
    shutil.copy2(builtin_tokenizer_path(), root / MODEL)


def _lay_package(root: Path, package: str) -> None:
    listing = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        source = Path(line)
        if line.startswith(NOT_NEEDED) or source.is_dir() or not source.exists():
            continue
        target = root / line.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def _hack_images():
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("hack_images", str(ROOT / "hack/images"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = sys.modules[loader.name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
