"""How a worker stops: a drain finishes what runs, an engine's death ends the process at once."""

from __future__ import annotations

import asyncio
import json

import pytest

from hortator.rpc.scheduling.v1 import scheduling_pb2 as sched
from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.runtime.lifecycle import Drain
from hortator.worker.app import EXIT_ENGINE_DEAD, serve
from hortator.worker.engine import EngineDeadError
from hortator.worker.settings import WorkerSettings


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # what is awaited is inside the worker
            await asyncio.sleep(0)


async def test_a_drain_refuses_newcomers_and_finishes_what_runs(an_engine, a_worker, a_gateway, scheduler):
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
    gateway = await a_gateway(worker)
    await scheduler.report("hello")
    await gateway.submit("r1", max_tokens=2)
    await until(lambda: engine.running)
    worker.drain.request("test")
    await scheduler.report("draining")
    await gateway.submit("r2")
    assert (await gateway.completion("r2")).reason == pb.COMPLETION_REASON_REFUSED
    engine.run_pass()
    engine.run_pass()
    assert (await gateway.completion("r1")).num_output_tokens == 2
    await worker.running
    await scheduler.until(lambda: scheduler.has_left)


async def test_a_drain_waits_for_kv_that_is_still_to_be_pulled(an_engine, a_worker, a_gateway):
    worker = await a_worker(an_engine(auto=True))
    gateway = await a_gateway(worker)
    await gateway.submit("r1", mode=pb.MODE_PREFILL_ONLY)
    source = (await gateway.completion("r1")).kv_source
    worker.drain.request("test")
    await until(lambda: worker.host.is_draining)
    chunks = [
        response.chunk
        async for response in gateway.stub.PullKv(
            pb.PullKvRequest(lease_id=source.lease_id, boot_id=source.boot_id)
        )
    ]
    assert b"".join(chunks) == bytes((1, 2, 3)) * 1000
    assert not worker.running.done()
    await gateway.stub.ReleaseKv(pb.ReleaseKvRequest(lease_id=source.lease_id, boot_id=source.boot_id))
    await worker.running


async def test_what_does_not_finish_in_the_drain_timeout_is_aborted(an_engine, a_worker, a_gateway):
    engine = an_engine()
    worker = await a_worker(engine)
    worker._drain_s = 0.05
    gateway = await a_gateway(worker)
    await gateway.submit("r1", max_tokens=100)
    await until(lambda: engine.running)
    worker.drain.request("test")
    assert (await gateway.completion("r1")).reason == pb.COMPLETION_REASON_ABORTED
    await worker.running


async def test_a_scheduler_can_drain_a_worker_that_then_serves_what_it_has(
    an_engine, a_worker, a_gateway, scheduler
):
    engine = an_engine(auto=True)
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
    gateway = await a_gateway(worker)
    await scheduler.report("hello")
    scheduler.send(drain=sched.DrainWorker())
    await scheduler.report("draining")
    await gateway.submit("r1")
    assert (await gateway.completion("r1")).message == "draining"
    assert not worker.running.done()


async def test_a_draining_worker_says_so_to_a_scheduler_that_comes_late(an_engine, a_worker, scheduler):
    port = int(scheduler.address.rpartition(":")[2])
    await scheduler.stop()
    worker = await a_worker(an_engine(), scheduler_addresses=(scheduler.address,))
    worker.host.start_draining()
    await scheduler.start(port)
    await scheduler.report("draining")
    kinds = [report.WhichOneof("event") for report in scheduler.reports]
    assert kinds[:2] == ["hello", "draining"]


def settings(**values) -> WorkerSettings:
    return WorkerSettings.load(worker_id="w", drain_timeout_s=1.0, **values)


async def test_the_process_says_where_it_serves_and_ends_with_zero_after_a_drain(an_engine, capsys):
    engine, drain = an_engine(auto=True), Drain()
    serving = asyncio.ensure_future(serve(settings(), engine, drain))
    out = ""
    async with asyncio.timeout(5):
        while not out:
            await asyncio.sleep(0.01)
            out = capsys.readouterr().out
    ready = json.loads(out.splitlines()[-1])  # log lines of this test go there too
    assert ready["event"] == "ready"
    assert ready["admin_port"] > 0
    host, _, port = ready["address"].rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    drain.request("test")
    assert await serving == 0
    assert engine.is_closed


async def test_the_death_of_the_engine_ends_the_process_with_its_own_code(an_engine):
    engine = an_engine(auto=True)
    serving = asyncio.ensure_future(serve(settings(), engine, Drain()))
    engine.fail("rank 1 died")
    async with asyncio.timeout(2):
        assert await serving == EXIT_ENGINE_DEAD


async def test_an_engine_that_dies_on_submit_ends_the_worker(an_engine, a_worker, a_gateway):
    engine = an_engine()
    worker = await a_worker(engine)
    gateway = await a_gateway(worker)
    engine.error = EngineDeadError("a collective timed out")
    await gateway.submit("r1")
    with pytest.raises(ExceptionGroup) as caught:
        await worker.running
    assert caught.group_contains(EngineDeadError)


async def test_a_request_that_comes_after_the_death_of_the_engine_is_refused(an_engine, a_worker, a_gateway):
    engine = an_engine(auto=True)
    worker = await a_worker(engine)
    gateway = await a_gateway(worker)
    await gateway.submit("r1")
    await gateway.completion("r1")
    engine.fail("rank 1 died")
    with pytest.raises(ExceptionGroup):
        await worker.running
    await gateway.submit("r2")
    async with asyncio.timeout(5):
        completion = await gateway.completion("r2")
    assert (completion.reason, completion.message) == (pb.COMPLETION_REASON_REFUSED, "the engine has ended")


async def test_an_engine_that_does_not_start_ends_the_process_with_its_own_code(an_engine):
    class Broken(an_engine):
        async def start(self):
            raise EngineDeadError("rank 0 did not come up")

    assert await serve(settings(), Broken(), Drain()) == EXIT_ENGINE_DEAD


async def test_an_engine_of_a_pod_that_hangs_while_starting_ends_with_the_time_for_it(an_engine, capsys):
    class Hanging(an_engine):
        async def start(self):
            await asyncio.Event().wait()

    in_a_pod = settings().model_copy(update={"pod_name": "svc-a-0-0", "startup_timeout_s": 0.05})
    async with asyncio.timeout(10):
        assert await serve(in_a_pod, Hanging(), Drain()) == EXIT_ENGINE_DEAD
    assert "the engine died: it did not start within 0.05 s" in capsys.readouterr().err
