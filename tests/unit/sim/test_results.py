"""The figures of a virtual run, from records with literal times."""

from dataclasses import replace

import numpy as np
import pytest

from hortator.sim.distribution import Distribution
from hortator.sim.records import RequestRecord, RequestTable
from hortator.sim.results import Recorder, is_stable, percentiles, summarize
from hortator.sim.rows import COLUMNS, join_rows, write_rows
from hortator.sim.slo import Slo


def a_record(number, *, arrived_at, waits_s=0.0, decodes_s=0.0, output=1, **fields):
    """A request that is dispatched at once, has its first token after `waits_s`, the last `decodes_s` later."""
    first = arrived_at + waits_s
    times = {
        "dispatched_at": arrived_at,
        "first_token_at": first,
        "second_token_at": first + decodes_s / 2 if output > 1 else float("nan"),
        "finished_at": first + decodes_s,
    }
    return RequestRecord(
        request_id=f"r{number}",
        arrived_at=arrived_at,
        num_prompt_tokens=100,
        num_output_tokens=output,
        **(times | fields),
    )


def a_run(*waits_s):
    """One arrival a second; a request that waits w seconds, as all around it do, sees ceil(w) in the queue, itself too."""
    return [a_record(at, arrived_at=float(at), waits_s=wait_s) for at, wait_s in enumerate(waits_s)]


def a_table(records):
    return RequestTable.of(records)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (0.0, 0.0, 0.0, 0.0, 0.0)),
        ([3.0], (3.0, 3.0, 3.0, 3.0, 3.0)),
        # Between neighbours in proportion: p90 of four is at place 2.7, so 3 + 0.7.
        ([4.0, 1.0, 3.0, 2.0], (2.5, 2.5, 3.7, 3.97, 4.0)),
        (range(100, -1, -1), (50.0, 50.0, 90.0, 99.0, 100.0)),
        ([1.0] * 99 + [101.0], (2.0, 1.0, 1.0, 2.0, 101.0)),
    ],
)
def test_percentiles_of_literal_values(values, expected):
    figures = percentiles(list(values))
    assert list(figures) == ["mean", "p50", "p90", "p99", "max"]
    assert tuple(figures.values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("second_s", "last_s", "expected"),
    [
        pytest.param(2.5, 2.5, True, id="3 in the queue, and 3 at the end"),
        pytest.param(2.5, 5.5, True, id="3, and 6: twice as many is not more than twice"),
        pytest.param(2.5, 6.5, False, id="3, and 7"),
        pytest.param(5.5, 2.5, True, id="a queue that shrinks"),
        pytest.param(0.5, 1.5, True, id="1, and 2"),
        pytest.param(0.5, 2.5, False, id="1, and 3"),
    ],
)
def test_a_run_is_unstable_when_the_last_fifth_queues_more_than_twice_what_the_second_does(
    second_s, last_s, expected
):
    """100 arrivals, one a second; what they wait changes in the middle."""
    assert is_stable(a_table(a_run(*[second_s] * 60, *[last_s] * 40))) is expected


def test_a_queue_that_grows_all_the_time_is_unstable():
    """Served at half the rate of arrival."""
    assert not is_stable(a_table([a_record(at, arrived_at=float(at), waits_s=1.0 + at) for at in range(100)]))


def test_requests_that_never_start_are_in_the_queue_and_rejected_ones_are_not():
    run = a_run(*[0.5] * 100)
    nan = float("nan")
    stuck = [a_record(200 + i, arrived_at=80.0 + i, first_token_at=nan, finished_at=nan) for i in range(20)]
    together = sorted([*run, *stuck], key=lambda record: record.arrived_at)
    assert not is_stable(a_table(together))
    for record in stuck:
        record.rejected = "queue_full_requests"
    assert is_stable(a_table(together))


def test_fewer_than_50_requests_say_nothing():
    assert is_stable(a_table([a_record(at, arrived_at=float(at), waits_s=1.0 + at) for at in range(49)]))


@pytest.fixture
def recorder():
    """Warm-up until 10 s; then two requests that end, one that is rejected and one that is not done."""
    recorder = Recorder(warmup_s=10.0)
    nan = float("nan")
    for record in (
        a_record(0, arrived_at=5.0, waits_s=100.0),
        a_record(1, arrived_at=10.0, waits_s=1.0, decodes_s=4.0, output=5),
        a_record(2, arrived_at=11.0, waits_s=3.0, decodes_s=6.0, output=3, dispatched_at=11.5),
        a_record(3, arrived_at=12.0, first_token_at=nan, finished_at=nan, dispatched_at=nan),
        a_record(4, arrived_at=13.0, first_token_at=nan, finished_at=nan),
    ):
        recorder.arrive(record)
    recorder.reject("r3", "queue_full_requests")
    recorder.end(50.0)
    return recorder


def test_a_summary_counts_who_arrived_after_the_warm_up(recorder):
    figures = summarize(recorder, num_groups=2)
    assert (figures["requests"], figures["completed"], figures["rejected"]) == (4, 2, 1)
    assert figures["ttft_s"] == pytest.approx({"mean": 2.0, "p50": 2.0, "p90": 2.8, "p99": 2.98, "max": 3.0})
    assert figures["hold_s"]["mean"] == pytest.approx(0.25)
    assert figures["e2e_s"]["max"] == pytest.approx(9.0)
    assert figures["first_gap_s"]["mean"] == pytest.approx(2.5)  # 2 and 3 s
    assert figures["tpot_s"]["mean"] == pytest.approx(2.0)  # 4 s over 4 tokens, 6 s over 2
    assert figures["output_tokens_per_s"] == pytest.approx(9 / 50)  # those of warm-up requests as well
    assert figures["prefill_tokens_per_s"] == pytest.approx(
        300 / 50
    )  # warm-up requests were computed as well
    assert figures["virtual_s"] == 50.0
    assert figures["stable"] is True


def test_a_summary_says_that_a_run_was_unstable():
    recorder = Recorder()
    for record in a_run(*[2.5] * 60, *[6.5] * 40):
        recorder.arrive(record)
    recorder.end(200.0)
    assert summarize(recorder, num_groups=1)["stable"] is False


def test_gaps_between_tokens_weigh_as_often_as_they_were_seen(recorder):
    """97 gaps of 10 ms, 2 of 20 ms in one group; one of 1 s in another; a gap that no token saw."""
    recorder.token_gaps = [
        (np.array([0.010, 5.0, 0.020]), np.array([97, 0, 2])),
        (np.array([1.0]), np.array([1])),
    ]
    figures = summarize(recorder, num_groups=2)["itl_s"]
    assert figures == pytest.approx({"mean": 0.0201, "p50": 0.010, "p90": 0.010, "p99": 0.020, "max": 1.0})


def test_without_tokens_there_are_no_gaps(recorder):
    assert summarize(recorder, num_groups=2)["itl_s"] == percentiles([])


def test_waiting_in_engines_is_from_dispatch_to_the_first_pass(recorder):
    """Requests of the warm-up wait in the same queues: the depth is over all of them."""
    for record, started_at in zip(recorder.records, (45.0, 10.5, 12.0), strict=False):
        record.started_at = started_at
    figures = summarize(recorder, num_groups=2)
    assert figures["engine_queue_s"]["mean"] == pytest.approx(0.5)  # 10.0 to 10.5, 11.5 to 12.0
    assert figures["engine_queue_depth"] == pytest.approx((40.0 + 0.5 + 0.5) / 50.0)


def test_goodput_is_told_when_there_is_an_slo(recorder):
    """Of four that count, one has its first token within 2 s; 40 s are counted."""
    assert "goodput_rps" not in summarize(recorder, num_groups=2)
    recorder.slo = Slo(ttft=2.0)
    figures = summarize(recorder, num_groups=2)
    assert figures["slo"] == {"ttft": 2.0}
    assert figures["goodput_rps"] == pytest.approx(1 / 40.0)
    assert figures["slo_attainment"] == pytest.approx(1 / 4)


def test_rows_have_every_request_and_nothing_where_it_never_got_there(recorder, tmp_path):
    recorder.records[1].started_at = 10.5
    recorder.records[1].dp_rank = 3
    recorder.records[1].prefill_group = "prefill-0"
    recorder.records[3].tenant = 2
    write_rows(tmp_path, "first", recorder.records[1:2])
    write_rows(tmp_path, "second", recorder.records[3:4])
    join_rows(tmp_path / "rows.csv", tmp_path, ["first", "second"])
    assert (tmp_path / "rows.csv").read_text().splitlines() == [
        ",".join(COLUMNS),
        "first,r1,,10.000000,100,5,prefill-0,3,0.000000,0.500000,1.000000,2.000000,1.000000,5.000000,",
        "second,r3,tenant-2,12.000000,100,1,,,,,,,,,queue_full_requests",
    ]


def test_a_run_that_keeps_no_records_has_the_same_figures(recorder):
    """Whether requests were kept as objects or, once ended, as rows of numbers, in whatever order they ended."""
    rows = Recorder(warmup_s=10.0, slo=Slo(ttft=2.0, itl=0.05), keep_records=False)
    recorder.slo = rows.slo
    for record in recorder.records:
        record.started_at = record.dispatched_at + 0.25
        rows.arrive(replace(record, rejected=""))
    rows.reject("r3", "queue_full_requests")
    for request_id in ("r2", "r0", "r1"):
        rows.finish(rows.live[request_id])
    rows.end(50.0)
    assert rows.records == []
    assert summarize(rows, num_groups=2) == summarize(recorder, num_groups=2)


def a_long_run(num, *, keep_records=True, **limits):
    """Seeded: a hundred requests a second for `num`, ended out of order; 1 in 50 rejected, 20 never end."""
    rng = np.random.default_rng(7)
    recorder = Recorder(warmup_s=2.0, slo=Slo(ttft=1.0, itl=0.05), keep_records=keep_records, **limits)
    waits_s, decodes_s = rng.exponential(0.8, num).tolist(), rng.gamma(2.0, 2.0, num).tolist()
    outputs, late = rng.integers(1, 200, num).tolist(), rng.integers(0, 3, num).tolist()
    nan = float("nan")
    ends: dict[float, RequestRecord] = {}
    for number in range(num):
        at = number / 100.0
        record = a_record(
            number,
            arrived_at=at,
            waits_s=waits_s[number],
            decodes_s=decodes_s[number],
            output=outputs[number],
            started_at=at + waits_s[number] / 2,
            num_late_gaps=late[number],
        )
        if number % 50 == 7:
            record.first_token_at = record.second_token_at = record.finished_at = nan
            record.dispatched_at = record.started_at = nan
            ends[at + 0.5] = record
        elif number >= num - 20:
            record.finished_at = nan
        else:
            ends[record.finished_at] = record
        recorder.arrive(record)
    for _, record in sorted(ends.items()):
        if np.isnan(record.finished_at):
            recorder.reject(record.request_id, "queue_full_requests")
        else:
            recorder.finish(record)
    recorder.end(num / 100.0 + 30.0)
    return recorder


def test_as_many_requests_as_are_kept_as_rows_have_exact_figures():
    exact = summarize(a_long_run(5000), num_groups=2)
    assert "percentile_error" not in exact
    assert summarize(a_long_run(5000, keep_records=False, max_rows=4980), num_groups=2) == exact


@pytest.mark.parametrize("max_rows", [4979, 100])
def test_more_requests_have_exact_counts_and_means_and_percentiles_within_the_stated_error(max_rows):
    """4 980 end."""
    exact = summarize(a_long_run(5000), num_groups=2)
    recorder = a_long_run(5000, keep_records=False, max_rows=max_rows)
    summed = summarize(recorder, num_groups=2)
    assert summarize(recorder, num_groups=2) == summed
    error = summed.pop("percentile_error")
    assert error == 0.001
    assert list(summed) == list(exact)
    for name, of_all in exact.items():
        if not isinstance(of_all, dict) or name == "slo":
            assert summed[name] == pytest.approx(of_all, rel=1e-12), name
            continue
        assert summed[name]["max"] == of_all["max"], name
        assert summed[name] == pytest.approx(of_all, rel=error, abs=1e-6), name
        assert summed[name]["mean"] == pytest.approx(of_all["mean"], rel=1e-12), name
    assert exact["rejected"] > 0
    assert exact["completed"] < exact["requests"] - exact["rejected"]
    assert 0.0 < exact["slo_attainment"] < 1.0


def test_sums_are_kept_by_tenant_from_the_first_request_on():
    """Those without one come first, fill sums of their own, and are counted under the empty name."""
    everyone = a_long_run(5000)
    for number, record in enumerate(everyone.records):
        record.tenant = 0 if number < 2500 else 1 + number % 2
    exact = summarize(everyone, num_groups=2)["tenants"]
    assert set(exact) == {"", "tenant-1", "tenant-2"}
    summing = Recorder(warmup_s=2.0, slo=Slo(ttft=1.0, itl=0.05), keep_records=False, max_rows=100)
    for record in everyone.records:
        summing.arrive(record)
        if record.rejected or not np.isnan(record.finished_at):
            summing.finish(record)
    summing.end(everyone.ended_at)
    summed = summarize(summing, num_groups=2)["tenants"]
    assert list(summed) == list(exact)
    for name, of_all in exact.items():
        assert summed[name]["requests"] == of_all["requests"]
        assert summed[name]["rejected"] == of_all["rejected"]
        assert summed[name]["ttft_s"] == pytest.approx(of_all["ttft_s"], rel=0.001, abs=1e-6)


def test_a_table_that_is_wanted_must_be_asked_for_before_rows_become_sums():
    with pytest.raises(ValueError, match="more than 100 requests have ended"):
        a_long_run(200, keep_records=False, max_rows=100).table()
    everyone = a_long_run(200, keep_records=False, max_rows=None).table()
    assert len(everyone.arrived_at) == 200
    assert everyone.arrived_at.tolist() == sorted(everyone.arrived_at)


@pytest.mark.parametrize(("waits_s", "expected"), [((2.5, 4.5), True), ((2.5, 6.5), False)])
def test_sums_tell_whether_a_run_was_stable_as_rows_do(waits_s, expected):
    """One arrival in a tenth of a second: 26 in the queue and 46, or 66."""
    recorder = Recorder(keep_records=False, max_rows=10)
    for number in range(1000):
        record = a_record(number, arrived_at=number / 10.0, waits_s=waits_s[number >= 600])
        recorder.arrive(record)
        recorder.finish(record)
    recorder.end(200.0)
    assert summarize(recorder, num_groups=1)["stable"] is expected


def test_gaps_that_were_summed_are_told_as_those_that_were_kept(recorder):
    gaps, times = np.random.default_rng(3).lognormal(-3.5, 0.4, 500), np.arange(500)
    recorder.token_gaps = [(gaps, times)]
    exact = summarize(recorder, num_groups=2)["itl_s"]
    recorder.token_gaps, recorder.gap_sums = [], Distribution()
    recorder.gap_sums.add(gaps[:200], times[:200])
    recorder.gap_sums.add(gaps[200:], times[200:])
    figures = summarize(recorder, num_groups=2)
    assert figures["itl_s"] == pytest.approx(exact, rel=figures["percentile_error"])
    assert figures["itl_s"]["max"] == exact["max"]


def test_ttft_is_there_by_tenant_where_requests_have_one(recorder):
    assert "tenants" not in summarize(recorder, num_groups=1)
    for record in recorder.records:
        record.tenant = 1 + (record.rejected != "")
    found = summarize(recorder, num_groups=1)
    assert found["tenants"].keys() == {"tenant-1", "tenant-2"}
    assert found["tenants"]["tenant-1"]["ttft_s"] == found["ttft_s"]
    assert found["tenants"]["tenant-2"]["rejected"] == found["tenants"]["tenant-2"]["requests"] == 1
    assert found["tenants"]["tenant-1"]["requests"] == found["requests"] - 1
