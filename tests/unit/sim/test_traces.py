import os
from pathlib import Path

import pytest

from hortator.sim.traces import TraceError, TraceFormat, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:17:03.9799600,4808,10\r
2023-11-16 18:17:04.9799600,3180,8\r
2023-11-16 18:18:03.9799600,110,27\r
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.109930+00:00,2399,6
"""
MOONCAKE = """{"timestamp": 0, "input_length": 600, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 512, "output_length": 3, "hash_ids": [0]}
{"timestamp": 2999, "input_length": 1025, "output_length": 7, "hash_ids": [0, 1, 2]}
{"timestamp": 6001, "input_length": 5, "output_length": 7, "hash_ids": [3]}
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118.5,GPT-4,417,276,693,API log
"""


@pytest.fixture
def a_file(tmp_path):
    def write(text, name="trace"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def _brief(trace):
    return [(r.arrived_at, r.num_prompt_tokens, r.num_output_tokens) for r in trace.requests]


def test_azure_times_are_seconds_since_the_first_request(a_file):
    trace = read_trace(a_file(AZURE))
    assert trace.format is TraceFormat.AZURE
    assert _brief(trace) == [(0.0, 4808, 10), (pytest.approx(1.0), 3180, 8), (pytest.approx(60.0), 110, 27)]


def test_azure_times_with_an_offset_are_read_too(a_file):
    assert _brief(read_trace(a_file(AZURE_2024)))[1] == (pytest.approx(0.1, abs=1e-6), 2399, 6)


def test_burstgpt_failures_are_left_out_and_counted(a_file):
    trace = read_trace(a_file(BURSTGPT))
    assert trace.format is TraceFormat.BURSTGPT
    assert _brief(trace) == [(0.0, 472, 18), (113.5, 417, 276)]
    assert (trace.num_failed, trace.num_bad_lines) == (1, 0)


def test_burstgpt_columns_are_found_by_name(a_file):
    text = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,1,2.5,GPT-4,3,4,7,API log\n"
    assert _brief(read_trace(a_file(text))) == [(0.0, 3, 4)]


def test_mooncake_requests_keep_their_prefix_blocks_and_order(a_file):
    trace = read_trace(a_file(MOONCAKE))
    assert trace.format is TraceFormat.MOONCAKE
    assert [r.prefix_block_ids for r in trace.requests] == [(0, 1), (0,), (0, 1, 2), (3,)]
    assert {r.prefix_block_tokens for r in trace.requests} == {512}


def test_mooncake_times_are_spread_within_their_three_second_buckets(a_file):
    times = [r.arrived_at for r in read_trace(a_file(MOONCAKE), seed=1).requests]
    shift = 3.0 - times[2]  # the first request moved to 0; buckets are 3 s apart whatever the shift
    assert times[0] == 0.0
    assert times == sorted(times)
    assert 0.0 < times[1] < 3.0
    assert times[3] - times[2] < 6.0
    assert shift < 3.0


def test_many_mooncake_requests_fill_a_bucket_evenly(a_file):
    line = '{{"timestamp": {}, "input_length": 5, "output_length": 1, "hash_ids": [1]}}\n'
    trace = read_trace(a_file("".join(line.format(3000 * (i // 500)) for i in range(2000))))
    times = [r.arrived_at for r in trace.requests]
    # 2,000 requests over 12 s: any second holds a twelfth, 167, give or take 5 sigma (62)
    counts = [sum(second <= at < second + 1 for at in times) for second in range(11)]
    assert all(105 < count < 229 for count in counts)


def test_the_spread_is_a_function_of_the_seed(a_file):
    path = a_file(MOONCAKE)
    assert read_trace(path, seed=1) == read_trace(path, seed=1)
    assert read_trace(path, seed=1) != read_trace(path, seed=2)


def test_exact_millisecond_times_are_not_spread(a_file):
    text = MOONCAKE.replace("2999", "1234")
    assert [r.arrived_at for r in read_trace(a_file(text)).requests] == [0.0, 0.0, 1.234, 6.001]


def test_a_file_in_another_order_is_sorted_by_time(a_file):
    lines = AZURE.splitlines(keepends=True)
    assert _brief(read_trace(a_file(lines[0] + lines[3] + lines[1] + lines[2])))[0] == (0.0, 4808, 10)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (AZURE.replace("3180", "31x0"), 3, "ContextTokens '31x0' (allowed: 1 to 16777216)"),
        (AZURE.replace("3180", "-5"), 3, "ContextTokens '-5' (allowed: 1 to 16777216)"),
        (AZURE.replace("3180", "0"), 3, "ContextTokens '0' (allowed: 1 to 16777216)"),
        (AZURE.replace("3180", "9" * 400), 3, f"ContextTokens '{'9' * 199}... (allowed: 1 to 16777216)"),
        (AZURE.replace("110,27", "110"), 4, "2 columns, the first line names 3"),
        (
            AZURE.replace("2023-11-16 18:18", "yesterday"),
            4,
            "TIMESTAMP 'yesterday:03.9799600' is no date and time",
        ),
        (BURSTGPT.replace("118.5", "nan"), 4, "Timestamp 'nan' is no number of seconds"),
        (
            MOONCAKE.replace('{"timestamp": 2999', '{"timestamp" 2999'),
            3,
            "not JSON: Expecting ':' delimiter: line 1 column 14 (char 13)",
        ),
        (MOONCAKE.replace('"output_length": 3, ', ""), 2, "output_length is missing"),
        (MOONCAKE.replace("2999", '"x"'), 3, "timestamp 'x' is no number of milliseconds"),
        (
            MOONCAKE.replace("[0, 1, 2]", "[0, 1]"),
            3,
            "hash_ids has 2 entries, but 1025 tokens are 3 blocks of 512",
        ),
        (MOONCAKE.replace("[3]", '["3"]'), 4, "hash_ids is no list of whole numbers from 0 on"),
        (MOONCAKE.replace("1025", "true"), 3, "input_length True (allowed: 1 to 16777216)"),
        (MOONCAKE + "[1]\n", 5, "not a JSON object"),
    ],
)
def test_a_bad_line_names_file_and_line_and_is_skipped_only_when_told(a_file, text, line, what):
    path = a_file(text)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value) == f"{path}:{line}: {what}"
    trace = read_trace(path, skip_bad=True)
    assert trace.num_bad_lines == 1
    num_rows = len(text.splitlines()) - (0 if text.startswith("{") else 1)
    assert len(trace.requests) + trace.num_failed == num_rows - 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: empty file"),
        ("\n \n", ":1: empty file"),
        ("a,b,c\n1,2,3\n", (":1: not a trace we know (allowed: azure CSV with TIMESTAMP, ContextTokens, GeneratedTokens; "
         "burstgpt CSV with Timestamp, Request tokens, Response tokens; mooncake JSON lines)")),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", ": no requests in it"),
        (b"\x00\xff\xfe\x01", ":1: not a trace we know"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_trace_says_what_would_be(a_file, text, message):
    path = a_file(text)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_a_missing_file_is_a_trace_error(tmp_path):
    with pytest.raises(TraceError, match="cannot be read: No such file or directory"):
        read_trace(tmp_path / "none.csv")


def test_a_byte_order_mark_is_no_obstacle(a_file):
    assert len(read_trace(a_file(b"\xef\xbb\xbf" + AZURE.encode())).requests) == 3


def test_blank_lines_are_no_requests(a_file):
    assert len(read_trace(a_file(MOONCAKE.replace("\n", "\n\n"))).requests) == 4
    assert len(read_trace(a_file(AZURE + "\r\n")).requests) == 3


# Real traces, where somebody has them: HORTATOR_TRACES names the folder. Elsewhere there is no such test.
_FOLDER = os.environ.get("HORTATOR_TRACES", "")
_REAL = (
    sorted(path for path in Path(_FOLDER).glob("*") if path.suffix in {".csv", ".jsonl"}) if _FOLDER else []
)

if _REAL:

    @pytest.mark.parametrize("path", _REAL, ids=lambda path: path.name)
    def test_a_real_trace_is_read_without_a_bad_line(path):
        trace = read_trace(path)
        times = [request.arrived_at for request in trace.requests]
        assert trace.num_bad_lines == 0
        assert len(trace.requests) > 1000
        assert times[0] == 0.0
        assert times == sorted(times)
        assert all(
            request.num_prompt_tokens > 0 and request.num_output_tokens > 0 for request in trace.requests
        )
        if trace.format is TraceFormat.MOONCAKE:
            assert all(
                request.prefix_hashes(64) for request in trace.requests if request.num_prompt_tokens >= 64
            )
