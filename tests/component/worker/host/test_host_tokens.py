"""The token path: requests in, tokens out, nothing left behind."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.worker.service import WorkerService


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # what is awaited is inside the worker
            await asyncio.sleep(0)


async def test_a_lone_request_streams_its_tokens_and_one_completion(an_engine, a_worker, a_gateway):
    worker = await a_worker(an_engine(auto=True))
    gateway = await a_gateway(worker)
    await gateway.submit("r1", max_tokens=4)
    completion = await gateway.completion("r1")
    assert completion.reason == pb.COMPLETION_REASON_LENGTH
    assert completion.num_output_tokens == 4
    assert gateway.tokens["r1"] == [186, 193, 200, 207]  # (6 * 31 + 7 i) % 1000


async def test_the_tokens_of_one_pass_come_in_one_message(an_engine, a_worker, a_gateway):
    engine = an_engine()
    gateway = await a_gateway(await a_worker(engine))
    for number in range(20):
        await gateway.submit(f"r{number}", max_tokens=2)
    await until(lambda: len(engine.running) == 20)
    engine.run_pass()
    await gateway.until(lambda: len(gateway.tokens) == 20)
    assert [len(message.deltas) for message in gateway.messages] == [20]
    engine.run_pass()
    await gateway.until(lambda: len(gateway.completions) == 20)
    assert [(len(m.deltas), len(m.completions)) for m in gateway.messages] == [(20, 0), (20, 20)]


async def test_each_gateway_gets_its_own_requests_only(an_engine, a_worker, a_gateway):
    worker = await a_worker(an_engine(auto=True))
    one, two = await a_gateway(worker, "g1"), await a_gateway(worker, "g2")
    await one.submit("r1")
    await two.submit("r2")
    await one.completion("r1")
    await two.completion("r2")
    assert set(one.tokens) == {"r1"}
    assert set(two.tokens) == {"r2"}


async def test_an_abort_ends_the_request_and_frees_the_engine(an_engine, a_worker, a_gateway):
    engine = an_engine()
    gateway = await a_gateway(await a_worker(engine))
    await gateway.submit("r1", max_tokens=100)
    await until(lambda: engine.running)
    await gateway.abort("r1")
    assert (await gateway.completion("r1")).reason == pb.COMPLETION_REASON_ABORTED
    assert not engine.running


async def test_a_gateway_stream_that_breaks_takes_its_requests_with_it(an_engine, a_worker, a_gateway):
    engine = an_engine()
    worker = await a_worker(engine)
    lost, other = await a_gateway(worker, "lost"), await a_gateway(worker, "other")
    await lost.submit("r1", max_tokens=100)
    await other.submit("r2", max_tokens=100)
    await until(lambda: len(engine.running) == 2)
    await lost.close()
    await until(lambda: worker.host.num_live == 1)
    assert list(engine.running) == ["r2#0"]


async def test_a_gateway_that_half_closes_still_gets_what_it_asked_for(an_engine, a_worker, a_gateway):
    gateway = await a_gateway(await a_worker(an_engine(auto=True)))
    await gateway.submit("r1", max_tokens=5)
    await gateway.call.done_writing()
    assert (await gateway.completion("r1")).num_output_tokens == 5
    assert await gateway.call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param({"prompt": ()}, "prompt", id="of the client"),
        pytest.param({"dp_rank": 9}, "", id="of the placement"),
        pytest.param({"mode": pb.MODE_UNSPECIFIED}, "mode", id="of the wire"),
        pytest.param({"mode": pb.MODE_DECODE_ONLY}, "kv_source", id="no KV source"),
    ],
)
async def test_a_request_at_fault_is_refused_with_its_field(an_engine, a_worker, a_gateway, fields, field):
    gateway = await a_gateway(await a_worker(an_engine(auto=True)))
    await gateway.submit("bad", **fields)
    completion = await gateway.completion("bad")
    assert completion.reason == pb.COMPLETION_REASON_REFUSED
    assert completion.field == field
    assert completion.message


async def test_a_newer_attempt_ends_the_older_one_and_an_older_one_is_refused(an_engine, a_worker, a_gateway):
    engine = an_engine()
    gateway = await a_gateway(await a_worker(engine))
    await gateway.submit("r1", attempt=1, max_tokens=100)
    await until(lambda: "r1#1" in engine.running)
    await gateway.submit("r1", attempt=2, max_tokens=100)
    await until(lambda: "r1#2" in engine.running)
    assert list(engine.running) == ["r1#2"]
    assert (await gateway.completion("r1")).reason == pb.COMPLETION_REASON_ABORTED
    gateway.completions.clear()
    await gateway.submit("r1", attempt=1)
    await gateway.until(lambda: "r1" in gateway.completions and gateway.completions["r1"].attempt == 1)
    assert gateway.completions["r1"].reason == pb.COMPLETION_REASON_REFUSED
    assert list(engine.running) == ["r1#2"]


async def test_a_stream_that_does_not_begin_with_a_hello_is_an_error(an_engine, a_worker, a_gateway):
    gateway = await a_gateway(await a_worker(an_engine()))
    call = gateway.stub.Submit()
    await call.write(pb.SubmitRequest(aborts=[pb.Abort(request_id="r1")]))
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_info_says_what_the_worker_is(an_engine, a_worker, a_gateway):
    worker = await a_worker(an_engine())
    info = await (await a_gateway(worker)).stub.Info(pb.InfoRequest())
    assert (info.worker_id, info.model, info.dp_size, info.tokens_per_block) == ("w", "fake", 2, 4)
    assert info.boot_id == worker.host.identity.boot_id


class GoneContext:
    """What gRPC shows of a stream whose connection has broken: the handler learns of it as it writes."""

    def __init__(self):
        self.aborted = []

    async def write(self, message):
        raise grpc.aio.UsageError("RPC already finished.")

    async def abort(self, code, details=""):
        self.aborted.append((code, details))


async def test_a_gateway_that_is_gone_as_tokens_are_written_is_no_error_of_the_worker(an_engine, a_worker):
    engine = an_engine()
    worker = await a_worker(engine)
    stays = asyncio.Event()
    sampling = pb.Sampling(max_tokens=100, top_p=1.0)
    a_request = pb.SubmittedRequest(
        request_id="r1", mode=pb.MODE_AGGREGATED, prompt_token_ids=[1, 2], sampling=sampling
    )

    async def said():
        yield pb.SubmitRequest(hello=pb.SubmitHello(gateway_id="gone"))
        yield pb.SubmitRequest(requests=[a_request])
        await stays.wait()

    context = GoneContext()
    submit = asyncio.ensure_future(WorkerService(worker.host).Submit(said(), context))
    await until(lambda: engine.running)
    engine.run_pass()
    async with asyncio.timeout(5):
        await submit
    assert not context.aborted
    await until(lambda: worker.host.num_live == 0)
    assert not engine.running
