"""Variables of the fabric that name nothing are told, in the grammar of each."""

import pytest

from hortator.worker.engines.trtllm.doctor.fabric import fabric

DEVICES = ("mlx5_0", "mlx5_1")
INTERFACES = ("eth0", "lo")


def check(**environment):
    return fabric(environment, devices=DEVICES, interfaces=INTERFACES)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NCCL_IB_HCA", "mlx5"),
        ("NCCL_IB_HCA", "=mlx5_0:1,mlx5_1:1"),
        ("NCCL_IB_HCA", "^mlx5_9"),
        ("NCCL_SOCKET_IFNAME", "eth"),
        ("NCCL_SOCKET_IFNAME", "^docker,lo"),
        ("UCX_NET_DEVICES", "mlx5_0:1,mlx5_1:1"),
        ("UCX_NET_DEVICES", "all"),
        ("NVSHMEM_HCA_LIST", "mlx5_1:1"),
        ("OMPI_MCA_btl_tcp_if_include", "10.0.0.0/8"),
    ],
)
def test_what_names_something_here_is_fine(variable, value):
    assert check(**{variable: value}).verdict == "ok"


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("NCCL_IB_HCA", "ibp", "NCCL_IB_HCA: no ibp here"),
        ("NCCL_IB_HCA", "=mlx5", "NCCL_IB_HCA: no mlx5 here"),
        ("NCCL_SOCKET_IFNAME", "net1", "NCCL_SOCKET_IFNAME: no net1 here"),
        ("UCX_NET_DEVICES", "mlx5_0:1,mlx5_2:1", "UCX_NET_DEVICES: no mlx5_2 here"),
        ("NVSHMEM_HCA_LIST", "mlx5", "NVSHMEM_HCA_LIST: no mlx5 here"),
        ("OMPI_MCA_oob_tcp_if_include", "eth", "OMPI_MCA_oob_tcp_if_include: no eth here"),
    ],
)
def test_what_names_nothing_fails_and_says_what_is_here(variable, value, found):
    wrong = check(**{variable: value})
    assert (wrong.verdict, wrong.found) == ("failed", found)
    assert "mlx5_0, mlx5_1 and interfaces eth0, lo" in wrong.fix


def test_without_any_nothing_is_looked_at():
    assert check(NCCL_DEBUG="INFO").verdict == "skipped"
