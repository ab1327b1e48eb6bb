import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from hortator.runtime.rpc_errors import FieldViolation, RpcErrorDetails, details_of, rich_status

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_status_without_details_has_only_code_and_message():
    status = rich_status(grpc.StatusCode.NOT_FOUND, "no such model")
    assert (status.code, status.message, len(status.details)) == (5, "no such model", 0)


def test_violations_become_one_bad_request_in_order():
    status = rich_status(
        grpc.StatusCode.INVALID_ARGUMENT,
        "bad",
        violations=[FieldViolation(field="a", description="x"), FieldViolation(field="b", description="y")],
    )
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [("a", "x"), ("b", "y")]


def test_a_fractional_retry_delay_keeps_its_nanoseconds():
    status = rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_after_s=1.25)
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 250_000_000)


@pytest.mark.parametrize("delay_s", [-1.0, float("inf"), float("nan")])
def test_a_retry_delay_that_is_no_delay_is_refused(delay_s):
    with pytest.raises(ValueError, match="retry_after_s must be finite and >= 0"):
        rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_after_s=delay_s)


def error_with(status: bytes) -> grpc.aio.AioRpcError:
    """What a client catches when a server, or a proxy between them, sends these bytes as details."""
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", status))
    return grpc.aio.AioRpcError(FULL, grpc.aio.Metadata(), metadata, "full")


def a_status(*details: any_pb2.Any, message: str = "full", code: int = FULL.value[0]) -> bytes:
    return status_pb2.Status(code=code, message=message, details=details).SerializeToString()


def packed(message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


def a_delay(seconds: int, nanos: int = 0) -> any_pb2.Any:
    return packed(
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds, nanos=nanos))
    )


REASON = packed(error_details_pb2.ErrorInfo(reason="QUEUE_FULL"))
TORN = any_pb2.Any(type_url=a_delay(1).type_url, value=b"\x0a\x7f")


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(b"\xff\xff\xff", id="no-message"),
        pytest.param(a_status(REASON)[:-3], id="cut-short"),
        pytest.param(a_status(REASON, code=5), id="another-code"),
        pytest.param(a_status(REASON, code=4711), id="no-code"),
        pytest.param(a_status(REASON, message="empty"), id="another-message"),
        pytest.param(b"", id="empty"),
    ],
)
def test_damaged_details_are_none(status):
    assert details_of(error_with(status)) == RpcErrorDetails()


def test_one_damaged_detail_leaves_the_others():
    assert details_of(error_with(a_status(TORN, REASON))) == RpcErrorDetails(reason="QUEUE_FULL")


@pytest.mark.parametrize(
    "delay",
    [a_delay(-1), a_delay(0, -1), a_delay(1 << 62), a_delay(0, 2_000_000_000), a_delay(-(1 << 62))],
)
def test_a_delay_that_no_server_of_ours_sends_is_none(delay):
    assert details_of(error_with(a_status(delay, REASON))) == RpcErrorDetails(reason="QUEUE_FULL")


def test_details_of_another_error_are_none():
    """The deadline passes while the server's error is on its way: its details come with the client's own code."""
    details = rich_status(grpc.StatusCode.UNAVAILABLE, "no worker", retry_after_s=1.0).SerializeToString()
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", details))
    error = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), trailing)
    assert details_of(error) == RpcErrorDetails()
