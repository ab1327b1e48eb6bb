"""Memory does not grow with the number of requests: it has a fixed size, and what is in flight."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from statistics import mean

import pytest

from hortator.scheduler.core.model import GroupSpec, Phase, SchedulerSettings
from hortator.sim.cluster import GroupPlan, VirtualCluster
from hortator.sim.disturbances import Disturbances
from hortator.sim.disturbed import DisturbedCluster
from hortator.sim.records import RequestRecord
from hortator.sim.results import MAX_EXACT_GAPS, Recorder, summarize
from hortator.sim.slo import Slo
from hortator.sim.streams import GeneratedRequests, RetimedRequests
from hortator.sim.workload import LENGTHS, TraceRequest, poisson_arrivals
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_config import GroupConfig

ROW_BYTES = 80
DP_SIZE = 4


def growth_per_request(work: Callable[[int], object], few: int, many: int) -> float:
    """Bytes that Python had allocated at the most, per request that `many` have more than `few`."""
    work(few // 10)  # what is only made once
    peaks = []
    for num in (few, many):
        tracemalloc.start()
        work(num)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (many - few)


def _plan(group_id: str, phase: Phase) -> GroupPlan:
    cost = PassCost(dp_size=DP_SIZE)
    config = GroupConfig(dp_size=DP_SIZE, kv_blocks_total=4000)
    spec = GroupSpec(
        group_id=group_id, phase=phase, dp_size=DP_SIZE, chunk_budget_tokens=8192, kv_blocks_total=4000
    )
    return GroupPlan(spec=spec, config=config, cost=cost)


class Steady:
    """Requests all alike, 100 a second: as many are in flight late as early. Looks at memory as it goes."""

    def __init__(self, num: int, *, settled: int) -> None:
        self.num = num
        self._settled = settled
        self._bytes: list[int] = []

    def __iter__(self) -> Iterator[TraceRequest]:
        tracemalloc.start()
        for index in range(self.num):
            if index >= self._settled and index % 250 == 0:
                gc.collect()
                self._bytes.append(tracemalloc.get_traced_memory()[0])
            yield TraceRequest(arrived_at=index / 100.0, num_prompt_tokens=200, num_output_tokens=8)
        tracemalloc.stop()

    def growth_per_request(self) -> float:
        """Between the middles of the first and the second half of what was seen."""
        half = len(self._bytes) // 2
        return (mean(self._bytes[half:]) - mean(self._bytes[:half])) / (250 * half)


def _figures(
    requests: Iterable[TraceRequest], recorder: Recorder, disturbances: Disturbances | None = None
) -> dict[str, object]:
    plans = [_plan("p0", Phase.PREFILL), _plan("d0", Phase.DECODE)]
    settings = SchedulerSettings(policy="staggered")
    cluster = (
        VirtualCluster(plans, settings, recorder)
        if disturbances is None
        else DisturbedCluster(plans, settings, recorder, disturbances)
    )
    cluster.run(requests)
    return summarize(recorder, num_groups=2)


def _run(requests: Steady, *, max_rows: int | None, disturbances: Disturbances | None = None) -> None:
    recorder = Recorder(
        keep_records=False, max_rows=max_rows, max_gaps=MAX_EXACT_GAPS if max_rows is None else 100
    )
    figures = _figures(requests, recorder, disturbances)
    assert figures["completed"] == requests.num
    assert figures["stable"]
    assert (recorder.sums is None) == (max_rows is None)
    assert (recorder.gap_sums is None) == (max_rows is None)


DISTURBED = [pytest.param(None, id="perfect"), pytest.param(Disturbances(latency_s=0.002), id="disturbed")]


@pytest.mark.parametrize("disturbances", DISTURBED)
def test_what_a_run_holds_does_not_grow_once_its_sums_are_there(disturbances: Disturbances | None) -> None:
    """Sums of requests after 500 rows, of gaps after 256 passes."""
    requests = Steady(6000, settled=3500)
    _run(requests, max_rows=500, disturbances=disturbances)
    assert abs(requests.growth_per_request()) < 0.25 * ROW_BYTES


def test_rows_that_are_kept_for_a_table_take_their_bytes() -> None:
    """So the measurement sees what a request takes."""
    requests = Steady(2500, settled=1000)
    _run(requests, max_rows=None)
    assert requests.growth_per_request() > 0.8 * ROW_BYTES


@pytest.mark.parametrize(
    "disturbances",
    [
        pytest.param(None, id="perfect"),
        pytest.param(Disturbances(latency_s=0.002, loss_every_s=8.0, away_s=2.0), id="groups die"),
    ],
)
def test_a_run_that_was_summed_has_the_figures_of_one_that_was_kept(
    disturbances: Disturbances | None,
) -> None:
    """Counts, late gaps, means and maxima are the same, percentiles within the stated error."""
    slo = Slo(ttft=0.09, itl=0.093)
    requests = GeneratedRequests.draw(
        lengths=LENGTHS["short-prompt-lognormal"],
        arrivals=poisson_arrivals(rate_per_s=20.0, duration_s=40.0),
        seed=5,
    )
    kept = _figures(requests, Recorder(warmup_s=5.0, slo=slo), disturbances)
    recorder = Recorder(warmup_s=5.0, slo=slo, keep_records=False, max_rows=100, max_gaps=10)
    summed = _figures(requests, recorder, disturbances)
    error = summed.pop("percentile_error")
    assert list(summed) == list(kept)
    for name, figure in kept.items():
        assert summed[name] == pytest.approx(figure, rel=error if name.endswith("_s") else 1e-12), name
        if isinstance(figure, dict) and "max" in figure:
            assert summed[name]["max"] == figure["max"], name
            assert summed[name]["mean"] == pytest.approx(figure["mean"], rel=1e-12), name
    assert 0.0 < kept["slo_attainment"] < 1.0


def test_a_hundred_thousand_ended_requests_take_what_thirty_thousand_do() -> None:
    """Rows of 2^14, and chunks of as many."""

    def work(num: int) -> None:
        recorder = Recorder(keep_records=False, max_rows=1 << 14)
        for index in range(num):
            at = index / 100.0
            record = RequestRecord(
                request_id="r",
                arrived_at=at,
                num_prompt_tokens=100,
                num_output_tokens=1,
                dispatched_at=at,
                started_at=at + 0.1,
                first_token_at=at + 0.2,
                finished_at=at + 0.2,
            )
            recorder.arrive(record)
            recorder.finish(record)
        recorder.end(num / 100.0)
        assert summarize(recorder, num_groups=1)["requests"] == num

    assert growth_per_request(work, 30_000, 100_000) < 0.01 * ROW_BYTES


def test_a_generated_workload_is_never_there_at_once() -> None:
    def work(num: int) -> None:
        drawn = GeneratedRequests.draw(
            lengths=LENGTHS["conversation"],
            arrivals=poisson_arrivals(rate_per_s=100.0, duration_s=num / 100.0),
            seed=0,
        )
        stream = RetimedRequests(
            requests=drawn, num_tiles=1, period_s=num / 90.0, first_at=0.0, stretch=1.1, num_blocks=0
        )
        assert sum(1 for _ in stream) == len(stream) == pytest.approx(num, rel=0.05)

    assert growth_per_request(work, 20_000, 60_000) < 0.5
