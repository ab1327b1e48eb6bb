from __future__ import annotations

import asyncio
import math

import grpc

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as pb_grpc


async def test_an_announced_request_is_placed_and_the_worker_gets_the_manifest(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1", attempt=3)
    (placement,) = await gateway.wait_placements(1)
    manifest = await worker.next("manifest")
    assert (placement.request_id, placement.attempt) == ("r1", 3)
    assert (placement.worker_id, placement.boot_id) == ("w", "b1")
    assert placement.worker_address == "127.0.0.1:4001"
    assert placement.phase == manifest.phase == pb.PHASE_AGGREGATED
    assert (placement.batch_id, placement.dispatch_seq) == (manifest.batch_id, manifest.dispatch_seq)
    assert placement.batch_size == len(manifest.members) == 1
    assert manifest.members[0] == pb.BatchMember(request_id="r1", attempt=3, dp_rank=placement.dp_rank)
    assert gateway.responses[0].epoch == bench.app.shell.epoch > 1_600_000_000_000


async def test_many_requests_in_one_message_are_all_placed(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    announcements = [
        {"announcement": pb.Announcement(request_id=f"r{n}", num_prompt_tokens=200)} for n in range(40)
    ]
    await gateway.send(*announcements)

    async def run_passes():
        while True:
            await worker.end_pass(await worker.next("manifest"))

    passes = asyncio.ensure_future(run_passes())
    placements = await gateway.wait_placements(40)
    passes.cancel()
    assert {placement.request_id for placement in placements} == {f"r{n}" for n in range(40)}
    assert len(gateway.responses) < 40  # what is decided together is told together


async def test_a_request_waits_for_a_worker_and_is_placed_when_one_comes(bench):
    gateway = await bench.gateway()
    await gateway.announce("r1")
    await bench.until(lambda: bench.snapshot().num_waiting == 1)
    await bench.worker()
    assert (await gateway.wait_placements(1))[0].request_id == "r1"


async def test_a_full_queue_refuses_at_arrival_with_a_time_to_come_back(start_scheduler):
    bench = await start_scheduler(core={"max_waiting_requests": 2})
    gateway = await bench.gateway()
    await gateway.announce("r1", "r2", "r3")
    (rejection,) = await gateway.wait_rejections(1)
    assert rejection.request_id == "r3"
    assert rejection.reason == pb.REJECT_REASON_QUEUE_FULL_REQUESTS
    assert rejection.retry_after_s > 0
    assert "2" in rejection.message


async def test_a_tenant_that_floods_is_refused_by_name_and_the_others_come_in(start_scheduler):
    core = {"max_waiting_requests": 4, "tenants": [{"name": "loud", "queue_share": 0.5}]}
    bench = await start_scheduler(core=core)
    gateway = await bench.gateway()
    await gateway.announce("r1", "r2", "r3", tenant="loud")
    await gateway.announce("r4", tenant="calm")
    (rejection,) = await gateway.wait_rejections(1)
    assert (rejection.request_id, rejection.reason) == ("r3", pb.REJECT_REASON_TENANT_QUOTA)
    assert rejection.message == "tenant 'loud': 2 requests wait; the limit is 2"
    assert rejection.retry_after_s > 0
    await bench.until(lambda: bench.snapshot().num_waiting == 3)


async def test_a_deadline_that_passes_while_waiting_is_told_in_time(bench):
    gateway = await bench.gateway()
    await gateway.announce("r1", timeout_s=0.05)
    (rejection,) = await gateway.wait_rejections(1)
    assert rejection.reason == pb.REJECT_REASON_DEADLINE


async def test_without_a_worker_the_queue_timeout_ends_the_wait(start_scheduler):
    bench = await start_scheduler(core={"queue_timeout_s": 0.05})
    gateway = await bench.gateway()
    await gateway.announce("r1")
    (rejection,) = await gateway.wait_rejections(1)
    assert rejection.reason == pb.REJECT_REASON_NO_WORKER


async def test_a_bad_announcement_is_answered_and_the_stream_goes_on(bench):
    await bench.worker()
    gateway = await bench.gateway()
    bad = pb.Announcement(request_id="bad", attempt=2, num_prompt_tokens=5, timeout_s=math.nan)
    good = pb.Announcement(request_id="good", num_prompt_tokens=5)
    await gateway.send({"announcement": bad}, {}, {"announcement": good})
    (rejection,) = await gateway.wait_rejections(1)
    (placement,) = await gateway.wait_placements(1)
    assert (rejection.request_id, rejection.attempt) == ("bad", 2)
    assert rejection.reason == pb.REJECT_REASON_UNSPECIFIED
    assert "announcement.timeout_s" in rejection.message
    assert placement.request_id == "good"


async def test_a_stream_without_hello_is_refused_naming_the_field(bench):
    gateway = await bench.silent_gateway()
    await gateway.announce("r1")
    code, details = await gateway.wait_end()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "hello" in details


async def test_a_cancelled_request_is_corrected_at_the_worker_and_not_retracted(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    await gateway.send({"cancellation": pb.Cancellation(request_id="r1")})
    correction = await worker.next("correction")
    assert correction == pb.Correction(request_id="r1", attempt=0)
    await worker.end_pass(await worker.next("manifest"))
    await gateway.announce("r2")
    await gateway.wait_placements(2)
    assert gateway.retractions == []


async def test_a_refused_placement_gets_another_one(bench):
    first, second = await bench.worker("w1"), await bench.worker("w2")
    gateway = await bench.gateway()
    await gateway.announce("r1")
    (placement,) = await gateway.wait_placements(1)
    refusal = pb.PlacementRefused(request_id="r1", worker_id=placement.worker_id, reason="no route")
    await gateway.send({"placement_refused": refusal})
    placements = await gateway.wait_placements(2)
    assert placements[1].request_id == "r1"
    assert placements[1].attempt == placements[0].attempt
    assert {first.name, second.name} >= {placements[1].worker_id}


async def test_a_prefilled_request_gets_a_decode_placement(bench):
    await bench.worker("prefill", phase=pb.PHASE_PREFILL)
    await bench.worker("decode", phase=pb.PHASE_DECODE)
    gateway = await bench.gateway()
    await gateway.announce("r1")
    (placement,) = await gateway.wait_placements(1)
    assert placement.phase == pb.PHASE_PREFILL
    finished = pb.PrefillFinished(request_id="r1", num_prompt_tokens=100, max_output_tokens=10)
    await gateway.send({"prefill_finished": finished})
    placement = (await gateway.wait_placements(2))[1]
    assert (placement.phase, placement.worker_id) == (pb.PHASE_DECODE, "decode")
    await gateway.finish("r1")
    await bench.until(lambda: bench.snapshot().num_in_flight == 0)


async def test_a_gateway_that_leaves_takes_its_requests_with_it(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    await gateway.call.done_writing()
    assert (await worker.next("correction")).request_id == "r1"
    assert bench.snapshot().num_in_flight == 0


async def test_a_gateway_whose_stream_breaks_has_a_grace_to_come_back(start_scheduler):
    bench = await start_scheduler(gateway_grace_s=30.0)
    await bench.worker()
    gateway = await bench.gateway()
    await gateway.announce("r1")
    first = list(await gateway.wait_placements(1))
    gateway.call.cancel()
    again = await bench.gateway()
    # It may have missed the placement, so it hears it again.
    assert await again.wait_placements(1) == first
    assert bench.snapshot().num_in_flight == 1
    await again.finish("r1")
    await bench.until(lambda: bench.snapshot().num_in_flight == 0)


async def test_a_gateway_that_does_not_come_back_is_lost_after_the_grace(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    gateway.call.cancel()
    assert (await worker.next("correction")).request_id == "r1"
    await bench.until(lambda: len(bench.app.shell.gateways) == 0)


async def test_a_second_stream_of_the_same_gateway_ends_the_first(bench):
    first = await bench.gateway()
    await bench.until(lambda: len(bench.app.shell.gateways) == 1)
    second = await bench.gateway()
    code, details = await first.wait_end()
    assert code is grpc.StatusCode.ABORTED
    assert "newer stream" in details
    await bench.worker()
    await second.announce("r1")
    await second.wait_placements(1)


async def test_two_gateways_hear_only_of_their_own_requests(bench):
    worker = await bench.worker()
    one, two = await bench.gateway("one"), await bench.gateway("two")
    await one.announce("r1")
    await one.wait_placements(1)
    await worker.end_pass(await worker.next("manifest"))
    await two.announce("r2")
    await two.wait_placements(1)
    await one.finish("r1")
    await two.finish("r2")
    await bench.until(lambda: bench.app.shell.tally.num_finished == 2)
    assert [placement.request_id for placement in one.placements] == ["r1"]
    assert [placement.request_id for placement in two.placements] == ["r2"]


async def test_gateways_are_told_where_workers_are(bench):
    stub = pb_grpc.SchedulingServiceStub(await bench.channel())
    assert not (await stub.Workers(pb.WorkersRequest())).addresses
    await bench.worker("w")
    worker = await bench.worker("other")
    assert len((await stub.Workers(pb.WorkersRequest())).addresses) == 2
    await worker.call.done_writing()  # it leaves
    await bench.until(lambda: len(bench.app.shell.workers) == 1)
    assert list((await stub.Workers(pb.WorkersRequest())).addresses) == ["127.0.0.1:4001"]
