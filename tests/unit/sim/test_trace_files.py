"""Whole files in the two formats of published traces, read as they lie on the disk and simulated.

The files are made by hand, with what the published ones have: a header and seven digits of a second, whole and
broken milliseconds, prefix blocks that are shared, missing or partial, a request that failed.
"""

from pathlib import Path

import pytest

from hortator.api.files import load_llmservice
from hortator.sim.arrivals import ArrivalMode, Arrivals
from hortator.sim.load import load_of
from hortator.sim.simulate import Study, engine_seconds_for, simulate, trace_workload
from hortator.sim.traces import TraceFormat, read_trace

HERE = Path(__file__).parent / "traces"
ROOT = Path(__file__).resolve().parents[3]


def _rows(trace):
    return [(r.arrived_at, r.num_prompt_tokens, r.num_output_tokens) for r in trace.requests]


def test_an_azure_file_is_read_line_by_line_with_its_parts_of_a_second():
    trace = read_trace(HERE / "azure.csv")
    assert (trace.format, trace.num_bad_lines, trace.num_failed) == (TraceFormat.AZURE, 0, 1)
    assert _rows(trace) == [
        (0.0, 374, 44),
        (0.25, 396, 109),
        (pytest.approx(0.5, abs=1e-6), 879, 55),
        (pytest.approx(0.5, abs=1e-6), 91, 16),
        (1.75, 1313, 12),
        (3.5, 6890, 391),
        (61.0, 1024, 1),
    ]
    assert all(request.prefix_block_ids == () for request in trace.requests)


def test_a_mooncake_file_is_read_with_broken_milliseconds_and_its_prefix_blocks():
    """Its times are not on buckets, so they stay exact."""
    trace = read_trace(HERE / "mooncake.jsonl")
    assert (trace.format, trace.num_bad_lines, trace.num_failed) == (TraceFormat.MOONCAKE, 0, 1)
    assert _rows(trace) == [
        (0.0, 1300, 52),
        (0.2505, 1024, 8),
        (1.0, 1700, 300),
        (1.75, 64, 26),
        (2.00025, 1301, 1),
        (4.1, 40, 5),
        (9.0, 1700, 9),
    ]
    assert [request.prefix_block_ids for request in trace.requests] == [
        (46, 47, 48),
        (46, 47),
        (46, 47, 48, 49),
        (50,),
        (46, 47, 51),
        (),
        (46, 47, 48, 49),
    ]


def test_prefix_blocks_of_a_file_become_hashes_of_the_engines_blocks():
    """512 tokens are 8 blocks of 64: 1 300 tokens fill 20 of them, of which 16 are the first two of the trace."""
    first, second, third, *_, no_ids, _ = read_trace(HERE / "mooncake.jsonl").requests
    hashes = first.prefix_hashes(64)
    assert len(hashes) == 20
    assert second.prefix_hashes(64) == hashes[:16]
    assert third.prefix_hashes(64)[:20] == hashes
    assert len(set(third.prefix_hashes(64))) == 1700 // 64
    assert no_ids.prefix_hashes(64) == ()


@pytest.mark.parametrize("name", ["azure.csv", "mooncake.jsonl"])
@pytest.mark.parametrize("mode", list(ArrivalMode))
def test_a_file_can_be_simulated_at_a_load(name, mode):
    """Tiled to ten seconds; every request of every tile ends."""
    of = load_llmservice(ROOT / "benchmarks/sim/clusters/h800-64.yaml")
    trace = read_trace(HERE / name)
    arrivals = Arrivals(mode=mode, period_s=5.0)
    workload = trace_workload(of, trace.requests, load=0.5, arrivals=arrivals, min_run_s=5.0)
    assert len(workload.requests) == 7 * workload.num_tiles
    offered = load_of(
        workload.requests, num_groups=2, engine_seconds=engine_seconds_for(of), wall_s=workload.wall_s
    )
    assert offered == pytest.approx(0.5)
    figures = simulate(Study(service=of, workload=workload), "staggered")
    assert figures["completed"] == figures["requests"] > 0
    prompt_tokens = sum(request.num_prompt_tokens for request in workload.requests)
    assert figures["prefill_tokens_per_s"] * figures["virtual_s"] == pytest.approx(prompt_tokens)
