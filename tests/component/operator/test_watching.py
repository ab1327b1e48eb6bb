"""kopf against an API server that misbehaves: what it sees reaches the operator, and it writes nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import kopf
import pytest
from kubernetes.aio.client.configuration import Configuration

from doubles.kubernetes.api import ApiError, ApiServer, Obj
from doubles.kubernetes.http_front import HttpFront
from hortator.operator.app.watching import Watcher
from hortator.operator.client.configuration import open_session
from hortator.operator.kinds import EVENTS, PODS, SCALERS, SERVICES, Watched
from hortator.operator.names import LABEL_MANAGED_BY, OPERATOR_NAME

TIMEOUT_S = 20.0


class Seen:
    """What the watcher has handed over."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str | None, str]] = []
        self.kinds: tuple[Watched, ...] = (PODS, EVENTS, SERVICES)
        self.threads: set[str] = set()

    def take(self, kind: Watched, event: kopf.RawEvent) -> None:
        self.threads.add(threading.current_thread().name)
        metadata: Any = event["object"]["metadata"]
        self.events.append((kind.kind, event["type"], metadata["name"]))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.sleep(0.02)

    def names(self) -> set[str]:
        return {name for _, _, name in self.events}


@pytest.fixture
async def front() -> AsyncIterator[HttpFront]:
    async with HttpFront(ApiServer()) as front:
        yield front


@pytest.fixture
async def seen(front: HttpFront) -> AsyncIterator[Seen]:
    seen = Seen()

    async def log_in() -> kopf.AiohttpSession:
        return kopf.AiohttpSession(
            server=front.url, aiohttp_session=open_session(Configuration(host=front.url))
        )

    watcher = Watcher(
        lambda: seen.kinds,
        namespaces=("default",),
        inactivity_s=2.0,
        take=seen.take,
        login=log_in,
    )
    task = asyncio.create_task(watcher.run())
    yield seen
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await seen.until(lambda: not any(thread.name == "kopf" for thread in threading.enumerate()))


def pod(name: str, *, is_ours: bool = True) -> Obj:
    labels = {LABEL_MANAGED_BY: OPERATOR_NAME} if is_ours else {}
    metadata = {"name": name, "namespace": "default", "labels": labels}
    spec = {"containers": [{"name": "engine", "image": "x"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def pod_key(name: str) -> tuple[str, str, str, str]:
    return "v1", "Pod", "default", name


async def test_what_is_there_and_what_changes_is_seen(front: HttpFront, seen: Seen) -> None:
    front.api.create(pod("first"))
    await seen.until(lambda: ("Pod", "first") in {(kind, name) for kind, _, name in seen.events})
    front.api.create(pod("second"))
    front.api.create(pod("foreign", is_ours=False))
    await seen.until(lambda: "second" in seen.names())
    front.api.delete(pod_key("second"))
    await seen.until(lambda: ("Pod", "DELETED", "second") in seen.events)
    assert "foreign" not in seen.names()
    assert seen.threads == {"MainThread"}


async def test_nothing_is_written(front: HttpFront, seen: Seen) -> None:
    front.api.create(pod("first"))
    await seen.until(lambda: "first" in seen.names())
    front.api.patch(pod_key("first"), {"metadata": {"labels": {"a": "b"}}})
    front.api.delete(pod_key("first"))
    await seen.until(lambda: ("Pod", "DELETED", "first") in seen.events)
    assert {method for method, _ in front.requests} == {"GET"}


async def test_a_version_that_was_forgotten_begins_anew(front: HttpFront, seen: Seen) -> None:
    front.api.create(pod("first"))
    await seen.until(lambda: "first" in seen.names() and front.api.watches)
    front.api.create(pod("unrelated", is_ours=False))
    front.api.compact()
    for watch in list(front.api.watches):
        watch.close()
    front.api.create(pod("second"))
    await seen.until(lambda: "second" in seen.names())


async def test_a_silent_watch_begins_anew(front: HttpFront, seen: Seen) -> None:
    front.api.create(pod("first"))
    await seen.until(lambda: "first" in seen.names())
    front.mute_watches = True
    front.api.create(pod("second"))
    await asyncio.sleep(0.5)
    assert "second" not in seen.names()
    front.mute_watches = False  # what was on the way to the silent connections is lost
    for watch in list(front.api.watches):
        watch.events.clear()
    await seen.until(lambda: "second" in seen.names())


async def test_a_kind_that_comes_later_is_watched_from_then_on(front: HttpFront, seen: Seen) -> None:
    front.api.create(pod("first"))
    await seen.until(lambda: "first" in seen.names())
    scaler = {"apiVersion": SCALERS.api_version, "kind": SCALERS.kind, "spec": {"serviceName": "demo"}}
    front.api.create(scaler | {"metadata": {"name": "decode", "namespace": "default"}})
    seen.kinds = (SCALERS, *seen.kinds)
    await seen.until(lambda: "decode" in seen.names())
    front.api.create(pod("second"))
    await seen.until(lambda: "second" in seen.names())


async def test_an_answer_that_ends_kopf_does_not_end_the_watching(front: HttpFront, seen: Seen) -> None:
    """An API server that has just started says 404 for custom resources, which kopf takes for final."""
    front.api.create(pod("first"))
    await seen.until(lambda: "first" in seen.names())
    front.fail = lambda _method, path: (
        ApiError(404, "NotFound", "404 page not found") if path.endswith("/llmservices") else None
    )
    for watch in list(front.api.watches):
        watch.close()
    await asyncio.sleep(2.0)
    front.fail = lambda _method, _path: None
    front.api.create(pod("second"))
    await seen.until(lambda: "second" in seen.names())


async def test_errors_without_end_are_outlived(front: HttpFront, seen: Seen) -> None:
    front.fail = lambda _method, _path: ApiError(500, "InternalError", "etcdserver: no leader")
    await asyncio.sleep(3.0)
    front.fail = lambda _method, _path: None
    front.api.create(pod("first"))
    await seen.until(lambda: "first" in seen.names())
