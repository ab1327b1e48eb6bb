"""Two processes' worth of TLS on loopback: who gets in, who does not, and what a renewed certificate changes."""

from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from doubles.certificates import new_authority, write_certificate
from hortator.runtime.certificates import CertificateFiles
from hortator.runtime.grpc_server import GrpcServer, open_channel
from hortator.runtime.transport import MutualTls, Plaintext, transport_of

CALLERS = {
    f"/demo.Echo/{method}": frozenset({"gateway", "operator"})
    for method in ("Say", "Repeat", "Write", "Sum", "Talk")
}
SOON_S = 10.0


async def _say(request, context):
    return request


async def _repeat(request, context):
    yield request
    yield request


async def _write(request, context):
    await context.write(request)
    await context.write(request)


async def _sum(requests, context):
    return b"".join([request async for request in requests])


async def _talk(requests, context):
    async for request in requests:
        yield request


def _register(server):
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(_say),
        "Repeat": grpc.unary_stream_rpc_method_handler(_repeat),
        "Write": grpc.unary_stream_rpc_method_handler(_write),
        "Sum": grpc.stream_unary_rpc_method_handler(_sum),
        "Talk": grpc.stream_stream_rpc_method_handler(_talk),
        "Secret": grpc.unary_unary_rpc_method_handler(_say),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Echo", handlers),))


@pytest.fixture
def authority():
    return new_authority()


@pytest.fixture
def transport(tmp_path, authority):
    """The transport of any component."""

    def of(component, *, service="svc", signed_by=authority):
        folder = tmp_path / f"{service}-{component}"
        return transport_of(write_certificate(folder, component, service=service, authority=signed_by))

    return of


@asynccontextmanager
async def _serving(transport):
    async with GrpcServer(
        register=_register,
        service_names=("demo.Echo",),
        credentials=transport.server_credentials(),
        interceptors=transport.interceptors(CALLERS),
    ) as server:
        yield server


async def _code(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_a_named_component_is_answered_by_methods_of_every_kind(transport):
    async with (
        _serving(transport("scheduler")) as server,
        transport("gateway").open_channel(server.address, "scheduler") as channel,
    ):
        assert await channel.unary_unary("/demo.Echo/Say")(b"a", timeout=SOON_S) == b"a"
        for method in ("Repeat", "Write"):
            call = channel.unary_stream(f"/demo.Echo/{method}")(b"a", timeout=SOON_S)
            assert [answer async for answer in call] == [b"a", b"a"]
        assert await channel.stream_unary("/demo.Echo/Sum")(iter([b"a", b"b"]), timeout=SOON_S) == b"ab"
        call = channel.stream_stream("/demo.Echo/Talk")(iter([b"a", b"b"]), timeout=SOON_S)
        assert [answer async for answer in call] == [b"a", b"b"]


@pytest.mark.safety
@pytest.mark.parametrize("method", ["Say", "Repeat", "Write", "Sum", "Talk"])
async def test_another_component_is_refused_by_methods_of_every_kind(transport, method):
    async with (
        _serving(transport("scheduler")) as server,
        transport("worker").open_channel(server.address, "scheduler") as channel,
    ):
        call = channel.stream_stream(f"/demo.Echo/{method}")(iter([b"a"]), timeout=SOON_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            assert [answer async for answer in call] == "never"
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == (
            f"{method}: may be called by gateway or operator of ns/svc, not by worker of ns/svc"
        )


@pytest.mark.safety
async def test_a_method_that_nobody_was_named_for_answers_no_one(transport):
    async with (
        _serving(transport("scheduler")) as server,
        transport("gateway").open_channel(server.address, "scheduler") as channel,
    ):
        code, details = await _code(channel.unary_unary("/demo.Echo/Secret")(b"a", timeout=SOON_S))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "may be called by nobody" in details


@pytest.mark.safety
async def test_the_same_component_of_another_service_is_refused_and_the_operator_is_not(
    tmp_path, authority, transport
):
    async with _serving(transport("scheduler")) as server:
        for component, is_let_in in (("gateway", False), ("operator", True)):
            files = CertificateFiles(
                write_certificate(tmp_path / component, component, service="other", authority=authority)
            ).current()
            credentials = grpc.ssl_channel_credentials(files.ca_pem, files.key_pem, files.cert_pem)
            name = (("grpc.ssl_target_name_override", "scheduler.svc.ns.hortator"),)
            async with open_channel(server.address, credentials=credentials, options=name) as channel:
                call = channel.unary_unary("/demo.Echo/Say")(b"a", timeout=SOON_S)
                if is_let_in:
                    assert await call == b"a"
                else:
                    code, _ = await _code(call)
                    assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.safety
async def test_who_has_no_certificate_of_our_authority_does_not_get_in(transport):
    stranger = transport("gateway", signed_by=new_authority("stranger"))
    async with _serving(transport("scheduler")) as server:
        for channel in (stranger.open_channel(server.address, "scheduler"), open_channel(server.address)):
            async with channel:
                code, _ = await _code(channel.unary_unary("/demo.Echo/Say")(b"a", timeout=SOON_S))
                assert code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.safety
async def test_a_client_does_not_talk_to_another_component_than_it_asked_for(transport):
    async with (
        _serving(transport("scheduler")) as server,
        transport("gateway").open_channel(server.address, "worker") as channel,
    ):
        code, _ = await _code(channel.unary_unary("/demo.Echo/Say")(b"a", timeout=SOON_S))
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_health_answers_every_component(transport):
    async with (
        _serving(transport("scheduler")) as server,
        transport("worker").open_channel(server.address, "scheduler") as channel,
    ):
        await server.set_serving(serving=True)
        reply = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=SOON_S
        )
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_renewed_certificate_is_used_by_both_ends_without_a_restart(tmp_path, transport):
    """The authority changes too: whoever still had the old set would not be let in."""
    scheduler, gateway = transport("scheduler"), transport("gateway")
    async with _serving(scheduler) as server:
        async with gateway.open_channel(server.address, "scheduler") as channel:
            assert await channel.unary_unary("/demo.Echo/Say")(b"a", timeout=SOON_S) == b"a"
            successor = new_authority("successor")
            transport("scheduler", signed_by=successor)
            transport("gateway", signed_by=successor)
            # what is connected goes on
            assert await channel.unary_unary("/demo.Echo/Say")(b"b", timeout=SOON_S) == b"b"
        assert (scheduler.generation, gateway.generation) == (2, 2)
        async with gateway.open_channel(server.address, "scheduler") as channel:
            assert await channel.unary_unary("/demo.Echo/Say")(b"c", timeout=SOON_S) == b"c"


def test_without_settings_everything_is_in_the_clear():
    from hortator.runtime.certificates import TlsSettings

    transport = transport_of(TlsSettings())
    assert isinstance(transport, Plaintext)
    assert transport.server_credentials() is None
    assert transport.interceptors(CALLERS) == ()
    assert not isinstance(transport, MutualTls)
