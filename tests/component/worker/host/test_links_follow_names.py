"""Schedulers behind a name: one link to each address, new ones found, lost ones let go."""

from __future__ import annotations

import asyncio
import socket

import pytest

from hortator.runtime.endpoints import Endpoints
from hortator.worker.client.report import SchedulerLinks

pytestmark = pytest.mark.timeout(30)


class Names:
    """A name service with one name."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str) -> list[str]:
        assert host == "svc-scheduler"
        return list(self.answers)


def a_free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def schedulers(scheduler):
    """Two schedulers on one port of two addresses."""
    port = a_free_port()
    both = []
    for host in ("127.0.0.2", "127.0.0.3"):
        fake = type(scheduler)()
        await fake.start(port, host)
        both.append(fake)
    yield both
    for fake in both:
        await fake.stop()


@pytest.fixture
async def links_of(an_engine, a_worker):
    """Start links of a fresh worker to what a name stands for."""
    tasks = []

    async def start(names: Names, port: int) -> SchedulerLinks:
        worker = await a_worker(an_engine())
        endpoints = Endpoints([f"svc-scheduler:{port}"], resolve=names, interval_s=0.05)
        links = SchedulerLinks(endpoints, worker.host, max_backoff_s=0.2)
        worker.host.add_sink(links)
        tasks.append(asyncio.ensure_future(links.run()))
        return links

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def port_of(scheduler) -> int:
    return int(scheduler.address.rpartition(":")[2])


async def test_each_address_of_the_name_gets_the_reports(schedulers, links_of):
    links = await links_of(Names("127.0.0.2", "127.0.0.3"), port_of(schedulers[0]))
    for scheduler in schedulers:
        await scheduler.report("hello")
        await scheduler.report("rank_states")
    assert links.num_up == 2


async def test_a_scheduler_that_comes_back_elsewhere_is_found(schedulers, links_of):
    old, new = schedulers
    names = Names("127.0.0.2")
    links = await links_of(names, port_of(old))
    await old.report("hello")
    await old.stop()
    names.answers = ["127.0.0.3"]
    await new.report("hello")
    await until(lambda: links.addresses == (new.address,))


async def test_a_link_that_works_is_kept_when_its_address_is_no_longer_named(schedulers, links_of):
    old, new = schedulers
    names = Names("127.0.0.2")
    links = await links_of(names, port_of(old))
    await old.report("hello")
    names.answers = ["127.0.0.3"]
    await new.report("hello")
    num_reports = len(old.of("rank_states"))
    await old.report("rank_states", num_reports + 2)
    assert old.num_streams == 1
    assert links.num_up == 2


async def test_an_address_that_is_named_again_is_dialled_again(schedulers, links_of):
    old, new = schedulers
    port = port_of(old)
    names = Names("127.0.0.2")
    links = await links_of(names, port)
    await old.report("hello")
    await old.stop()
    names.answers = ["127.0.0.3"]
    await new.report("hello")
    await until(lambda: links.addresses == (new.address,))
    await old.start(port, "127.0.0.2")
    names.answers = ["127.0.0.2", "127.0.0.3"]
    await old.report("hello", 1)


async def test_leaving_ends_all_links_in_order(schedulers, links_of):
    links = await links_of(Names("127.0.0.2", "127.0.0.3"), port_of(schedulers[0]))
    for scheduler in schedulers:
        await scheduler.report("hello")
    links.leave()
    for scheduler in schedulers:
        await scheduler.until(lambda scheduler=scheduler: scheduler.has_left)
