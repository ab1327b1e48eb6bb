"""What `--slo` reads, and which requests keep it."""

import pytest

from hortator.sim.records import RequestRecord, RequestTable
from hortator.sim.slo import Slo, parse_slo

NAN = float("nan")


def a_record(*, output=101, first_gap_s=0.01, num_late_gaps=0, **times):
    """First token after 1 s, the last one 2 s later."""
    values = {"arrived_at": 10.0, "first_token_at": 11.0, "finished_at": 13.0} | times
    values["second_token_at"] = values["first_token_at"] + first_gap_s
    return RequestRecord(
        request_id="r", num_prompt_tokens=1, num_output_tokens=output, num_late_gaps=num_late_gaps, **values
    )


def _keeps(record, slo):
    (is_kept,) = RequestTable.of([record]).keeps(slo)
    return bool(is_kept)


def test_limits_are_read_with_their_units():
    slo = parse_slo("ttft=2s, itl=50ms,e2e=1m30s")
    assert slo == Slo(ttft=2.0, itl=0.05, e2e=90.0)
    assert slo.limits() == {"ttft": 2.0, "itl": 0.05, "e2e": 90.0}
    assert Slo().limits() == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency=2s", "got 'latency=2s' (allowed: NAME=DURATION with ttft, tpot, itl, e2e)"),
        ("", "got '' (allowed: NAME=DURATION with ttft, tpot, itl, e2e)"),
        ("ttft=2", "ttft: got '2' (allowed: a duration like 5ms, 2s, 1m30s, 1h)"),
        ("ttft", "ttft: got '' (allowed: a duration like 5ms, 2s, 1m30s, 1h)"),
        ("ttft=1s,ttft=2s", "ttft is there twice"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_is_allowed(text, said):
    with pytest.raises(ValueError) as caught:
        parse_slo(text)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("slo", "is_kept"),
    [
        (Slo(ttft=1.0, tpot=0.02, e2e=3.0), True),
        (Slo(ttft=0.99), False),
        (Slo(tpot=0.0199), False),
        (Slo(e2e=2.99), False),
        (Slo(), True),
    ],
)
def test_a_request_keeps_an_slo_when_it_keeps_every_limit(slo, is_kept):
    assert _keeps(a_record(), slo) is is_kept


@pytest.mark.parametrize(
    ("late", "first_gap_s", "is_kept"), [(1, 0.01, True), (2, 0.01, False), (0, 0.9, True), (1, 0.9, False)]
)
def test_one_gap_of_a_hundred_may_be_late_the_first_one_among_them(late, first_gap_s, is_kept):
    record = a_record(num_late_gaps=late, first_gap_s=first_gap_s)
    assert _keeps(record, Slo(itl=0.05)) is is_kept


def test_who_never_ended_keeps_nothing_and_one_token_has_no_gaps():
    assert not _keeps(a_record(finished_at=NAN), Slo())
    one = a_record(output=1, first_gap_s=NAN)
    assert _keeps(one, Slo(itl=0.001, tpot=0.001, ttft=1.0))
