"""Errors that a program can act on: google.rpc details on gRPC statuses.

A server calls `abort(context, code, message, ...)`; a client calls `details_of(error)`. The details are
the standard ones, so that any gRPC client can read them:

- BadRequest: which field is wrong and why (`violations`).
- RetryInfo: when to come back (`retry_after_s`).
- ErrorInfo: a stable upper-case word for programs (`reason`) with a few strings (`metadata`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

ERROR_DOMAIN = "hortator.dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One field of a message that is wrong."""

    field: str
    """Path in the words of the message, for example ``sampling.temperature``."""
    description: str
    """What is wrong and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcErrorDetails:
    """What an error says beside its code and message; empty where it says nothing."""

    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def rich_status(
    code: grpc.StatusCode,
    message: str,
    *,
    violations: Sequence[FieldViolation] = (),
    retry_after_s: float | None = None,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
) -> status_pb2.Status:
    """Build a google.rpc.Status with the details that were given.

    Raises:
        ValueError: `retry_after_s` is negative or not finite.
    """
    details: list[any_pb2.Any] = []
    if violations:
        details.append(
            _packed(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                        for v in violations
                    ]
                )
            )
        )
    if retry_after_s is not None:
        if not (math.isfinite(retry_after_s) and retry_after_s >= 0):
            raise ValueError(f"retry_after_s must be finite and >= 0, got {retry_after_s}")
        whole = int(retry_after_s)
        delay = duration_pb2.Duration(seconds=whole, nanos=int((retry_after_s - whole) * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    if reason:
        info = error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=dict(metadata or {}))
        details.append(_packed(info))
    return status_pb2.Status(code=code.value[0], message=message, details=details)


async def abort(
    context: grpc.aio.ServicerContext[Any, Any],
    code: grpc.StatusCode,
    message: str,
    *,
    violations: Sequence[FieldViolation] = (),
    retry_after_s: float | None = None,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
) -> NoReturn:
    """End the call with `code`, `message` and details. Raises to unwind the handler."""
    status = rpc_status.to_status(
        rich_status(
            code,
            message,
            violations=violations,
            retry_after_s=retry_after_s,
            reason=reason,
            metadata=metadata,
        )
    )
    await context.abort(code, message, trailing_metadata=tuple(status.trailing_metadata))
    raise AssertionError("context.abort returned")


async def abort_invalid(
    context: grpc.aio.ServicerContext[Any, Any], violations: Sequence[FieldViolation]
) -> NoReturn:
    """INVALID_ARGUMENT whose message lists every violation and whose details name the fields."""
    message = "; ".join(f"{v.field}: {v.description}" for v in violations)
    await abort(context, grpc.StatusCode.INVALID_ARGUMENT, message, violations=violations)


def details_of(error: grpc.aio.AioRpcError) -> RpcErrorDetails:
    """Read the details back. An error without any, or with ones we do not know, gives an empty result."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # of another error: the deadline passed while the server's came
        return RpcErrorDetails()
    if status is None:
        return RpcErrorDetails()
    violations: list[FieldViolation] = []
    retry_after_s: float | None = None
    reason = ""
    metadata: dict[str, str] = {}
    for detail in status.details:
        bad_request = error_details_pb2.BadRequest()
        retry_info = error_details_pb2.RetryInfo()
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(bad_request):
            violations.extend(
                FieldViolation(field=v.field, description=v.description) for v in bad_request.field_violations
            )
        elif detail.Unpack(retry_info):
            retry_after_s = retry_info.retry_delay.seconds + retry_info.retry_delay.nanos / 1e9
        elif detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
    return RpcErrorDetails(
        violations=tuple(violations), retry_after_s=retry_after_s, reason=reason, metadata=metadata
    )


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
