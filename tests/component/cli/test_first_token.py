"""hortator.cli.first_token: waits for a service, and says what the last answer was."""

import asyncio
import time

import grpc.aio
import pytest

from hortator.cli import first_token
from hortator.client import GenerateError
from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc


class Gateway(inference_pb2_grpc.InferenceServiceServicer):
    """Refuses a number of times, then generates what it is told."""

    def __init__(self, refusals, token_ids):
        self.refusals = refusals
        self.token_ids = token_ids
        self.asked = []

    async def Generate(self, request, context):  # noqa: N802
        self.asked.append(request)
        if len(self.asked) <= self.refusals:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no scheduler yet")
        if self.token_ids:
            yield inference_pb2.GenerateResponse(delta=inference_pb2.Delta(token_ids=self.token_ids))
        yield inference_pb2.GenerateResponse(completion=inference_pb2.Completion())


@pytest.fixture
async def serving():
    servers = []

    async def start(refusals=0, token_ids=(7,)):
        gateway, server = Gateway(refusals, token_ids), grpc.aio.server()
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(gateway, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        return gateway, f"127.0.0.1:{port}"

    yield start
    for server in servers:
        await server.stop(None)


async def test_one_token_is_asked_for_until_it_comes(serving, monkeypatch, capsys):
    monkeypatch.setattr(first_token, "RETRY_S", 0.01)
    gateway, address = await serving(refusals=2)
    assert await first_token.wait_for_token(address, timeout_s=30) == 7
    assert len(gateway.asked) == 3
    assert {one.sampling.max_tokens for one in gateway.asked} == {1}
    assert capsys.readouterr().err.count("no scheduler yet") == 1  # said once


async def test_the_last_answer_is_said_when_the_time_is_over(serving, monkeypatch):
    monkeypatch.setattr(first_token, "RETRY_S", 0.01)
    _, address = await serving(refusals=1000)
    with pytest.raises(GenerateError, match="no scheduler yet"):
        await first_token.wait_for_token(address, timeout_s=0.1)


async def test_a_stream_without_a_token_is_no_success(serving):
    _, address = await serving(token_ids=())
    with pytest.raises(GenerateError, match="without a token"):
        await first_token.first_token(address)


async def test_the_exit_code_tells_whether_a_token_came(serving, capsys):
    _, address = await serving()
    assert await asyncio.to_thread(first_token.main, [address, "--timeout", "10"]) == 0
    assert capsys.readouterr().out == f"token 7 from {address}\n"
    began_at = time.monotonic()
    assert await asyncio.to_thread(first_token.main, ["127.0.0.1:1", "--timeout", "0"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
    assert time.monotonic() - began_at < 10
