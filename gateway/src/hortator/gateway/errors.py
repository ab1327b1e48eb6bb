"""Why a request failed, in the gateway's own words; `service` maps each kind once to a gRPC status."""

from __future__ import annotations

from enum import Enum

from hortator.runtime.rpc_errors import FieldViolation


class ErrorKind(Enum):
    """What went wrong. The value is the `reason` of google.rpc.ErrorInfo and the label of metrics."""

    UNAUTHENTICATED = "UNAUTHENTICATED"
    """No API key, or one that is not known."""
    FORBIDDEN = "FORBIDDEN"
    """The API key may not be used for this tenant."""
    INVALID = "INVALID"
    """The request itself is wrong; `violations` name the fields."""
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    QUEUE_FULL = "QUEUE_FULL"
    """Refused at arrival; `retry_after_s` says when to come back."""
    QUEUE_TIMEOUT = "QUEUE_TIMEOUT"
    DEADLINE = "DEADLINE"
    UNAVAILABLE = "UNAVAILABLE"
    """No worker, no scheduler, or this gateway drains."""
    CANCELLED = "CANCELLED"
    QUARANTINED = "QUARANTINED"
    """The request was on too many workers when they failed."""
    TAKEN_OVER = "TAKEN_OVER"
    """The client came back at another gateway, where the request goes on."""
    SLOW_CLIENT = "SLOW_CLIENT"
    """The client took no message for too long, or sent no request."""
    LIMIT = "LIMIT"
    """More than a limit of this gateway allows; the message names its setting."""


_FINAL = frozenset(
    {
        ErrorKind.UNAUTHENTICATED,
        ErrorKind.FORBIDDEN,
        ErrorKind.INVALID,
        ErrorKind.UNKNOWN_MODEL,
        ErrorKind.QUARANTINED,
    }
)


class GatewayError(Exception):
    """A request ended without a completion."""

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        retry_after_s: float | None = None,
        violations: tuple[FieldViolation, ...] = (),
        limit: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s
        self.violations = violations
        self.limit = limit
        """The setting that allows no more, where it is one."""

    @property
    def is_final(self) -> bool:
        """True when trying the same request again gives the same answer."""
        return self.kind in _FINAL


class ChatError(Exception):
    """A chat cannot be made one text; the message says why."""


def over_limit(setting: str, message: str, *, retry_after_s: float | None = None) -> GatewayError:
    """More than a setting of this gateway allows; without `retry_after_s` it is of no use to come back."""
    return GatewayError(ErrorKind.LIMIT, f"{message} ({setting})", retry_after_s=retry_after_s, limit=setting)


class TokenizerError(Exception):
    """The tokenizer that settings name cannot be used; the message names it."""
