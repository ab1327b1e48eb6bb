"""A thread that notices when the engine is dead or hangs, and makes sure that the process ends.

A worker without its engine must not live: the group is started again when it exits. Lines of the library
before rank crashes are propagated keep a dead engine that calls itself healthy, so progress counts for more
than health.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

EXIT_CODE = 70


def exit_soon(exit_process: Callable[[int], object], *, grace_s: float) -> None:
    """End the process by force unless it ends by itself: hooks and threads of a dead engine hang."""
    timer = threading.Timer(grace_s, exit_process, args=(EXIT_CODE,))
    timer.daemon = True
    timer.start()


@dataclass(slots=True)
class Progress:
    """Written on the event loop, read by the thread."""

    is_busy: bool = False
    """There are requests in the engine that must bring tokens."""
    last_at: float = 0.0

    def touch(self) -> None:
        """The engine did something."""
        self.last_at = time.monotonic()


class Watchdog:
    """`on_dead` is called in the thread, once, with why."""

    def __init__(
        self,
        llm: Any,
        progress: Progress,
        *,
        no_progress_timeout_s: float,
        on_dead: Callable[[str], None],
        exit_process: Callable[[int], object],
        interval_s: float,
        exit_grace_s: float,
    ) -> None:
        self._llm = llm
        self._progress = progress
        self._no_progress_timeout_s = no_progress_timeout_s
        self._on_dead = on_dead
        self._exit_process = exit_process
        self._interval_s = interval_s
        self._exit_grace_s = exit_grace_s
        self._stopped = threading.Event()
        self._log = structlog.get_logger("hortator.worker.engines.trtllm.watchdog")

    def start(self) -> None:
        """Watch until `stop` or death."""
        threading.Thread(target=self._run, name="trtllm-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def exit_soon(self) -> None:
        """End the process by force unless it ends by itself."""
        exit_soon(self._exit_process, grace_s=self._exit_grace_s)

    def symptom(self) -> str | None:
        """Why the engine counts as dead; None: it does not."""
        fatal = self._attribute("_fatal_error")
        if fatal is not None:
            return f"fatal error: {fatal}"
        if self._is_unhealthy():
            return "it says that it is not healthy"
        progress = self._progress
        silent_s = time.monotonic() - progress.last_at
        if progress.is_busy and silent_s > self._no_progress_timeout_s:
            return f"no progress for {silent_s:.1f} s with requests in the engine"
        return None

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            found = self.symptom()
            if found is not None:
                self._log.critical("the engine is dead", why=found)
                self.exit_soon()
                self._on_dead(found)
                return

    def _attribute(self, name: str) -> Any:
        return getattr(getattr(self._llm, "_executor", None), name, None)

    def _is_unhealthy(self) -> bool:
        check = getattr(self._llm, "_check_health", None)
        if not callable(check):
            return False
        try:
            return check() is False
        except Exception as error:  # noqa: BLE001  # what cannot be asked is unknown
            self._log.debug("health cannot be asked", error=repr(error))
            return False
