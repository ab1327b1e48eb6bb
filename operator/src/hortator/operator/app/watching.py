"""How kopf watches: alone, silently, for ever, and in a thread of its own.

- standalone: no peering objects; the Lease decides who writes, and everybody watches.
- scanning off: no permission to list CRDs or namespaces is needed; what is served is known before it starts.
- Every watch ends after `SERVER_TIMEOUT_S`, and begins anew when nothing, not even a bookmark, came for
  `inactivity_s`. A server that answers errors is asked again without end.
- posting off: events are the recorder's.
- Which kinds there are may change (a CRD comes or goes): then all watches begin anew.

kopf regards its event loop as its own: it takes the signals, cancels every other task when it ends, and ends
for good on an answer that it does not expect (a 404 of an API server that has just started, for example).
So it gets a loop in a thread, and is started again when it has ended; a complete list heals what it missed.
What it sees is handed to the operator's loop in order.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import kopf
import structlog

from hortator.operator.app.handlers import Login, Take, build_registry
from hortator.operator.kinds import Watched

SERVER_TIMEOUT_S = 300
"""A whole number: the API server takes no other."""
CLIENT_TIMEOUT_S = 310.0
REQUEST_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
CHUNK_SIZE = 500
RESTART_PAUSE_S = 1.0
WIND_UP_S = 3.0
KINDS_S = 2.0
"""Between looks at whether other kinds are to be watched."""


class EndlessBackoffs:
    """Pauses between attempts, without a last one."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1.0, 2.0, 3.0), itertools.repeat(5.0))


def kopf_settings(kinds: Sequence[Watched], *, inactivity_s: float) -> kopf.OperatorSettings:
    """The settings of kopf for these kinds."""
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # the process ends itself
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.server_timeout = SERVER_TIMEOUT_S
    settings.watching.client_timeout = CLIENT_TIMEOUT_S
    settings.watching.connect_timeout = CONNECT_TIMEOUT_S
    settings.watching.inactivity_timeout = inactivity_s
    settings.watching.chunk_size = CHUNK_SIZE
    settings.networking.request_timeout = REQUEST_TIMEOUT_S
    settings.networking.connect_timeout = CONNECT_TIMEOUT_S
    settings.networking.error_backoffs = EndlessBackoffs()
    settings.networking.enforce_retry_after = True
    for kind in kinds:
        selector = (*kind.group_version, kind.plural)
        if kind.labels:
            settings.watching.label_selectors[selector] = _joined(kind.labels)
        if kind.fields:
            settings.watching.field_selectors[selector] = _joined(kind.fields)
    return settings


class Watcher:
    """Watches until it is cancelled; `take` is called in the loop that runs `run`."""

    def __init__(
        self,
        kinds: Callable[[], Sequence[Watched]],
        *,
        namespaces: Sequence[str],
        inactivity_s: float,
        take: Take,
        login: Login,
    ) -> None:
        """No `namespaces` means all. `login` is called in kopf's loop; `kinds` says what there is now."""
        self._kinds = kinds
        self._namespaces = namespaces
        self._inactivity_s = inactivity_s
        self._take = take
        self._login = login
        self._log = structlog.get_logger("hortator.operator.app.watching")
        logging.getLogger("kopf").setLevel(logging.WARNING)  # its log of every event is not wanted
        logging.getLogger("kopf._core.reactor.running").addFilter(_is_not_about_signals)

    async def run(self) -> None:
        """Run kopf again and again."""
        while True:
            error = await self._run_once()
            why = f"{type(error).__name__}: {error}" if error is not None else "other kinds are watched now"
            self._log.warning("the watches ended and begin anew", error=why)
            await asyncio.sleep(RESTART_PAUSE_S)

    async def _run_once(self) -> BaseException | None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[BaseException | None] = loop.create_future()
        kopf_loop = asyncio.new_event_loop()
        is_stopped = asyncio.Event()
        kinds = self._kinds()

        def tell_end(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def live() -> None:
            error: BaseException | None = None
            try:
                error = kopf_loop.run_until_complete(self._kopf(loop, is_stopped, kinds))
            except BaseException as raised:  # noqa: BLE001  # told to the loop that waits for it
                error = raised
            finally:
                _wind_up(kopf_loop)
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell_end, error)

        threading.Thread(target=live, name="kopf", daemon=True).start()
        try:
            while not ended.done() and self._kinds() == kinds:
                await asyncio.wait({ended}, timeout=KINDS_S)
            return ended.result() if ended.done() else None
        finally:
            if not kopf_loop.is_closed():
                kopf_loop.call_soon_threadsafe(is_stopped.set)

    async def _kopf(
        self, loop: asyncio.AbstractEventLoop, is_stopped: asyncio.Event, kinds: Sequence[Watched]
    ) -> BaseException | None:
        """Until it is stopped, or any part of kopf has ended: the error of that part.

        kopf's own way of running its parts waits for all of them to end in good order, which after some
        errors they never do.
        """
        sessions: list[kopf.AiohttpSession] = []

        def take(kind: Watched, event: kopf.RawEvent) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._take, kind, event)

        async def log_in() -> kopf.AiohttpSession:
            sessions.append(await self._login())
            return sessions[-1]

        parts = await kopf.spawn_tasks(
            registry=build_registry(kinds=kinds, take=take, login=log_in),
            settings=kopf_settings(kinds, inactivity_s=self._inactivity_s),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        stop = asyncio.create_task(is_stopped.wait())
        try:
            done, _ = await asyncio.wait({*parts, stop}, return_when=asyncio.FIRST_COMPLETED)
            errors = [task.exception() for task in done if not task.cancelled()]
            return next((error for error in errors if error is not None), None)
        finally:
            for session in sessions:
                await session.aiohttp_session.close()


def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """End what is left in a loop, as far as it ends within a moment."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=WIND_UP_S))
    loop.close()


def _is_not_about_signals(record: logging.LogRecord) -> bool:
    return "OS signals are ignored" not in record.getMessage()


def _joined(pairs: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(pairs.items()))
