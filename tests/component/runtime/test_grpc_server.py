import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hortator.runtime.grpc_server import BindError, GrpcServer, ServerLimits, open_channel
from hortator.runtime.rpc_errors import FieldViolation, abort, abort_invalid, details_of

ECHO = "/demo.Echo/Say"


def _server(handler, **options):
    def register(server):
        method = grpc.unary_unary_rpc_method_handler(handler)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Echo", {"Say": method}),))

    return GrpcServer(register=register, service_names=("demo.Echo",), **options)


async def _echo(request, context):
    return request


async def _call(server, payload=b"hi"):
    async with open_channel(server.address) as channel:
        return await channel.unary_unary(ECHO)(payload, timeout=10)


async def test_it_serves_on_a_free_loopback_port():
    async with _server(_echo) as server:
        assert server.address == f"127.0.0.1:{server.port}"
        assert await _call(server) == b"hi"


async def test_health_says_not_serving_until_told_for_every_service():
    async with _server(_echo) as server, open_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "demo.Echo"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.set_serving(serving=True)
        for name in ("", "demo.Echo"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_our_service_and_health():
    async with _server(_echo) as server, open_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
        )
        reply = await call.read()
        names = {service.name for service in reply.list_services_response.service}
        call.cancel()
    assert {"demo.Echo", "grpc.health.v1.Health"} <= names


async def test_a_taken_port_is_refused_at_start_not_shared():
    async with _server(_echo) as first:
        second = _server(_echo, port=first.port)
        with pytest.raises(BindError, match=f"cannot listen on 127.0.0.1:{first.port}"):
            await second.start()


async def test_messages_beyond_the_grpc_default_of_4_mib_pass():
    payload = b"x" * (8 * 1024 * 1024)
    async with _server(_echo) as server:
        assert await _call(server, payload) == payload


async def test_closing_lets_a_running_call_finish_within_its_grace():
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(request, context):
        entered.set()
        await release.wait()
        return request

    server = _server(slow)
    await server.start()
    async with open_channel(server.address) as channel, asyncio.TaskGroup() as group:
        call = group.create_task(_await(channel.unary_unary(ECHO)(b"hi", timeout=10)))
        await entered.wait()
        closing = group.create_task(server.close(grace_s=5.0))
        await asyncio.sleep(0)
        release.set()
        assert await call == b"hi"
        await closing
    await server.close()  # a second close is a no-op


async def _await(call):
    return await call


async def test_abort_details_reach_the_client():
    async def refuse(request, context):
        await abort(
            context,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "queue full",
            retry_after_s=0.5,
            reason="QUEUE_FULL",
            metadata={"limit": "10"},
        )

    async with _server(refuse) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(server)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "queue full"
    details = details_of(caught.value)
    assert details.retry_after_s == 0.5
    assert (details.reason, details.metadata) == ("QUEUE_FULL", {"limit": "10"})


async def test_an_invalid_argument_names_every_field():
    async def refuse(request, context):
        await abort_invalid(
            context,
            [
                FieldViolation(field="prompt", description="must not be empty"),
                FieldViolation(field="sampling.top_p", description="must be in (0, 1], got 2"),
            ],
        )

    async with _server(refuse) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(server)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "prompt: must not be empty; sampling.top_p: must be in (0, 1], got 2"
    assert [v.field for v in details_of(caught.value).violations] == ["prompt", "sampling.top_p"]


async def test_an_error_without_details_reads_as_empty():
    async def refuse(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")

    async with _server(refuse) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(server)
    details = details_of(caught.value)
    assert (details.violations, details.retry_after_s, details.reason) == ((), None, "")


async def test_an_option_of_a_channel_counts_and_not_the_usual_one():
    """gRPC takes the first of two of one name."""
    async with _server(_echo) as server:
        options = (("grpc.max_receive_message_length", 10),)
        async with open_channel(server.address, options=options) as channel:
            assert await channel.unary_unary(ECHO)(b"x" * 10, timeout=10)
            with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
                await channel.unary_unary(ECHO)(b"x" * 11, timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_server_takes_no_more_calls_than_its_limit():
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(request, context):
        entered.set()
        await release.wait()
        return request

    limits = ServerLimits(
        max_message_bytes=1000,
        max_metadata_bytes=1000,
        max_calls=1,
        max_calls_per_connection=10,
        max_connections=10,
        connection_idle_timeout_s=60,
    )
    async with _server(slow, limits=limits) as server, asyncio.TaskGroup() as group:
        first = group.create_task(_call(server))
        await entered.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(server)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        release.set()
        assert await first == b"hi"
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
            await _call(server, b"x" * 1001)
