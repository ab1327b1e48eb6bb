"""Bad requests: status and field, through the whole of gRPC and the public client library."""

from __future__ import annotations

import asyncio

import pytest

from hortator.client import ChatTurn, Completion, Delta, GatewayClient, GenerateError, Sampling
from hortator.rpc.inference.v1 import inference_pb2


@pytest.fixture
async def client(cluster):
    async with GatewayClient(cluster.gateway.address) as client:
        yield client


async def drained(events) -> list:
    return [event async for event in events]


@pytest.mark.parametrize(
    ("arguments", "status", "field"),
    [
        ({"prompt": ""}, "INVALID_ARGUMENT", "prompt"),
        ({"prompt": []}, "INVALID_ARGUMENT", "prompt"),
        ({"prompt": "x" * 4096}, "INVALID_ARGUMENT", "prompt"),
        ({"prompt": "x" * 10_000}, "INVALID_ARGUMENT", "prompt"),  # long enough for the tokenizer thread
        ({"prompt": [1, 2, 256]}, "INVALID_ARGUMENT", "tokens.token_ids[2]"),
        ({"prompt": [ChatTurn(role="robot", content="x")]}, "INVALID_ARGUMENT", "chat.messages[0].role"),
        ({"prompt": "x", "model": "huge"}, "NOT_FOUND", "model"),
        ({"prompt": "x", "priority": 101}, "INVALID_ARGUMENT", "priority"),
        ({"prompt": "x", "resume_from_index": 1}, "INVALID_ARGUMENT", "resume_from_index"),
        ({"prompt": "x", "sampling": Sampling(max_tokens=0)}, "INVALID_ARGUMENT", "sampling.max_tokens"),
        ({"prompt": "x", "sampling": Sampling(max_tokens=4096)}, "INVALID_ARGUMENT", "sampling.max_tokens"),
        ({"prompt": "x", "sampling": Sampling(temperature=2.5)}, "INVALID_ARGUMENT", "sampling.temperature"),
        ({"prompt": "x", "sampling": Sampling(top_p=0.0)}, "INVALID_ARGUMENT", "sampling.top_p"),
        ({"prompt": "x", "sampling": Sampling(stop=("",))}, "INVALID_ARGUMENT", "sampling.stop[0]"),
    ],
)
async def test_bad_input_names_its_field(cluster, client, arguments, status, field):
    with pytest.raises(GenerateError) as caught:
        await drained(client.generate(**arguments))
    error = caught.value
    assert error.status == status
    assert [violation.field for violation in error.violations] == [field]
    assert field in error.message
    assert not cluster.scheduler.of("announcement")  # refused before anybody was bothered
    assert cluster.gateway.driver.num_in_flight == 0


async def test_a_request_without_a_prompt_is_refused(cluster):
    with pytest.raises(Exception, match="prompt: must be given"):
        await cluster.read(cluster.stub.Generate(inference_pb2.GenerateRequest()))


async def test_without_chunked_prefill_a_long_prompt_names_the_budget(empty_cluster):
    await empty_cluster.start_gateway(chunk_budget_tokens=16, chunked_prefill=False)
    async with GatewayClient(empty_cluster.gateway.address) as client:
        with pytest.raises(GenerateError, match="chunk_budget_tokens: 16") as caught:
            await drained(client.generate("x" * 17))
    assert [violation.field for violation in caught.value.violations] == ["prompt"]


async def test_the_client_streams_deltas_and_a_completion(client, expected_text):
    events = await drained(client.generate("hello", sampling=Sampling(max_tokens=7, stop=["zz"]), tenant="t"))
    *deltas, completion = events
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert "".join(delta.text for delta in deltas) == expected_text(7)
    assert isinstance(completion, Completion)
    assert (completion.finish_reason, completion.num_prompt_tokens, completion.num_output_tokens) == (
        "length",
        5,
        7,
    )
    assert completion.request_id == deltas[0].request_id
    [model] = await client.list_models()
    assert (model.name, model.max_sequence_tokens) == ("tiny", 4096)


async def test_leaving_the_loop_cancels_the_request(cluster, client, wait_until):
    for worker in cluster.workers:
        worker.pass_s = 0.005
    events = client.generate("hello", sampling=Sampling(max_tokens=2000))
    assert isinstance(await anext(events), Delta)
    assert cluster.gateway.driver.num_in_flight == 1
    await events.aclose()
    await wait_until(lambda: cluster.gateway.driver.num_in_flight == 0)


async def test_a_gateway_that_is_not_there_is_told_from_one_that_cannot_serve(cluster, client):
    async with GatewayClient("127.0.0.1:1") as nobody:
        with pytest.raises(GenerateError, match=r"no gateway answers at 127\.0\.0\.1:1") as caught:
            await nobody.list_models(timeout_s=5)
        assert caught.value.is_unreachable
    drain = asyncio.create_task(cluster.gateway.drain())
    await asyncio.sleep(0)
    with pytest.raises(GenerateError, match="draining") as caught:
        await drained(client.generate("x"))
    assert not caught.value.is_unreachable
    await drain
