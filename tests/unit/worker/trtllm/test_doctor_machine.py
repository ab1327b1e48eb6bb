"""What the doctor makes of a machine."""

import pytest

from hortator.worker.engines.trtllm.doctor.machine import (
    Gpu,
    gpu_checks,
    gpus_of,
    mpi,
    network,
    shared_memory,
)

H800 = Gpu(name="NVIDIA H800", memory_mib=81559, driver="575.57.08")
GIB = 1 << 30


def test_gpus_are_read_from_what_nvidia_smi_prints():
    text = "NVIDIA H800, 81559, 575.57.08\nNVIDIA H800, 81559, 575.57.08\nFailed to initialize NVML\n"
    assert gpus_of(text) == [H800, H800]
    assert gpus_of("") == []


def verdicts(gpus, **options):
    return {check.name: check for check in gpu_checks(gpus, **options)}


def test_eight_gpus_of_one_kind_under_a_new_driver_are_fine():
    checks = verdicts([H800] * 8, num_gpus=8)
    assert {check.verdict for check in checks.values()} == {"ok"}
    assert checks["GPUs"].found == "8 x NVIDIA H800, 80 GiB"


def test_no_gpu_is_skipped_with_where_to_go():
    checks = verdicts([], num_gpus=8)
    assert list(checks) == ["GPUs"]
    assert checks["GPUs"].verdict == "skipped"
    assert checks["GPUs"].fix == "run this in a worker pod on a GPU node"


@pytest.mark.parametrize(
    ("gpus", "found"),
    [
        ([H800] * 4, "4 x NVIDIA H800, 80 GiB, the engine wants 8"),
        (
            [H800] * 7 + [Gpu(name="NVIDIA L4", memory_mib=23034, driver="575.57.08")],
            "8 x NVIDIA H800, 80 GiB and NVIDIA L4, 22 GiB",
        ),
    ],
)
def test_too_few_or_mixed_gpus_fail(gpus, found):
    check = verdicts(gpus, num_gpus=8)["GPUs"]
    assert check.verdict == "failed"
    assert check.found == found


def test_an_old_driver_fails_with_the_least_that_will_do():
    old = Gpu(name="NVIDIA H800", memory_mib=81559, driver="570.86.15")
    check = verdicts([old], num_gpus=1)["driver"]
    assert (check.verdict, check.found) == ("failed", "570.86.15")
    assert check.fix == "install driver 575 or newer on the node"


def test_shared_memory_is_a_gibibyte_per_gpu():
    assert shared_memory(8 * GIB, num_gpus=8).verdict == "ok"
    small = shared_memory(64 << 20, num_gpus=8)
    assert small.verdict == "failed"
    assert small.fix == "set shmSize of the role to 8Gi or more (64Gi is usual)"
    assert shared_memory(None, num_gpus=8).verdict == "skipped"


def test_ports_that_are_down_are_named():
    up = {"mlx5_0/1": "4: ACTIVE", "mlx5_1/1": "1: DOWN"}
    check = network(up, has_gpus=True)
    assert (check.verdict, check.found) == ("warning", "1 of 2 ports active, not mlx5_1/1")
    assert network({"mlx5_0/1": "4: ACTIVE"}, has_gpus=True).verdict == "ok"
    fast = network({"mlx5_0/1": "4: ACTIVE"}, has_gpus=True, kinds=["Ethernet 400 Gb/sec (4X NDR)"])
    assert fast.found == "1 of 1 ports active: Ethernet 400 Gb/sec (4X NDR)"
    assert network({}, has_gpus=True).verdict == "warning"
    assert network({}, has_gpus=False).verdict == "skipped"


OPEN_MPI_4 = "mpirun (Open MPI) 4.1.7a1\n\nReport bugs to somebody\n"


@pytest.mark.parametrize(
    ("version", "host", "missing", "verdict", "found"),
    [
        (OPEN_MPI_4, "pod-0", [], "ok", "Open MPI 4.1.7a1"),
        (OPEN_MPI_4, "", [], "failed", "mpirun does not run a program here"),
        (OPEN_MPI_4.replace("4.1.7a1", "5.0.6"), "pod-0", [], "failed", "5.0.6"),
        ("", "", [], "failed", "no Open MPI"),
        (OPEN_MPI_4, "pod-0", ["sshd"], "warning", "missing: sshd"),
    ],
)
def test_mpi_is_of_the_line_that_ranks_are_started_with_and_works(version, host, missing, verdict, found):
    check = mpi(version, host, missing=missing, has_gpus=True)
    assert (check.verdict, check.found) == (verdict, found)
    assert bool(check.fix) is (verdict != "ok")


def test_without_gpus_and_mpi_nothing_is_said_of_it():
    assert mpi("", "", missing=["mpirun"], has_gpus=False).verdict == "skipped"
