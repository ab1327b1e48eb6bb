"""Everything that the API server says of a namespace while a test runs, and when it said it.

What a condition says at the end of a test is not how it got there: tests of "exactly one restart" and "within 5 s"
ask the record. A watch begins where a list ended, so nothing is missed, and the times are those of arrival here.
"""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.kube import Kube, Obj

WATCHED = (
    ("serving.hortator.dev/v1alpha1", "LLMService"),
    ("apps/v1", "StatefulSet"),
    ("v1", "Pod"),
    ("v1", "Event"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One word of the API server."""

    at: float
    """time.monotonic()"""
    is_gone: bool
    obj: Obj

    @property
    def name(self) -> str:
        """Of the object."""
        name: str = self.obj["metadata"]["name"]
        return name


@dataclass(slots=True, kw_only=True)
class Recorder:
    """What was seen, kind by kind, in the order of arrival."""

    _seen: dict[str, list[Seen]] = field(default_factory=dict)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _errors: list[str] = field(default_factory=list)

    def add(self, kind: str, seen: Seen) -> None:
        """One more."""
        with self._news:
            self._seen.setdefault(kind, []).append(seen)
            self._news.notify_all()

    def fail(self, message: str) -> None:
        """A watch has broken: the record is not complete."""
        with self._news:
            self._errors.append(message)
            self._news.notify_all()

    def all(self, kind: str, name: str | None = None) -> list[Seen]:
        """All states of the objects of a kind, or of one of them."""
        with self._news:
            assert not self._errors, self._errors
            return [seen for seen in self._seen.get(kind, []) if name is None or seen.name == name]

    def first(
        self, kind: str, holds: Callable[[Obj], Any], *, since: float = 0.0, timeout_s: float = 30.0
    ) -> Seen:
        """The first state, since some time, of which something holds; waits for it."""
        deadline, start = time.monotonic() + timeout_s, 0
        while True:
            found = self.all(kind)
            for seen in found[start:]:
                if seen.at >= since and not seen.is_gone and holds(seen.obj):
                    return seen
            start = len(found)
            with self._news:
                if len(self._seen.get(kind, [])) == start and not self._news.wait(
                    max(deadline - time.monotonic(), 0.0)
                ):
                    last = json.dumps(found[-1].obj.get("status")) if found else "nothing"
                    raise TimeoutError(f"no {kind} as wanted in {timeout_s:g} s; the last one: {last}")

    def quiet(self, kinds: Sequence[str], *, for_s: float, timeout_s: float = 30.0) -> None:
        """Wait until nothing has been said of these kinds for so long."""
        deadline = time.monotonic() + timeout_s
        while True:
            last = max((seen.at for kind in kinds for seen in self.all(kind)[-1:]), default=0.0)
            left_s = last + for_s - time.monotonic()
            if left_s <= 0:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{', '.join(kinds)}: something changes all the time")
            with self._news:
                self._news.wait(left_s)


@contextlib.contextmanager
def recording(client: Kube, namespace: str, kinds: Sequence[tuple[str, str]] = WATCHED) -> Iterator[Recorder]:
    """Record until the block ends."""
    recorder = Recorder()
    with contextlib.ExitStack() as stack:
        for api_version, kind in kinds:
            path = client.path(api_version, kind, namespace)
            listed = client.request("GET", path)
            for obj in listed["items"]:
                recorder.add(kind, Seen(at=time.monotonic(), is_gone=False, obj=obj))
            stack.enter_context(
                _watching(client, path, listed["metadata"]["resourceVersion"], kind, recorder)
            )
        yield recorder


@contextlib.contextmanager
def _watching(client: Kube, path: str, version: str, kind: str, recorder: Recorder) -> Iterator[None]:
    connection = http.client.HTTPSConnection(client.host, client.port, context=client.context, timeout=600)
    connection.request("GET", f"{path}?watch=1&resourceVersion={version}", headers=dict(client.headers))
    sock, response = connection.sock, connection.getresponse()
    is_over = threading.Event()

    def read() -> None:
        try:
            while line := response.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    recorder.fail(f"the watch of {kind} ended: {event['object'].get('message')}")
                    return
                is_gone = event["type"] == "DELETED"
                recorder.add(kind, Seen(at=time.monotonic(), is_gone=is_gone, obj=event["object"]))
        except (OSError, ValueError, http.client.HTTPException, AttributeError) as error:
            if not is_over.is_set():
                recorder.fail(f"the watch of {kind} broke: {error!r}")

    reader = threading.Thread(target=read, name=f"watch-{kind}", daemon=True)
    reader.start()
    try:
        yield
    finally:
        is_over.set()
        with contextlib.suppress(OSError):
            sock.shutdown(2)
        reader.join(timeout=5)
        connection.close()
