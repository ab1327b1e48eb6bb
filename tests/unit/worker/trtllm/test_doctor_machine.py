"""What the doctor makes of a machine."""

import pytest

from hortator.worker.engines.trtllm.doctor.machine import Gpu, gpu_checks, gpus_of, network, shared_memory

H800 = Gpu(name="NVIDIA H800", memory_mib=81559, driver="560.35.03")
GIB = 1 << 30


def test_gpus_are_read_from_what_nvidia_smi_prints():
    text = "NVIDIA H800, 81559, 560.35.03\nNVIDIA H800, 81559, 560.35.03\nFailed to initialize NVML\n"
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
            [H800] * 7 + [Gpu(name="NVIDIA L4", memory_mib=23034, driver="560.35.03")],
            "8 x NVIDIA H800, 80 GiB and NVIDIA L4, 22 GiB",
        ),
    ],
)
def test_too_few_or_mixed_gpus_fail(gpus, found):
    check = verdicts(gpus, num_gpus=8)["GPUs"]
    assert check.verdict == "failed"
    assert check.found == found


def test_an_old_driver_fails_with_the_least_that_will_do():
    old = Gpu(name="NVIDIA H800", memory_mib=81559, driver="535.104.05")
    check = verdicts([old], num_gpus=1)["driver"]
    assert (check.verdict, check.found) == ("failed", "535.104.05")
    assert check.fix == "install driver 550 or newer on the node"


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
    assert network({}, has_gpus=True).verdict == "warning"
    assert network({}, has_gpus=False).verdict == "skipped"
