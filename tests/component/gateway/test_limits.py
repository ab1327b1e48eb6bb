"""What a gateway takes of its clients, and what they hear when it is too much for it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from doubles.http2 import PREFACE, a_call_without_a_message
from hortator.cli import api_key
from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from hortator.runtime.grpc_server import open_channel
from hortator.runtime.rpc_errors import details_of


@pytest.fixture
async def limited(empty_cluster):
    """Start a gateway with limits: `await limited(max_calls=2)`. Its worker does nothing until told to."""

    async def start(**settings):
        worker = await empty_cluster.add_worker("w0")
        worker.is_running = False
        await empty_cluster.start_gateway(**settings)
        return empty_cluster

    return start


async def refusal_of(cluster, call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.read(call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value.details(), details_of(caught.value)


def refusals(cluster, limit: str) -> float:
    _, _, body = cluster.gateway.admin.answer("/metrics")
    name = f'hortator_gateway_limit_refusals_total{{limit="{limit}"}} '
    found = [line for line in body.decode().splitlines() if line.startswith(name)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def let_go(cluster) -> None:
    for worker in cluster.workers:
        worker.is_running = True


@contextlib.asynccontextmanager
async def from_another_connection(cluster):
    """Calls are made over a connection of their own while this is open."""
    own = cluster.stub
    async with open_channel(
        cluster.gateway.address, options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        cluster.stub = inference_pb2_grpc.InferenceServiceStub(channel)
        try:
            yield
        finally:
            cluster.stub = own


# -- calls ------------------------------------------------------------------------------------------------


async def test_a_call_too_many_is_refused_and_taken_once_another_has_ended(
    limited, expected_text, wait_until
):
    cluster = await limited(max_calls=3)
    calls = [cluster.call(max_tokens=4) for _ in range(3)]
    await wait_until(lambda: cluster.gateway.service.num_calls == 3)
    message, details = await refusal_of(cluster, cluster.call())
    assert message == "this gateway has 3 calls open, its limit (max_calls)"
    assert (details.reason, details.metadata) == ("LIMIT", {"limit": "max_calls"})
    assert details.retry_after_s == 1.0
    assert refusals(cluster, "max_calls") == 1
    let_go(cluster)
    for call in calls:
        assert (await cluster.read(call)).text == expected_text(4)
    assert (await cluster.generate(max_tokens=5)).text == expected_text(5)


async def test_requests_too_many_name_their_limit(limited, wait_until):
    cluster = await limited(max_requests=1)
    call = cluster.call()
    await wait_until(lambda: cluster.gateway.driver.num_in_flight == 1)
    message, details = await refusal_of(cluster, cluster.call())
    assert message == "this gateway holds 1 requests, its limit (max_requests)"
    assert (details.reason, details.metadata) == ("QUEUE_FULL", {"limit": "max_requests"})
    assert refusals(cluster, "max_requests") == 1
    call.cancel()


async def test_an_address_has_so_many_calls_whatever_its_connections(limited, wait_until):
    cluster = await limited(max_calls_per_client=2)
    calls = [cluster.call()]
    async with from_another_connection(cluster):
        calls.append(cluster.call())
        await wait_until(lambda: cluster.gateway.service.num_calls == 2)
        message, details = await refusal_of(cluster, cluster.call())
    assert message == "127.0.0.1 has 2 calls open, the limit of a client (max_calls_per_client)"
    assert (details.metadata, details.retry_after_s) == ({"limit": "max_calls_per_client"}, 1.0)
    for call in calls:
        call.cancel()
    await wait_until(lambda: cluster.gateway.service.num_calls == 0)
    let_go(cluster)
    assert len((await cluster.generate(max_tokens=3)).token_ids) == 3


async def test_clients_with_keys_are_told_apart_by_them(limited, wait_until, tmp_path, capsys):
    keys = []
    for name in ("one", "two"):
        api_key.run(name=name, file=tmp_path / "keys.yaml", tenants=("ci", "prod"))
        keys.append(capsys.readouterr().out.strip())
    cluster = await limited(max_calls_per_client=1, api_keys_file=str(tmp_path / "keys.yaml"))

    def call(key, tenant):
        request = inference_pb2.GenerateRequest(text="go", tenant=tenant)
        return cluster.stub.Generate(request, metadata=(("authorization", f"Bearer {key}"),))

    first = call(keys[0], "ci")
    await wait_until(lambda: cluster.gateway.service.num_calls == 1)
    message, _ = await refusal_of(cluster, call(keys[0], "prod"))
    assert message == "API key 'one' has 1 calls open, the limit of a client (max_calls_per_client)"
    second = call(keys[1], "ci")
    await wait_until(lambda: cluster.gateway.service.num_calls == 2)
    async with from_another_connection(cluster):
        for _ in range(5):  # who has no key takes nothing from those who have
            with pytest.raises(grpc.aio.AioRpcError, match="not known here"):
                await cluster.read(call("hk_wrong", "ci"))
    first.cancel()
    second.cancel()


async def test_calls_other_than_generate_count_too(limited, wait_until):
    """A health watch stays open for as long as its client likes."""
    cluster = await limited(max_calls_per_client=2)
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with open_channel(cluster.gateway.address, options=options) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        models = cluster.stub.ListModels
        for call in (
            health.Check(health_pb2.HealthCheckRequest()),
            models(inference_pb2.ListModelsRequest()),
            cluster.read(cluster.call()),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=r"127\.0\.0\.1 has 2 calls open") as caught:
                await call
            details = details_of(caught.value)
            assert (details.metadata, details.retry_after_s) == ({"limit": "max_calls_per_client"}, 1.0)
        assert refusals(cluster, "max_calls_per_client") == 3
        for watch in watches:
            watch.cancel()

        async def has_room() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await health.Check(health_pb2.HealthCheckRequest())
                return True
            return False

        for _ in range(100):
            if await has_room():
                break
            await asyncio.sleep(0.02)
        for _ in range(5):
            await models(inference_pb2.ListModelsRequest())
    let_go(cluster)
    assert len((await cluster.generate(max_tokens=3)).token_ids) == 3


async def test_calls_whose_request_never_comes_count_and_end(limited, wait_until):
    """Half a request holds no more than a whole one, and no longer."""
    cluster = await limited(max_calls_per_client=1, slow_client_timeout_s=1.0)
    host, _, port = cluster.gateway.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE + a_call_without_a_message())
    await asyncio.sleep(0.2)
    assert cluster.gateway.service.num_calls == 0
    message, _ = await refusal_of(cluster, cluster.call())
    assert "max_calls_per_client" in message
    await wait_until(lambda: refusals(cluster, "slow_client_timeout_s") == 1)
    let_go(cluster)
    assert len((await cluster.generate(max_tokens=3)).token_ids) == 3
    writer.close()


async def test_a_call_ends_in_the_end_and_leaves_nothing(limited, wait_until):
    cluster = await limited(max_call_s=0.5)
    worker = cluster.workers[0]
    worker.is_running, worker.pass_s = True, 0.02
    began_at = time.monotonic()
    call = cluster.call(max_tokens=4000)
    message, details = await refusal_of(cluster, call)
    assert 0.5 <= time.monotonic() - began_at < 3
    assert message == "the call is open for 0.5 s, the limit (max_call_s)"
    assert (details.reason, details.retry_after_s) == ("LIMIT", None)
    assert refusals(cluster, "max_call_s") == 1
    await wait_until(lambda: not worker.runs)
    assert cluster.gateway.driver.num_in_flight == 0
    assert (await cluster.generate(max_tokens=3)).token_ids


# -- sizes ------------------------------------------------------------------------------------------------


async def test_a_request_that_is_too_large_is_refused_and_nothing_is_announced(limited):
    cluster = await limited(max_message_bytes=1024)
    message, details = await refusal_of(cluster, cluster.call("x" * 1100))
    assert message.endswith("bytes (at most 1024) (max_message_bytes)")
    assert (details.reason, details.retry_after_s) == ("LIMIT", None)
    message, _ = await refusal_of(cluster, cluster.call("x" * 3000))  # of which gRPC takes nothing
    assert "larger than max" in message
    assert cluster.scheduler.of("announcement") == []
    let_go(cluster)
    assert (await cluster.generate("x" * 900, max_tokens=3)).token_ids
    assert refusals(cluster, "max_message_bytes") == 1


async def test_too_much_metadata_is_refused(limited):
    cluster = await limited(max_metadata_bytes=2000)
    request = inference_pb2.GenerateRequest(text="go")
    for metadata in ((("x-long", "y" * 1990),), tuple((f"x-{i}", "y") for i in range(60))):
        message, details = await refusal_of(cluster, cluster.stub.Generate(request, metadata=metadata))
        assert message.endswith("bytes of metadata (at most 2000) (max_metadata_bytes)")
        assert (details.metadata, details.retry_after_s) == ({"limit": "max_metadata_bytes"}, None)
    message, _ = await refusal_of(cluster, cluster.stub.Generate(request, metadata=(("x", "y" * 9000),)))
    assert "hard limit" in message
    assert cluster.scheduler.of("announcement") == []
    assert refusals(cluster, "max_metadata_bytes") == 2
    let_go(cluster)
    ordinary = cluster.stub.Generate(request, metadata=(("x", "y" * 1000),))
    assert (await cluster.read(ordinary)).token_ids


@pytest.mark.parametrize("noise", [b"\xff\xff\xff", b"\x0a\x7fhello"])
async def test_a_request_that_is_no_message_is_wrong(limited, noise):
    cluster = await limited()
    async with open_channel(cluster.gateway.address) as channel:
        method = channel.unary_stream("/hortator.rpc.inference.v1.InferenceService/Generate")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cluster.read(method(noise))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_without_a_request_is_wrong(limited):
    cluster = await limited()
    async with open_channel(cluster.gateway.address) as channel:
        call = channel.stream_stream("/hortator.rpc.inference.v1.InferenceService/Generate")()
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cluster.read(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# -- connections ------------------------------------------------------------------------------------------


async def test_a_connection_too_many_is_closed_and_there_is_room_once_others_are(limited, wait_until):
    cluster = await limited(max_connections=5)
    let_go(cluster)
    host, _, port = cluster.gateway.address.rpartition(":")
    assert (await cluster.generate(max_tokens=3)).token_ids
    async with contextlib.AsyncExitStack() as stack:
        pairs = []
        for _ in range(10):
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(PREFACE)
            pairs.append(reader)
        closed = [await is_closed(reader) for reader in pairs]
        assert sum(closed) == 6, "the client's own is the fifth that stays"
        assert (await cluster.generate(max_tokens=3)).token_ids

    async def answers() -> bool:
        async with from_another_connection(cluster):
            with contextlib.suppress(grpc.aio.AioRpcError):
                return bool((await cluster.generate(max_tokens=3)).token_ids)
        return False

    async with asyncio.timeout(10):
        while not await answers():
            await asyncio.sleep(0.05)


async def is_closed(reader) -> bool:
    """Whether the server has nothing but an end to say; else it says its settings."""
    async with asyncio.timeout(5):
        return not await reader.read(1)


async def test_a_connection_without_a_call_is_closed_and_made_again_by_the_next_call(limited):
    cluster = await limited(connection_idle_timeout_s=1)
    let_go(cluster)
    assert (await cluster.generate(max_tokens=3)).token_ids
    host, _, port = cluster.gateway.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE)
    async with asyncio.timeout(10):
        while await reader.read(4096):  # to its end
            pass
    writer.close()
    assert (await cluster.generate(max_tokens=3)).token_ids


async def test_a_request_that_is_wrong_in_thousands_of_places_is_told_so_in_few_words(limited):
    """What is said of it travels as metadata, of which a client takes little."""
    cluster = await limited()
    request = inference_pb2.GenerateRequest()
    for _ in range(5000):
        request.chat.messages.add(role="nobody " * 50, content="go")
    request.sampling.stop.extend(["x" * 1000] * 5000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.read(cluster.stub.Generate(request))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(caught.value).violations
    assert "chat.messages[0].role" in {violation.field for violation in violations}
    assert len(violations) < 100
