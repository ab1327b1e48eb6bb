"""Which calls the client makes again by itself."""

import grpc
import grpc.aio
import pytest

from hortator.client import Completion, Delta, GatewayClient, GenerateError
from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc


class Gateway(inference_pb2_grpc.InferenceServiceServicer):
    """Ends its first calls with a status, before or after a first message."""

    def __init__(self):
        self.num_calls = 0
        self.num_bad = 0
        self.status = grpc.StatusCode.CANCELLED
        self.speaks_first = False

    async def Generate(self, request, context):  # noqa: N802
        self.num_calls += 1
        delta = inference_pb2.GenerateResponse(
            delta=inference_pb2.Delta(text="Arma", token_ids=[1], token_index=0)
        )
        if self.num_calls <= self.num_bad:
            if self.speaks_first:
                yield delta
            await context.abort(self.status, "not today")
        yield delta
        yield inference_pb2.GenerateResponse(completion=inference_pb2.Completion())


@pytest.fixture
async def gateway():
    server = grpc.aio.server()
    servicer = Gateway()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(0.1)


async def ask(gateway):
    async with GatewayClient(gateway.address) as client:
        return [event async for event in client.generate("x")]


async def test_a_call_that_is_cancelled_before_an_answer_is_made_again(gateway):
    gateway.num_bad = 2
    first, last = await ask(gateway)
    assert isinstance(first, Delta)
    assert first.text == "Arma"
    assert isinstance(last, Completion)
    assert gateway.num_calls == 3


async def test_after_three_times_it_is_said(gateway):
    gateway.num_bad = 9
    with pytest.raises(GenerateError) as refused:
        await ask(gateway)
    assert refused.value.status == "CANCELLED"
    assert gateway.num_calls == 3


async def test_nothing_is_made_again_once_an_answer_has_begun(gateway):
    """Its tokens would come twice."""
    gateway.num_bad, gateway.speaks_first = 1, True
    with pytest.raises(GenerateError, match="CANCELLED"):
        await ask(gateway)
    assert gateway.num_calls == 1


@pytest.mark.parametrize("status", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
async def test_a_refusal_is_told_and_not_made_again(gateway, status):
    gateway.num_bad, gateway.status = 1, status
    with pytest.raises(GenerateError, match=status.name):
        await ask(gateway)
    assert gateway.num_calls == 1
