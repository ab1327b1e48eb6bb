"""One number for all that a machine said: SHA-256 over its commands, their order and their times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from hortator.scheduler.core.commands import Command
from hortator.scheduler.event_json import encode_tagged


class CommandDigest:
    """SHA-256 over commands, their order and their times."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, now: float, commands: Sequence[Command]) -> None:
        """Add what one event led to."""
        for command in commands:
            line = json.dumps([now, *encode_tagged(command)], separators=(",", ":"), sort_keys=True)
            self._hash.update(line.encode() + b"\n")

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()
