"""Processes that live, and links between them that break: every link has a relay that the test can cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from group_processes import Process, a_free_port, processes
from live_stack import Metrics
from relays import Relay

from hortator.client import Client, Completion, Sampling

ENGINE = {"dp_size": 2, "kv_blocks_total": 1000, "time_scale": 0.15, "vocab_size": 127, "first_token_id": 32}
SAMPLING = Sampling(max_tokens=80, ignore_eos=True)
PROMPT = "Arma virumque cano"


class Service:
    """One worker, one scheduler, two gateways, and a relay on each link."""

    def __init__(self) -> None:
        self.links: dict[str, Relay] = {}
        self.addresses: dict[str, str] = {}

    async def link(self, name: str, target: str, port: int = 0) -> str:
        relay = self.links[name] = Relay(target)
        self.addresses[name] = await relay.start(port)
        return self.addresses[name]

    async def start(self, starter) -> None:
        scheduler = await asyncio.to_thread(starter.serving, "scheduler", host="127.0.0.1", port=0)
        worker_port, relay_port = a_free_port(), a_free_port()
        await self.link("gateways to worker", f"127.0.0.1:{worker_port}", relay_port)
        self.worker: Process = await asyncio.to_thread(
            starter.serving,
            "worker",
            host="127.0.0.1",
            port=worker_port,
            advertise_address=f"127.0.0.1:{relay_port}",
            scheduler_addresses=[await self.link("worker to scheduler", scheduler.address())],
            engine_options=ENGINE,
        )
        await asyncio.gather(*(self._start_gateway(starter, name, scheduler) for name in ("first", "second")))

    async def _start_gateway(self, starter, name: str, scheduler: Process) -> None:
        gateway = await asyncio.to_thread(
            starter.serving,
            "gateway",
            host="127.0.0.1",
            port=0,
            model="m",
            max_sequence_tokens=4096,
            tokenizer="bytes",
            scheduler_addresses=[await self.link(f"{name} gateway to scheduler", scheduler.address())],
        )
        await self.link(f"client to {name} gateway", gateway.address())

    def ended(self) -> dict[str, float]:
        """Requests that ended on the engine, by reason."""
        samples = Metrics(self.worker.metrics()).samples
        return {
            sample.labels["reason"]: sample.value
            for sample in samples
            if sample.name == "hortator_worker_ended_requests_total" and sample.value
        }


@pytest.fixture
async def service(tmp_path) -> AsyncIterator[Service]:
    service = Service()
    with processes(tmp_path) as starter:
        await service.start(starter)
        yield service
        for relay in service.links.values():
            await relay.stop()


async def read(service: Service, *links: str, cut=None, at=()) -> tuple[str, Completion]:
    """An answer by way of these links; `cut` is called when so many tokens are here."""
    text, pending = "", list(at)
    async with Client([service.addresses[link] for link in links]) as client:
        async for event in client.generate(PROMPT, sampling=SAMPLING):
            if isinstance(event, Completion):
                return text, event
            assert event.token_index == len(text)
            text += event.text
            if pending and len(text) >= pending[0]:
                pending.pop(0)
                cut()
    raise AssertionError("a stream ended without a completion")


FIRST, SECOND = "client to first gateway", "client to second gateway"


async def test_a_worker_that_lives_is_not_to_blame_for_its_link(service):
    """Three cuts: as crashes of a worker they would quarantine the request."""
    expected, _ = await read(service, FIRST)
    cut = service.links["gateways to worker"].cut
    text, completion = await read(service, FIRST, cut=cut, at=(5, 20, 40))
    assert text == expected
    assert completion.num_replacements == 3
    assert service.ended() == {"length": 2, "aborted": 3}


async def test_tokens_do_not_pass_the_scheduler(service):
    expected, _ = await read(service, FIRST)

    def cut() -> None:
        for link in ("worker to scheduler", "first gateway to scheduler"):
            service.links[link].cut()

    text, completion = await read(service, FIRST, cut=cut, at=(5,))
    assert text == expected
    assert completion.num_replacements == 0
    assert service.ended() == {"length": 2}


async def test_a_client_comes_back_over_another_connection(service):
    expected, _ = await read(service, FIRST)
    text, completion = await read(service, FIRST, cut=service.links[FIRST].cut, at=(5, 20))
    assert text == expected
    assert completion.num_output_tokens == 80
    ended = service.ended()
    assert ended.pop("aborted", 0) <= 2
    assert ended == {"length": 2}


async def test_a_client_comes_back_to_another_gateway_though_its_own_lives(service):
    """Its own cancels, as for a client that has left; the other takes it over, or begins after that."""
    expected, _ = await read(service, SECOND)

    def cut() -> None:
        service.links[FIRST].cut(for_good=True)

    for _ in range(2):  # a client begins at either gateway, by chance
        service.links[FIRST].is_open = True
        text, completion = await read(service, FIRST, SECOND, cut=cut, at=(5,))
        assert text == expected
        assert completion.num_output_tokens == 80
    ended = service.ended()
    assert ended.pop("aborted", 0) <= 2
    assert ended == {"length": 3}
