"""Clients that do not read, say nothing, trickle, or leave at any point: others notice nothing, and nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc

import grpc
import grpc.aio
import pytest

from doubles.http2 import PREFACE, a_call_without_a_message
from hortator.rpc.inference.v1 import inference_pb2_grpc
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.runtime.grpc_server import open_channel


def free_of_requests(cluster) -> bool:
    """Gateway and workers hold nothing."""
    gateway = cluster.gateway
    pulled = {request.kv_source.lease_id for worker in cluster.workers for request in worker.received}
    return (
        gateway.driver.num_in_flight == 0
        and gateway.driver.num_streaming == 0
        and gateway.service.num_calls == 0
        and not any(worker.runs or worker.leases - pulled for worker in cluster.workers)
    )


def scheduler_is_free(cluster) -> bool:
    """Whatever was announced was cancelled or has finished."""
    scheduler = cluster.scheduler
    announced = {one.request_id for one in scheduler.of("announcement")}
    over = {one.request_id for kind in ("cancellation", "request_finished") for one in scheduler.of(kind)}
    return announced <= over


# -- who does not read ------------------------------------------------------------------------------------


@pytest.fixture
async def impatient(empty_cluster):
    """A gateway that waits two seconds for clients; workers say a lot."""
    worker = await empty_cluster.add_worker("w0")
    worker.tokens_per_pass = 500
    await empty_cluster.start_gateway(
        slow_client_timeout_s=2.0, max_sequence_tokens=200_000, max_coalescing_window_s=0.0
    )
    return empty_cluster


@contextlib.asynccontextmanager
async def deaf_client(cluster, number_of_calls, *, max_tokens=150_000):
    """Calls over a connection of their own that nobody reads from, but for the first message."""
    options = (
        ("grpc.http2.bdp_probe", 0),  # or the window grows to megabytes
        ("grpc.http2.lookahead_bytes", 16_384),
        ("grpc.use_local_subchannel_pool", 1),
    )
    async with open_channel(cluster.gateway.address, options=options) as channel:
        own, cluster.stub = cluster.stub, inference_pb2_grpc.InferenceServiceStub(channel)
        calls = [cluster.call(max_tokens=max_tokens) for _ in range(number_of_calls)]
        cluster.stub = own
        for call in calls:
            await call.read()
        yield calls


async def test_a_client_that_does_not_read_is_cut_off_and_hears_why_when_it_does(impatient, wait_until):
    async with deaf_client(impatient, 1) as (call,):
        await wait_until(lambda: impatient.gateway.driver.num_in_flight == 0, 10.0)
        await wait_until(lambda: impatient.gateway.service.num_calls == 0, 10.0)
        with pytest.raises(grpc.aio.AioRpcError, match="read nothing for 2 s") as caught:
            await impatient.read(call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_request_that_still_runs_for_a_client_that_does_not_read_is_ended(impatient, wait_until):
    (worker,) = impatient.workers
    worker.pass_s, worker.tokens_per_pass = 0.02, 1000
    async with deaf_client(impatient, 1, max_tokens=190_000):
        await wait_until(lambda: worker.aborted, 10.0)
        await wait_until(lambda: free_of_requests(impatient), 10.0)
        assert scheduler_is_free(impatient)
    _, _, body = impatient.gateway.admin.answer("/metrics")
    assert 'hortator_gateway_requests_total{outcome="slow_client"} 1.0' in body.decode()


async def test_clients_that_do_not_read_keep_nobody_waiting_and_little_memory(impatient, wait_until):
    """At most its output is kept of each, and of that only what the connection took once it is cut off."""
    impatient.workers[0].tokens_per_pass = 5000
    gc.collect()
    tracemalloc.start()
    try:
        async with deaf_client(impatient, 20, max_tokens=60_000):
            loop = asyncio.get_running_loop()
            for _ in range(5):
                asked_at = loop.time()
                reply = await impatient.generate(max_tokens=50)
                assert len(reply.token_ids) == 50
                assert loop.time() - asked_at < 2.0
            await wait_until(lambda: impatient.gateway.service.num_calls == 0, 20.0)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4_000_000, "20 outputs of 60 000 tokens are 4.8 MB as ids alone"


async def test_a_client_that_reads_slowly_gets_everything(impatient):
    """Half as fast as it comes: messages become fewer and larger, and wait until there is room for them."""
    worker = impatient.workers[0]
    worker.pass_s, worker.tokens_per_pass = 0.01, 100
    async with deaf_client(impatient, 1, max_tokens=20_000) as (call,):
        num_tokens = 0
        while (message := await call.read()) is not grpc.aio.EOF:
            await asyncio.sleep(0.02)
            delta = message.completion.delta if message.HasField("completion") else message.delta
            num_tokens = max(num_tokens, delta.token_index + len(delta.token_ids))
        assert await call.code() is grpc.StatusCode.OK
        assert num_tokens == 20_000


# -- who says nothing, or little --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PREFACE[:10], id="half-a-preface"),
        pytest.param(PREFACE, id="no-call"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another-protocol"),
        pytest.param(b"\x16\x03\x01" + bytes(200), id="tls"),
        pytest.param(bytes(range(256)) * 64, id="noise"),
    ],
)
async def test_connections_that_say_nothing_of_use_keep_nobody_waiting(cluster, expected_text, words):
    host, _, port = cluster.gateway.address.rpartition(":")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(words)
        assert (await cluster.generate(max_tokens=20)).text == expected_text(20)
    assert free_of_requests(cluster)


async def test_a_client_that_sends_a_byte_at_a_time_keeps_nobody_waiting(cluster, expected_text):
    """A call of which the message never comes begins nothing."""
    host, _, port = cluster.gateway.address.rpartition(":")
    trickle = PREFACE + a_call_without_a_message()
    _, writer = await asyncio.open_connection(host, int(port))
    for number, byte in enumerate(trickle):
        writer.write(bytes([byte]))
        await writer.drain()
        if number % 20 == 0:
            assert (await cluster.generate(max_tokens=5)).text == expected_text(5)
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.1)
    assert cluster.gateway.driver.num_in_flight == 0
    writer.close()


# -- who leaves -------------------------------------------------------------------------------------------


def hold_everything(cluster):
    cluster.scheduler.is_placing = False


def hold_decode(cluster):
    scheduler = cluster.scheduler
    place = scheduler.place
    scheduler.place = lambda *wish: scheduler.held.append(wish) if wish[2] else place(*wish)


def stop_workers(*phases):
    def stop(cluster):
        for worker in cluster.workers:
            worker.is_running = worker.phase not in phases

    return stop


PREFILL, DECODE = scheduling_pb2.PHASE_PREFILL, scheduling_pb2.PHASE_DECODE
POINTS = {
    "at-once": (lambda _: None, lambda _: True),
    "announced": (hold_everything, lambda c: c.scheduler.of("announcement")),
    "held": (hold_everything, lambda c: c.scheduler.held),
    "placed": (stop_workers(PREFILL), lambda c: c.scheduler.num_turns),
    "prefilling": (stop_workers(PREFILL), lambda c: c.workers[0].runs),
    "between-phases": (hold_decode, lambda c: c.scheduler.held),
    "decode-placed": (stop_workers(DECODE), lambda c: c.scheduler.num_turns == 2),
    "decoding": (stop_workers(DECODE), lambda c: c.workers[1].runs),
    "at-the-last-token": (lambda _: None, lambda c: c.scheduler.of("request_finished")),
}


@pytest.mark.parametrize("key", ["", "k"], ids=["without-key", "with-key"])
@pytest.mark.parametrize(("prepare", "reached"), POINTS.values(), ids=POINTS)
async def test_a_client_that_leaves_at_any_point_leaves_nothing(
    disaggregated, wait_until, prepare, reached, key
):
    await disaggregated.generate(max_tokens=3)
    disaggregated.scheduler.num_turns = 0
    disaggregated.scheduler.events.clear()
    prepare(disaggregated)
    call = disaggregated.call(max_tokens=20, idempotency_key=key)
    await wait_until(lambda: reached(disaggregated))
    call.cancel()
    await wait_until(lambda: disaggregated.gateway.service.num_calls == 0)
    for worker in disaggregated.workers:
        worker.is_running = True
    disaggregated.scheduler.place_held()
    await wait_until(lambda: scheduler_is_free(disaggregated))
    await wait_until(lambda: not any(worker.runs for worker in disaggregated.workers))
    await wait_until(lambda: free_of_requests(disaggregated))


async def test_clients_that_leave_at_random_moments_leave_nothing(cluster, expected_text, wait_until):
    await cluster.generate(max_tokens=3)
    tasks = len(asyncio.all_tasks())
    for worker in cluster.workers:
        worker.pass_s = 0.002

    async def leave(number):
        call = cluster.call(max_tokens=40)
        await asyncio.sleep((number * 37 % 101) * 0.001)
        call.cancel()

    await asyncio.gather(*(leave(number) for number in range(200)))
    await wait_until(lambda: free_of_requests(cluster))
    await wait_until(lambda: scheduler_is_free(cluster))
    await wait_until(lambda: len(asyncio.all_tasks()) <= tasks + 10, 10.0)
    assert (await cluster.generate(max_tokens=20)).text == expected_text(20)
