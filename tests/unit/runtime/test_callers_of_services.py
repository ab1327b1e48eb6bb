"""Every method of every service of ours has callers: one that is forgotten would answer nobody, one too many everybody."""

import pytest

from hortator.gateway import service as gateway
from hortator.rpc.inference.v1 import inference_pb2
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.rpc.worker.v1 import group_pb2, worker_pb2
from hortator.scheduler import service as scheduler
from hortator.worker import service as worker
from hortator.worker.group import service as group


@pytest.mark.parametrize(
    ("callers", "protos"),
    [
        (gateway.CALLERS, inference_pb2),
        (scheduler.CALLERS, scheduling_pb2),
        (worker.CALLERS, worker_pb2),
        (group.CALLERS, group_pb2),
    ],
)
def test_the_table_of_a_server_has_exactly_the_methods_of_its_services(callers, protos):
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in protos.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(callers) == methods
    assert all(callers.values())
