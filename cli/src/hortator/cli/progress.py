"""What a person sees while a stack starts and stops: lines with the time, and a spinner on a terminal."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from hortator.cli.processes import ProcessChanged
from hortator.cli.stack import StackEvent, Waiting


class Progress:
    """Lines with the time since the start, and on a terminal a spinner that says what is waited for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_at = time.monotonic()
        self._status: Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.done()

    def on_event(self, event: StackEvent) -> None:
        """Show one step of a stack."""
        match event:
            case Waiting():
                self.waiting(event.for_what)
            case ProcessChanged(state="starting"):
                self.line(f"{event.name:<12} starting")
            case ProcessChanged(state="died"):
                self.line(f"[red]{event.name:<12} {escape(event.detail)}[/red]")
            case ProcessChanged():
                self.line(f"{event.name:<12} {event.state} {escape(event.detail)}".rstrip())

    def line(self, text: str) -> None:
        """One line, with the time."""
        self._console.print(f"[dim]{time.monotonic() - self._started_at:6.1f} s[/dim]  {text}")

    def waiting(self, for_what: str) -> None:
        """What nothing happens without; on a terminal until the next call or `done`."""
        if not self._console.is_terminal:
            self.line(f"[dim]waiting for {for_what}[/dim]")
        elif self._status is None:
            self._status = self._console.status(f"waiting for {for_what}")
            self._status.start()
        else:
            self._status.update(f"waiting for {for_what}")

    def done(self) -> None:
        """Nothing is waited for any more."""
        if self._status is not None:
            self._status.stop()
            self._status = None
