"""Names are looked up again and again; addresses stand for themselves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from hortator.runtime.endpoints import Endpoints, resolve_host


class Names:
    """A name service whose answers a test changes."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers: dict[str, list[str] | OSError] = dict(answers)
        self.num_asked = 0

    async def __call__(self, host: str) -> list[str]:
        self.num_asked += 1
        answer = self.answers.get(host, OSError("no such name"))
        if isinstance(answer, OSError):
            raise answer
        return answer


@asynccontextmanager
async def looking_up(addresses, names):
    endpoints = Endpoints(addresses, resolve=names, interval_s=1.0)
    changes = []
    endpoints.on_change(lambda: changes.append(endpoints.current))
    task = asyncio.ensure_future(endpoints.run())
    try:
        yield endpoints, changes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_addresses_are_known_at_once_and_never_looked_up():
    names = Names()
    endpoints = Endpoints(["127.0.0.1:7070", "[::1]:7071", "127.0.0.1:7070"], resolve=names)
    assert endpoints.current == ("127.0.0.1:7070", "[::1]:7071")
    await endpoints.run()
    assert names.num_asked == 0


async def test_a_name_stands_for_all_its_addresses():
    async with looking_up(["svc:7070"], Names(svc=["10.0.0.2", "10.0.0.1", "10.0.0.2"])) as (endpoints, _):
        assert endpoints.current == ()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert endpoints.current == ("10.0.0.1:7070", "10.0.0.2:7070")


async def test_of_two_families_only_one_is_used_lest_every_peer_counts_twice():
    async with looking_up(["a:1", "b:2"], Names(a=["fd00::1", "10.0.0.1"], b=["fd00::2"])) as (endpoints, _):
        await asyncio.sleep(0.01)
        assert endpoints.current == ("10.0.0.1:1", "[fd00::2]:2")


@pytest.mark.looptime
async def test_a_new_address_is_found_within_the_interval_and_said_once():
    names = Names(svc=["10.0.0.1"])
    async with looking_up(["svc:7070"], names) as (endpoints, changes):
        await asyncio.sleep(0.5)
        names.answers["svc"] = ["10.0.0.9"]
        assert not endpoints.has_moved("10.0.0.1:7070")
        await asyncio.sleep(1.0)
        assert endpoints.has_moved("10.0.0.1:7070")
        await asyncio.sleep(5.0)
        assert changes == [("10.0.0.1:7070",), ("10.0.0.9:7070",)]


@pytest.mark.looptime
async def test_a_name_service_that_is_away_changes_nothing():
    names = Names(svc=["10.0.0.1"])
    async with looking_up(["svc:7070"], names) as (endpoints, changes):
        await asyncio.sleep(0.5)
        names.answers["svc"] = OSError("temporary failure")
        await asyncio.sleep(2.0)
        names.answers["svc"] = []
        await asyncio.sleep(2.0)
        assert endpoints.current == ("10.0.0.1:7070",)
        assert len(changes) == 1


async def test_the_system_is_asked_for_real():
    assert "127.0.0.1" in await resolve_host("localhost")
