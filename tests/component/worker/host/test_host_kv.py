"""KV hand-over between a prefill worker and a decode worker, under a lease."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.simulated.engine import SimulatedEngine

PROMPT = (5, 6, 7, 8)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # what is awaited is inside the worker
            await asyncio.sleep(0)


async def prefilled(gateway, request_id: str = "r1", **fields) -> pb.Completion:
    await gateway.submit(request_id, prompt=PROMPT, max_tokens=6, mode=pb.MODE_PREFILL_ONLY, **fields)
    completion = await gateway.completion(request_id)
    assert completion.reason == pb.COMPLETION_REASON_PREFILLED
    return completion


async def test_prefill_here_and_decode_there_says_the_same_as_both_in_one_place(
    an_engine, a_worker, a_gateway
):
    aggregated = await a_gateway(await a_worker(an_engine(auto=True)))
    await aggregated.submit("r1", prompt=PROMPT, max_tokens=6)
    await aggregated.completion("r1")

    prefill_engine, decode_engine = an_engine(auto=True), an_engine(auto=True)
    prefill = await a_gateway(await a_worker(prefill_engine, phase="prefill"))
    decode = await a_gateway(await a_worker(decode_engine, phase="decode"))
    source = (await prefilled(prefill)).kv_source
    first = prefill.tokens["r1"]
    decode.tokens["r1"] = list(first)
    await decode.submit(
        "r1", prompt=PROMPT, max_tokens=6, mode=pb.MODE_DECODE_ONLY, prior_output_ids=first, kv_source=source
    )
    assert (await decode.completion("r1")).reason == pb.COMPLETION_REASON_LENGTH
    assert decode.tokens["r1"] == aggregated.tokens["r1"]
    await until(lambda: prefill_engine.released == ["r1#0"])
    assert not prefill_engine.leases


@pytest.mark.parametrize("loss", ["released", "other boot", "nobody there"])
async def test_kv_that_cannot_be_had_is_said_so(an_engine, a_worker, a_gateway, loss):
    prefill = await a_gateway(await a_worker(an_engine(auto=True)))
    decode = await a_gateway(await a_worker(an_engine(auto=True), phase="decode"))
    source = (await prefilled(prefill)).kv_source
    if loss == "released":
        await prefill.stub.ReleaseKv(pb.ReleaseKvRequest(lease_id=source.lease_id, boot_id=source.boot_id))
    elif loss == "other boot":
        source.boot_id = "of-yesterday"
    else:
        source.worker_address = "127.0.0.1:1"
    await decode.submit("r1", prompt=PROMPT, mode=pb.MODE_DECODE_ONLY, prior_output_ids=[1], kv_source=source)
    completion = await decode.completion("r1")
    assert completion.reason == pb.COMPLETION_REASON_KV_LOST
    assert completion.message


async def test_a_member_whose_kv_is_lost_holds_nobody_up_and_is_accounted_for(
    an_engine, a_worker, a_gateway, scheduler
):
    prefill = await a_gateway(await a_worker(an_engine(auto=True)))
    engine = an_engine()
    worker = await a_worker(engine, phase="decode", scheduler_addresses=(scheduler.address,))
    decode = await a_gateway(worker)
    good = (await prefilled(prefill, "good")).kv_source
    lost = pb.KvSource(worker_address=good.worker_address, boot_id=good.boot_id, lease_id="nobody#0")
    scheduler.send_manifest("b1", "good", "lost", seq=1)
    batch = {"batch_id": "b1", "batch_size": 2, "dispatch_seq": 1, "epoch": 1}
    common = {"prompt": PROMPT, "mode": pb.MODE_DECODE_ONLY, "prior_output_ids": [1], **batch}
    await decode.submit("lost", kv_source=lost, **common)
    await decode.submit("good", kv_source=good, **common)
    assert (await decode.completion("lost")).reason == pb.COMPLETION_REASON_KV_LOST
    await until(lambda: engine.batches == [["good#0"]])
    await scheduler.until(lambda: scheduler.reports[-1].included_dispatch_seq == 1)


async def test_a_lease_that_nobody_pulls_expires_and_frees_the_engine(
    an_engine, a_worker, a_gateway, scheduler
):
    engine = an_engine(auto=True)
    worker = await a_worker(engine, kv_lease_s=0.05, scheduler_addresses=(scheduler.address,))
    gateway = await a_gateway(worker)
    source = (await prefilled(gateway)).kv_source
    await until(lambda: engine.released == ["r1#0"])
    call = gateway.stub.PullKv(pb.PullKvRequest(lease_id=source.lease_id, boot_id=source.boot_id))
    assert await call.code() == grpc.StatusCode.NOT_FOUND
    await scheduler.until(lambda: list(scheduler.reports[-1].rank_states.kv_blocks_used) == [0, 0])


async def test_an_abort_frees_the_lease(an_engine, a_worker, a_gateway):
    engine = an_engine(auto=True)
    worker = await a_worker(engine)
    gateway = await a_gateway(worker)
    await prefilled(gateway)
    await gateway.abort("r1")
    await until(lambda: engine.released == ["r1#0"])
    assert worker.host.kv.num_leases == 0


async def test_the_loss_of_the_gateway_frees_the_lease(an_engine, a_worker, a_gateway):
    engine = an_engine(auto=True)
    gateway = await a_gateway(await a_worker(engine))
    await prefilled(gateway)
    await gateway.close()
    await until(lambda: engine.released == ["r1#0"])


async def test_a_request_aborted_while_its_kv_is_pulled_never_reaches_the_engine(
    an_engine, a_worker, a_gateway
):
    class SlowExport(an_engine):
        async def export_kv(self, request_id):
            yield b"x"
            await asyncio.Event().wait()

    source_engine = SlowExport(auto=True)
    prefill = await a_gateway(await a_worker(source_engine))
    source = (await prefilled(prefill)).kv_source
    engine = an_engine()
    worker = await a_worker(engine, phase="decode")
    decode = await a_gateway(worker)
    await decode.submit("r1", prompt=PROMPT, mode=pb.MODE_DECODE_ONLY, prior_output_ids=[1], kv_source=source)
    await until(lambda: worker.host.num_live == 1)
    await decode.abort("r1")
    assert (await decode.completion("r1")).reason == pb.COMPLETION_REASON_ABORTED
    assert engine.batches == []
    await prefill.abort("r1")  # the pull that is still open ends, and the lease with it
    await until(lambda: source_engine.released == ["r1#0"])


async def test_a_prefill_worker_that_stops_in_the_middle_of_a_pull_loses_the_kv(
    an_engine, a_worker, a_gateway
):
    class SlowExport(an_engine):
        async def export_kv(self, request_id):
            yield b"x"
            await asyncio.Event().wait()

    source_worker = await a_worker(SlowExport(auto=True))
    prefill = await a_gateway(source_worker)
    source = (await prefilled(prefill)).kv_source
    worker = await a_worker(an_engine(), phase="decode")
    decode = await a_gateway(worker)
    await decode.submit("r1", prompt=PROMPT, mode=pb.MODE_DECODE_ONLY, prior_output_ids=[1], kv_source=source)
    await until(lambda: worker.host.num_live == 1)
    await source_worker._server.close()
    assert (await decode.completion("r1")).reason == pb.COMPLETION_REASON_KV_LOST


async def test_the_simulated_engine_says_the_same_across_a_hand_over(a_worker, a_gateway):
    config = SimulatedConfig(dp_size=2, kv_blocks_total=1000, time_scale=0.001)
    aggregated = await a_gateway(await a_worker(SimulatedEngine(config)))
    prefill = await a_gateway(await a_worker(SimulatedEngine(config), phase="prefill"))
    decode = await a_gateway(await a_worker(SimulatedEngine(config), phase="decode"))
    await aggregated.submit("r1", prompt=PROMPT, max_tokens=6, dp_rank=1)
    await aggregated.completion("r1")
    source = (await prefilled(prefill)).kv_source
    first = prefill.tokens["r1"]
    decode.tokens["r1"] = list(first)
    await decode.submit(
        "r1", prompt=PROMPT, max_tokens=6, mode=pb.MODE_DECODE_ONLY, prior_output_ids=first, kv_source=source
    )
    await decode.completion("r1")
    assert len(decode.tokens["r1"]) == 6
    assert decode.tokens["r1"] == aggregated.tokens["r1"]
