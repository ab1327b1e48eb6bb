import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from hortator.runtime.rpc_errors import FieldViolation, RpcErrorDetails, details_of, rich_status


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


def test_details_of_another_error_are_none():
    """The deadline passes while the server's error is on its way: its details come with the client's own code."""
    details = rich_status(grpc.StatusCode.UNAVAILABLE, "no worker", retry_after_s=1.0).SerializeToString()
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", details))
    error = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), trailing)
    assert details_of(error) == RpcErrorDetails()
