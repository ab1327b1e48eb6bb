"""What can go wrong in the scheduler's shell, each mapped once to a gRPC status in `service`."""

from __future__ import annotations

from enum import Enum


class InvalidMessageError(Exception):
    """One message of a stream makes no sense. The message is dropped, the stream goes on."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        """Path in the words of the message, for example ``announcement.num_prompt_tokens``."""
        self.description = description


class UnknownMessageError(InvalidMessageError):
    """A kind of message that is not expected here, or not known to this version."""


class CloseReason(Enum):
    """Why the scheduler itself ends a stream."""

    REPLACED = "replaced by a newer stream of the same peer"
    OVERFLOW = "the peer reads too slowly"
    DECLARED_LOST = "declared lost: no report in time"
    NONSENSE = "none of the last reports made sense"
    STALLED = "declared lost: it has work and runs no pass"
    STOPPED = "the scheduler stops"


class NotLeaderError(Exception):
    """Asked of a standby what only the leader can do."""

    def __init__(self) -> None:
        super().__init__("a standby; the leader is another scheduler of this service")


class OutboxClosedError(Exception):
    """Nothing more will be written to this stream."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class RecordingError(Exception):
    """A recorded file cannot be read or replayed; the message names file and line."""
