"""What goes wrong, in one class."""

from __future__ import annotations

import re

import grpc
import grpc.aio

from hortator.runtime.rpc_errors import FieldViolation, details_of


class GenerateError(Exception):
    """The gateway did not do what it was asked; `str()` is `STATUS: message`."""

    def __init__(
        self,
        status: str,
        message: str,
        *,
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
        has_connected: bool = True,
    ) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        """Name of the gRPC status, for example RESOURCE_EXHAUSTED."""
        self.message = message
        self.reason = reason
        """A stable word for programs, for example QUARANTINED; empty when there is none."""
        self.violations = violations
        self.retry_after_s = retry_after_s
        self.has_connected = has_connected
        """False: no connection came about, so no gateway has seen the request."""

    @property
    def is_unreachable(self) -> bool:
        """True when nobody answered: no gateway listens there."""
        return self.status == "UNAVAILABLE" and not self.reason


def generate_error(error: grpc.aio.AioRpcError, address: str) -> GenerateError:
    """A failed call to the gateway at `address` in our words."""
    details = details_of(error)
    message = error.details() or ""
    has_connected = True
    if error.code() is grpc.StatusCode.UNAVAILABLE and re.search(r"connect|ipv[46]:", message):
        has_connected = False
        message = f"no gateway answers at {address}"
    return GenerateError(
        error.code().name,
        message,
        reason=details.reason,
        violations=details.violations,
        retry_after_s=details.retry_after_s,
        has_connected=has_connected,
    )


def wrong_token(address: str, token_index: int, wanted: int) -> GenerateError:
    """The gateway at `address` breaks the order of tokens: what it sends cannot be used."""
    return GenerateError(
        "INTERNAL", f"the gateway at {address} sent token {token_index} in place of {wanted}"
    )


def ended_early(address: str) -> GenerateError:
    """The gateway at `address` ended its answer in good order, but without the completion."""
    return GenerateError("UNAVAILABLE", f"the gateway at {address} ended its answer in the middle")
