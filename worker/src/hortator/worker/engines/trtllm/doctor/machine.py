"""The machine under the engine: GPUs, driver, shared memory, network adapters, NCCL, MPI.

Reads files and asks programs that are there; changes nothing. What there is no GPU for is skipped.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hortator.runtime.checks import Check
from hortator.worker.engines.trtllm.doctor.fabric import fabric
from hortator.worker.launch.keys import FOR_LEADER, FOR_MEMBER, program
from hortator.worker.launch.script import NOT_FOR_RANKS

ASK_TIMEOUT_S = 20.0
MIN_DRIVER = 575
"""What TensorRT-LLM's own guides of 1.2 ask for."""
MPI_LINE = "4"
"""Options of mpirun have other names in Open MPI 5."""
SHM_PER_GPU = 1 << 30
INFINIBAND = Path("/sys/class/infiniband")
NETWORK = Path("/sys/class/net")
SHM = Path("/dev/shm")  # noqa: S108  # its size is looked at, nothing is put there
NO_GPU = "no GPU here"
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """As nvidia-smi tells it."""

    name: str
    memory_mib: int
    driver: str


def gpus_of(text: str) -> list[Gpu]:
    """From the lines that GPU_QUERY prints; lines of another form are left out."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[1].isdigit():
            found.append(Gpu(name=parts[0], memory_mib=int(parts[1]), driver=parts[2]))
    return found


def examine(*, num_gpus: int | None) -> Iterator[Check]:
    """Every check; `num_gpus`: how many the engine wants, None: unknown."""
    gpus = gpus_of(_ask(*GPU_QUERY))
    yield from gpu_checks(gpus, num_gpus=num_gpus)
    yield shared_memory(_shm_bytes(), num_gpus=num_gpus or len(gpus))
    ports = _ports(INFINIBAND)
    yield network(ports, has_gpus=bool(gpus), kinds=_kinds(INFINIBAND))
    yield fabric(
        os.environ,
        devices={port.partition("/")[0] for port in ports},
        interfaces={folder.name for folder in NETWORK.glob("*")},
    )
    yield _nccl(has_gpus=bool(gpus))
    yield mpi(_ask("mpirun", "--version"), _first_host(), missing=_missing_programs(), has_gpus=bool(gpus))
    yield Check(name="hortator", verdict="ok", found=_own_version())


def gpu_checks(gpus: list[Gpu], *, num_gpus: int | None) -> Iterator[Check]:
    """How many, which, and whether the driver is new enough."""
    if not gpus:
        yield Check(
            name="GPUs",
            verdict="skipped",
            found=f"{NO_GPU}: nvidia-smi is missing or finds none",
            fix="run this in a worker pod on a GPU node",
        )
        return
    kinds = sorted({f"{gpu.name}, {gpu.memory_mib / 1024:.0f} GiB" for gpu in gpus})
    enough = num_gpus is None or len(gpus) >= num_gpus
    yield Check(
        name="GPUs",
        verdict="ok" if enough and len(kinds) == 1 else "failed",
        found=f"{len(gpus)} x {' and '.join(kinds)}" + ("" if enough else f", the engine wants {num_gpus}"),
        fix=""
        if enough and len(kinds) == 1
        else "ask for gpusPerNode GPUs of one kind (resources of the pod, node selector)",
    )
    driver = gpus[0].driver
    major = driver.split(".", maxsplit=1)[0]
    is_new = major.isdigit() and int(major) >= MIN_DRIVER
    yield Check(
        name="driver",
        verdict="ok" if is_new else "failed",
        found=driver,
        fix="" if is_new else f"install driver {MIN_DRIVER} or newer on the node",
    )


def shared_memory(num_bytes: int | None, *, num_gpus: int) -> Check:
    """Through it the ranks of a node exchange."""
    if num_bytes is None:
        return Check(name="shared memory", verdict="skipped", found=f"{SHM} is not there")
    wanted = max(1, num_gpus) * SHM_PER_GPU
    enough = num_bytes >= wanted
    return Check(
        name="shared memory",
        verdict="ok" if enough else "failed",
        found=f"{num_bytes / (1 << 30):.1f} GiB at {SHM}",
        fix="" if enough else f"set shmSize of the role to {wanted >> 30}Gi or more (64Gi is usual)",
    )


def network(ports: dict[str, str], *, has_gpus: bool, kinds: Sequence[str] = ()) -> Check:
    """InfiniBand or RoCE adapters, of what kinds, and whether their ports are up."""
    if not ports:
        return Check(
            name="RDMA",
            verdict="warning" if has_gpus else "skipped",
            found="no InfiniBand or RoCE adapter is visible" if has_gpus else NO_GPU,
            fix="groups over several nodes and KV hand-over need one: mount the RDMA devices into the pod"
            if has_gpus
            else "",
        )
    down = sorted(name for name, state in ports.items() if "ACTIVE" not in state)
    return Check(
        name="RDMA",
        verdict="warning" if down else "ok",
        found=f"{len(ports) - len(down)} of {len(ports)} ports active"
        + (f": {' and '.join(kinds)}" if kinds else "")
        + (f", not {', '.join(down)}" if down else ""),
        fix="look at the cables and the subnet manager (ibstat)" if down else "",
    )


def mpi(version: str, host: str, *, missing: Sequence[str], has_gpus: bool) -> Check:
    """What ranks in several pods are started with: mpirun, and the programs around it.

    `version` is what it prints of itself, `host` what a program printed under it.
    """
    name, found = "MPI", re.search(r"\(Open MPI\) (\d+)[.\d]*\S*", version)
    if not has_gpus and found is None:
        return Check(name=name, verdict="skipped", found=NO_GPU)
    needed = "groups over several pods need it: run the image hortator-worker-trtllm"
    if missing:
        return Check(name=name, verdict="warning", found=f"missing: {', '.join(missing)}", fix=needed)
    if found is None or found[1] != MPI_LINE:
        said = "no Open MPI" if found is None else found[0].removeprefix("(Open MPI) ")
        return Check(name=name, verdict="failed", found=said, fix=f"Open MPI {MPI_LINE} is needed: {needed}")
    if not host:
        return Check(
            name=name,
            verdict="failed",
            found="mpirun does not run a program here",
            fix="mpirun -np 1 true says why: a full /tmp, a host name that is not known, no /dev/shm",
        )
    return Check(name=name, verdict="ok", found=f"Open MPI {found[0].removeprefix('(Open MPI) ')}")


def _first_host() -> str:
    """What the host under mpirun calls itself; not every image has a program `hostname`."""
    options = ["--bind-to", "none", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    ask = (sys.executable, "-c", "import socket; print(socket.gethostname())")
    return _ask("mpirun", *options, "-np", "1", *ask).strip()


def _missing_programs() -> list[str]:
    return [name for name in dict.fromkeys((*FOR_LEADER, *FOR_MEMBER)) if program(name) is None]


def _own_version() -> str:
    try:
        return importlib.metadata.version("hortator")
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def _nccl(*, has_gpus: bool) -> Check:
    if not has_gpus:
        return Check(name="NCCL", verdict="skipped", found=NO_GPU)
    try:
        nccl = importlib.import_module("torch.cuda.nccl")
        version = ".".join(str(part) for part in nccl.version())
    except Exception as error:  # noqa: BLE001  # whatever is broken there is the finding
        return Check(
            name="NCCL",
            verdict="failed",
            found=f"{type(error).__name__}: {error}".splitlines()[0],
            fix="use the release image: its torch brings NCCL",
        )
    return Check(name="NCCL", verdict="ok", found=version)


def _ask(*command: str) -> str:
    """What a program prints; empty where it is missing, fails or hangs."""
    path = shutil.which(command[0])
    if path is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  # a program of the driver, constant arguments
            [path, *command[1:]],
            capture_output=True,
            text=True,
            timeout=ASK_TIMEOUT_S,
            check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_RANKS)},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _shm_bytes() -> int | None:
    try:
        found = os.statvfs(SHM)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def _ports(folder: Path) -> dict[str, str]:
    """State by device and port, as in mlx5_0/1: '4: ACTIVE'."""
    return {
        f"{state.parents[2].name}/{state.parent.name}": state.read_text().strip()
        for state in sorted(folder.glob("*/ports/*/state"))
    }


def _kinds(folder: Path) -> list[str]:
    """Link layers and rates of the ports that are up, as in InfiniBand 400 Gb/sec (4X NDR)."""
    found = set()
    for state in folder.glob("*/ports/*/state"):
        if "ACTIVE" in state.read_text():
            words = [(state.parent / name).read_text().strip() for name in ("link_layer", "rate")]
            found.add(" ".join(words))
    return sorted(found)
