"""The client library against gateways that break, refuse and lie."""

# ruff: noqa: N802  # methods of gRPC services have the names of their calls
from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest
from relays import Relay

from hortator.client import Client, Completion, GenerateError, Sampling
from hortator.client.gateway import PING_EVERY_S, PING_TIMEOUT_S
from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from hortator.runtime.rpc_errors import abort

OUTPUT = "arma virumque cano"
NOBODY = "127.0.0.1:1"


class Gateway(inference_pb2_grpc.InferenceServiceServicer):
    """Says OUTPUT, a letter per token; each call may end early, as `ends` say, one after the other."""

    def __init__(self) -> None:
        self.requests: list[inference_pb2.GenerateRequest] = []
        self.ends: list[tuple[int, grpc.StatusCode, dict]] = []
        self.pause_s = 0.0
        self.damage = b""
        """Each call is refused, with this as details."""

    async def Generate(self, request, context):
        self.requests.append(request)
        if self.damage:
            trailers = (("grpc-status-details-bin", self.damage),)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "not today", trailing_metadata=trailers)
        last, status, details = self.ends.pop(0) if self.ends else (len(OUTPUT), None, {})
        for index in range(request.resume_from_index, last):
            await asyncio.sleep(self.pause_s)
            letter = OUTPUT[index]
            delta = inference_pb2.Delta(token_index=index, token_ids=[ord(letter)], text=letter)
            yield inference_pb2.GenerateResponse(request_id="r", delta=delta)
        if status is not None:
            await abort(context, status, "not today", **details)
        yield inference_pb2.GenerateResponse(completion=inference_pb2.Completion())

    async def ListModels(self, request, context):
        return inference_pb2.ListModelsResponse(models=[inference_pb2.Model(name="m")])


@pytest.fixture
async def a_gateway():
    async with AsyncExitStack() as stack:

        async def start(address: str = "127.0.0.1:0") -> Gateway:
            server = grpc.aio.server()
            gateway = Gateway()
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(gateway, server)
            gateway.address = f"127.0.0.1:{server.add_insecure_port(address)}"
            gateway.server = server
            await server.start()
            stack.push_async_callback(server.stop, None)
            return gateway

        yield start


@pytest.fixture
async def gateways(a_gateway):
    return [await a_gateway(), await a_gateway()]


async def read(client, **options) -> str:
    """The text; checks that every token comes once and that the completion is the end."""
    text = ""
    events = [event async for event in client.generate("sing", **options)]
    for event in events[:-1]:
        assert event.token_index == len(text)
        text += event.text
    assert isinstance(events[-1], Completion)
    return text


def client_of(*gateways, **options) -> Client:
    return Client(
        [gateway if isinstance(gateway, str) else gateway.address for gateway in gateways], **options
    )


def requests_of(gateways):
    return sorted(
        (request for gateway in gateways for request in gateway.requests), key=lambda r: r.resume_from_index
    )


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_stream_that_breaks_goes_on_at_the_next_gateway(gateways, status):
    for gateway in gateways:
        gateway.ends = [(5, status, {})]
    gateways[0].ends += [(9, status, {})]
    async with client_of(*gateways) as client:
        assert await read(client, sampling=Sampling(max_tokens=18, seed=4), tenant="t") == OUTPUT
    first, *others = requests_of(gateways)
    assert first.idempotency_key
    assert first.resume_from_index == 0
    for other in others:
        assert other.resume_from_index in {5, 9}
        assert bytes(other.prior_output_ids).decode() == OUTPUT[: other.resume_from_index]
        other.resume_from_index = 0
        other.ClearField("prior_output_ids")
        assert other == first


async def test_a_gateway_that_knows_nothing_of_brought_tokens_is_asked_without_them(gateways):
    """One version older, it takes the request for another one under the same key."""
    for gateway in gateways:
        gateway.ends = [(5, grpc.StatusCode.UNAVAILABLE, {}), (5, grpc.StatusCode.INVALID_ARGUMENT, {})]
    async with client_of(gateways[0]) as client:
        assert await read(client) == OUTPUT
    asked = [(r.resume_from_index, len(r.prior_output_ids)) for r in gateways[0].requests]
    assert asked == [(0, 0), (5, 5), (5, 0)]


async def test_a_request_that_is_wrong_stays_wrong(gateways):
    gateways[0].ends = [
        (5, grpc.StatusCode.UNAVAILABLE, {}),
        *[(5, grpc.StatusCode.INVALID_ARGUMENT, {})] * 2,
    ]
    async with client_of(gateways[0]) as client:
        with pytest.raises(GenerateError) as caught:
            await read(client)
    assert caught.value.status == "INVALID_ARGUMENT"
    assert len(gateways[0].requests) == 3


async def test_who_is_taken_over_by_an_older_call_of_its_own_asks_again(gateways):
    """Two gateways announce both calls to a new scheduler, which cannot know the order in which they began."""
    for gateway in gateways:
        gateway.ends = [(5, grpc.StatusCode.ABORTED, {"reason": "TAKEN_OVER"})]
    async with client_of(*gateways) as client:
        assert await read(client) == OUTPUT
    assert [request.resume_from_index for request in requests_of(gateways)] == [0, 5, 5]


async def test_who_brings_a_key_may_be_taken_over_by_somebody_else_who_has_it(gateways):
    for gateway in gateways:
        gateway.ends = [(5, grpc.StatusCode.ABORTED, {"reason": "TAKEN_OVER"})]
    async with client_of(*gateways) as client:
        with pytest.raises(GenerateError) as caught:
            await read(client, idempotency_key="k")
    assert caught.value.reason == "TAKEN_OVER"
    assert len(requests_of(gateways)) == 1


async def test_who_brings_a_key_asks_again_once_for_each_call_of_its_own_that_may_have_taken_it_over(
    gateways,
):
    broken, taken_over = (5, grpc.StatusCode.UNAVAILABLE, {}), (5, grpc.StatusCode.ABORTED, {})
    async with client_of(gateways[0]) as client:
        gateways[0].ends = [broken, taken_over]
        assert await read(client, idempotency_key="k") == OUTPUT
        assert [request.resume_from_index for request in requests_of(gateways)] == [0, 5, 5]
        gateways[0].ends = [broken, taken_over, taken_over]
        with pytest.raises(GenerateError) as caught:
            await read(client, idempotency_key="k2")
    assert caught.value.status == "ABORTED"


async def test_a_gateway_that_is_killed_in_the_middle(gateways):
    for gateway in gateways:
        gateway.pause_s = 0.01
    async with client_of(*gateways) as client:
        reading = asyncio.ensure_future(read(client))
        await asyncio.sleep(0.1)
        [victim] = [gateway for gateway in gateways if gateway.requests]
        await victim.server.stop(None)
        assert await reading == OUTPUT
        assert await read(client) == OUTPUT, "later calls pass it over"


@pytest.mark.parametrize("pause_s", [0.01, 0.3])
async def test_a_gateway_that_falls_silent_is_noticed_by_pings(gateways, pause_s):
    """Whatever pings gRPC itself has on its way by then: it has some soon after every token."""
    for gateway in gateways:
        gateway.pause_s = pause_s
    relays = [Relay(gateway.address) for gateway in gateways]
    addresses = [await relay.start() for relay in relays]
    async with Client(addresses) as client:
        reading = asyncio.ensure_future(read(client))
        while not requests_of(gateways):
            await asyncio.sleep(0.01)
        await asyncio.sleep(5 * pause_s)
        [victim] = [one for one, gateway in zip(relays, gateways, strict=True) if gateway.requests]
        victim.fall_silent()
        silent_since = time.monotonic()
        while len(requests_of(gateways)) == 1:
            await asyncio.sleep(0.01)
        assert time.monotonic() - silent_since < (PING_EVERY_S + PING_TIMEOUT_S) * 1.5
        assert await reading == OUTPUT
    for relay in relays:
        await relay.stop()


async def test_each_generation_has_a_key_of_its_own_unless_the_caller_brings_one(gateways):
    async with client_of(*gateways) as client:
        await read(client)
        await read(client)
        await read(client, idempotency_key="mine")
    keys = [request.idempotency_key for request in requests_of(gateways)]
    assert len(set(keys)) == 3
    assert "mine" in keys


async def test_calls_begin_at_one_gateway_after_the_other(gateways):
    async with client_of(*gateways) as client:
        for _ in range(4):
            await read(client)
    assert [len(gateway.requests) for gateway in gateways] == [2, 2]


async def test_an_address_where_nobody_answers_is_passed_over(gateways):
    async with client_of(NOBODY, gateways[0]) as client:
        for _ in range(2):
            assert await read(client) == OUTPUT
        assert [model.name for model in await client.list_models()] == ["m"]


async def test_a_service_of_which_nobody_answers_is_an_error_at_once():
    started_at = time.monotonic()
    async with client_of(NOBODY, NOBODY) as client:
        with pytest.raises(GenerateError, match="no gateway answers") as caught:
            await read(client)
    assert caught.value.is_unreachable
    assert time.monotonic() - started_at < 3


async def test_a_service_that_has_answered_before_may_be_away_for_a_moment(a_gateway):
    """One name stands for all gateways: it leads to one that has just died until that is noticed."""
    gateway = await a_gateway()
    async with client_of(gateway) as client:
        assert await read(client) == OUTPUT
        await gateway.server.stop(None)
        reading = asyncio.ensure_future(read(client))
        await asyncio.sleep(0.3)
        assert not reading.done()
        await a_gateway(gateway.address)
        assert await reading == OUTPUT


@pytest.mark.parametrize(
    ("status", "details"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, {"reason": "QUEUE_FULL", "retry_after_s": 1.0}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"reason": "INVALID"}),
        (grpc.StatusCode.INTERNAL, {"reason": "QUARANTINED"}),
        (grpc.StatusCode.DEADLINE_EXCEEDED, {"reason": "DEADLINE"}),
        (grpc.StatusCode.UNAVAILABLE, {"reason": "UNAVAILABLE", "retry_after_s": 1.0}),  # no worker, say
    ],
)
async def test_a_refusal_is_told_and_not_asked_again(gateways, status, details):
    for gateway in gateways:
        gateway.ends = [(0, status, details)]
    async with client_of(*gateways) as client:
        with pytest.raises(GenerateError, match=status.name) as caught:
            await read(client)
    assert caught.value.reason == details["reason"]
    assert len(requests_of(gateways)) == 1


@pytest.mark.parametrize(
    "details", [b"\xff\xff", b"\x08\x05\x12\x05hello"], ids=["noise", "of-another-status"]
)
async def test_a_refusal_whose_details_are_damaged_is_the_plain_one(gateways, details):
    """Proxies may cut long trailers, or answer by themselves."""
    for gateway in gateways:
        gateway.damage = details
    async with client_of(*gateways) as client:
        with pytest.raises(GenerateError, match="RESOURCE_EXHAUSTED: not today") as caught:
            await read(client)
    assert (caught.value.reason, caught.value.retry_after_s) == ("", None)


async def test_a_gateway_that_leaves_sends_its_clients_to_another(gateways):
    """It says that there is nothing to wait for."""
    leaving = {"reason": "UNAVAILABLE", "retry_after_s": 0.0}
    for gateway in gateways:
        gateway.ends = [(0, grpc.StatusCode.UNAVAILABLE, leaving)]
    async with client_of(*gateways) as client:
        assert await read(client) == OUTPUT


async def test_what_has_begun_is_carried_through_a_service_without_workers(gateways):
    for gateway in gateways:
        gateway.ends = [
            (3, grpc.StatusCode.UNAVAILABLE, {}),
            (0, grpc.StatusCode.UNAVAILABLE, {"reason": "UNAVAILABLE", "retry_after_s": 0.1}),
        ]
    async with client_of(*gateways) as client:
        assert await read(client) == OUTPUT


async def test_at_last_it_gives_up(gateways):
    for gateway in gateways:
        gateway.ends = [(4, grpc.StatusCode.UNAVAILABLE, {})] * 1000
    async with client_of(*gateways, retry_for_s=0.3) as client:
        started_at = time.monotonic()
        with pytest.raises(GenerateError, match="UNAVAILABLE"):
            await read(client)
        assert 0.3 <= time.monotonic() - started_at < 2
    assert len(requests_of(gateways)) < 20, "it waits longer each time"


async def test_without_retries_the_first_break_is_told(gateways):
    for gateway in gateways:
        gateway.ends = [(4, grpc.StatusCode.UNAVAILABLE, {})]
    async with client_of(*gateways, retry_for_s=0) as client:
        with pytest.raises(GenerateError, match="UNAVAILABLE"):
            await read(client)


async def test_the_deadline_is_that_of_the_whole_generation(gateways):
    for gateway in gateways:
        gateway.pause_s = 0.05
        gateway.ends = [(3, grpc.StatusCode.UNAVAILABLE, {})]
    async with client_of(*gateways) as client:
        started_at = time.monotonic()
        with pytest.raises(GenerateError, match="DEADLINE_EXCEEDED"):
            await read(client, timeout_s=0.5)
        assert time.monotonic() - started_at < 1


async def test_who_leaves_the_loop_early_cancels_the_call(gateways):
    async with client_of(gateways[0]) as client:
        events = client.generate("sing")
        async for _ in events:
            break
        await events.aclose()
        assert await read(client) == OUTPUT
    assert len(gateways[0].requests) == 2


def test_a_service_without_addresses_is_refused():
    with pytest.raises(ValueError, match="addresses: got none"):
        Client([])
