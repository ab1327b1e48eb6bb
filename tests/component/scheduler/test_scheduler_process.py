"""`python -m hortator.scheduler` as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from contextlib import asynccontextmanager

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as pb_grpc
from hortator.runtime.grpc_server import open_channel
from hortator.scheduler.replay import summarize

PATIENCE_S = 30.0


@asynccontextmanager
async def a_process(tmp_path, **settings):
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"port": 0, "drain_timeout_s": 5.0, **settings}))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hortator.scheduler",
        "--settings",
        str(path),
        "--die-with-parent",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield process, json.loads(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def get(port, path):
    def fetch():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()

    return await asyncio.to_thread(fetch)


async def test_it_says_where_it_listens_serves_metrics_and_health_and_stops_on_sigterm(tmp_path):
    async with a_process(tmp_path) as (process, ready):
        assert ready["event"] == "ready"
        async with open_channel(ready["address"]) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="hortator.rpc.scheduling.v1.SchedulingService")
            )
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        status, metrics = await get(ready["admin_port"], "/metrics")
        assert status == 200
        assert "hortator_scheduler_waiting_tokens 0.0" in metrics
        assert (await get(ready["admin_port"], "/healthz"))[0] == 200
        assert (await get(ready["admin_port"], "/readyz"))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_drain_places_what_waits_and_refuses_what_arrives(tmp_path):
    async with a_process(tmp_path) as (process, ready), open_channel(ready["address"]) as channel:
        stub = pb_grpc.SchedulingServiceStub(channel)
        gateway = stub.Place()
        await gateway.write(
            pb.PlaceRequest(
                events=[
                    pb.GatewayEvent(hello=pb.GatewayHello(gateway_id="gw")),
                    pb.GatewayEvent(announcement=pb.Announcement(request_id="waits", num_prompt_tokens=10)),
                ]
            )
        )
        admin = pb_grpc.AdminServiceStub(channel)
        while (await admin.Snapshot(pb.SnapshotRequest())).snapshot.num_waiting == 0:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        reasons: dict[str, int] = {}
        while (
            pb.REJECT_REASON_DRAINING not in reasons.values()
        ):  # until the signal arrives, requests still wait
            late = pb.Announcement(request_id=f"late{len(reasons)}", num_prompt_tokens=10, timeout_s=0.05)
            await gateway.write(pb.PlaceRequest(events=[pb.GatewayEvent(announcement=late)]))
            while late.request_id not in reasons:
                for rejection in (await gateway.read()).rejections:
                    reasons[rejection.request_id] = rejection.reason
        worker = stub.Report()
        states = pb.RankStates(prefill_load_tokens=[0], batch_size=[0], kv_blocks_used=[0])
        hello = pb.WorkerHello(
            address="127.0.0.1:1",
            phase=pb.PHASE_AGGREGATED,
            dp_size=1,
            chunk_budget_tokens=100,
            max_batch_size=4,
            kv_blocks_total=100,
            tokens_per_block=64,
            rank_states=states,
        )
        await worker.write(pb.ReportRequest(worker_id="w", boot_id="b", sequence=1, hello=hello))
        placements = []
        while not placements:
            placements = (await gateway.read()).placements
        assert [placement.request_id for placement in placements] == ["waits"]
        assert await process.wait() == 0


async def test_a_recorded_run_replays_to_the_same_digest_twice(tmp_path):
    recording = tmp_path / "events.jsonl"
    async with a_process(tmp_path, events_path=str(recording)) as (process, ready):
        async with open_channel(ready["address"]) as channel:
            gateway = pb_grpc.SchedulingServiceStub(channel).Place()
            events = [pb.GatewayEvent(hello=pb.GatewayHello(gateway_id="gw"))]
            events += [
                pb.GatewayEvent(
                    announcement=pb.Announcement(
                        request_id=f"r{n}", num_prompt_tokens=10, block_hashes=[2**64 - 1, n], timeout_s=0.05
                    )
                )
                for n in range(10)
            ]
            await gateway.write(pb.PlaceRequest(events=events))
            num_rejected = 0
            while num_rejected < 10:
                num_rejected += len((await gateway.read()).rejections)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    summary = summarize(recording)
    assert summary.events_by_kind["RequestArrived"] == 10
    assert summary.events_by_kind["AdmissionStopped"] == 1
    assert summary.commands_by_kind == {"Reject": 10}
    assert summarize(recording) == summary


async def test_a_taken_port_ends_the_process_with_a_line_that_names_it(tmp_path):
    async with a_process(tmp_path) as (_, ready):
        port = int(ready["address"].rpartition(":")[2])
        (tmp_path / "second").mkdir()
        path = tmp_path / "second" / "scheduler.json"
        path.write_text(json.dumps({"port": port}))
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "hortator.scheduler",
            "--settings",
            str(path),
            stderr=asyncio.subprocess.PIPE,
        )
        _, error = await second.communicate()
        assert second.returncode == 1
        assert str(port) in error.decode()


@pytest.mark.parametrize("core", [{"policy": "best"}, {"min_fil": 0.5}])
async def test_bad_settings_end_the_process_with_code_2_and_one_line(tmp_path, core):
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"core": core}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hortator.scheduler", "--settings", str(path), stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert error.decode().count("\n") == 1
    assert "scheduler.json" in error.decode()
