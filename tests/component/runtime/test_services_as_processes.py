"""What the three services say of themselves to anybody: reflection, and grpc.health.v1 while they serve and drain."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from hortator.rpc.scheduling.v1 import scheduling_pb2, scheduling_pb2_grpc
from hortator.rpc.worker.v1 import worker_pb2, worker_pb2_grpc
from hortator.runtime.grpc_server import open_channel

PATIENCE_S = 30.0
SOON_S = 5.0
Status = health_pb2.HealthCheckResponse


async def _keep_scheduler_busy(channel, admin_port):
    """A request that waits for a worker."""
    call = scheduling_pb2_grpc.SchedulingServiceStub(channel).Place()
    hello = scheduling_pb2.GatewayEvent(hello=scheduling_pb2.GatewayHello(gateway_id="g"))
    waits = scheduling_pb2.Announcement(request_id="r", num_prompt_tokens=10)
    await call.write(
        scheduling_pb2.PlaceRequest(events=[hello, scheduling_pb2.GatewayEvent(announcement=waits)])
    )
    admin = scheduling_pb2_grpc.AdminServiceStub(channel)
    while (await admin.Snapshot(scheduling_pb2.SnapshotRequest())).snapshot.num_waiting == 0:
        await asyncio.sleep(0.01)
    return call


async def _keep_worker_busy(channel, admin_port):
    """A request with more output than fits into the test."""
    call = worker_pb2_grpc.WorkerServiceStub(channel).Submit()
    request = worker_pb2.SubmittedRequest(
        request_id="r",
        mode=worker_pb2.MODE_AGGREGATED,
        prompt_token_ids=range(10),
        sampling=worker_pb2.Sampling(max_tokens=100_000, top_p=1, ignore_eos=True),
    )
    await call.write(
        worker_pb2.SubmitRequest(hello=worker_pb2.SubmitHello(gateway_id="g"), requests=[request])
    )
    await call.read()
    return call


async def _keep_gateway_busy(channel, admin_port):
    """A request that waits for a scheduler."""
    call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(
        inference_pb2.GenerateRequest(tokens=inference_pb2.TokenPrompt(token_ids=range(10)))
    )
    while b"hortator_gateway_in_flight 1.0" not in await asyncio.to_thread(_metrics, admin_port):
        await asyncio.sleep(0.01)
    return call


def _metrics(admin_port):
    with urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=SOON_S) as answer:
        return answer.read()


@dataclass(frozen=True)
class Service:
    """A process, what its port offers, and something that a drain has to wait for."""

    module: str
    settings: dict[str, Any]
    names: tuple[str, ...]
    keep_busy: Any


SERVICES = {
    "scheduler": Service(
        module="hortator.scheduler",
        settings={"gateway_grace_s": 0.0},
        names=("hortator.rpc.scheduling.v1.SchedulingService", "hortator.rpc.scheduling.v1.AdminService"),
        keep_busy=_keep_scheduler_busy,
    ),
    "worker": Service(
        module="hortator.worker",
        settings={
            "worker_id": "w",
            "engine": "simulated",
            "engine_options": {"dp_size": 1, "kv_blocks_total": 10_000},
        },
        names=("hortator.rpc.worker.v1.WorkerService",),
        keep_busy=_keep_worker_busy,
    ),
    "gateway": Service(
        module="hortator.gateway",
        settings={
            "scheduler_addresses": ["127.0.0.1:1"],
            "model": "tiny",
            "max_sequence_tokens": 4096,
            "tokenizer": "bytes",
        },
        names=("hortator.rpc.inference.v1.InferenceService",),
        keep_busy=_keep_gateway_busy,
    ),
}


@pytest.fixture(params=SERVICES)
def service(request):
    return SERVICES[request.param]


@asynccontextmanager
async def _running(service, tmp_path):
    """The process, a channel to it, and its admin port."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"port": 0, "drain_timeout_s": 60.0, **service.settings}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", service.module, "--settings", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            ready = json.loads(await process.stdout.readline())
            async with open_channel(ready["address"]) as channel:
                yield process, channel, ready["admin_port"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _status(channel, name):
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=SOON_S)).status


async def _reflected(channel, **question):
    request = reflection_pb2.ServerReflectionRequest(**question)
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    reply = await call.read()
    call.cancel()
    return reply


async def test_a_service_can_be_explored_and_says_that_it_does_not_serve_while_its_drain_still_waits(
    service, tmp_path
):
    """NOT_SERVING not only when the server closes: who asks must stop sending while the rest is finished."""
    async with _running(service, tmp_path) as (process, channel, admin_port):
        reply = await _reflected(channel, list_services="")
        listed = {one.name for one in reply.list_services_response.service}
        assert listed == {
            *service.names,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        for name in service.names:
            reply = await _reflected(channel, file_containing_symbol=name)
            assert len(reply.file_descriptor_response.file_descriptor_proto) > 0
        for name in ("", *service.names):
            assert await _status(channel, name) == Status.SERVING
        call = await service.keep_busy(channel, admin_port)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SOON_S):
            while await _status(channel, "") != Status.NOT_SERVING:
                await asyncio.sleep(0.02)
        for name in service.names:
            assert await _status(channel, name) == Status.NOT_SERVING
        assert not call.done()
        assert process.returncode is None
        call.cancel()
        assert await process.wait() == 0
