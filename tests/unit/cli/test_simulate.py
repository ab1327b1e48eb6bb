"""`hortator simulate`: what it refuses and what it says about its input."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from hortator.cli import simulate
from hortator.cli.errors import CommandError
from hortator.cli.workload_options import WorkloadOptions

CLUSTER = Path(__file__).resolve().parents[3] / "benchmarks/sim/clusters/prefill-4xEP16.yaml"


def run(**changes):
    arguments = {
        "file": CLUSTER, "policies": "staggered", "trace": None, "prefill_only": True, "seed": 0, "slo": "",
        "requests_file": None, "json_file": None,
    }  # fmt: skip
    options = {"load": 0.05, "minutes": 0.01}
    names = {field.name for field in dataclasses.fields(WorkloadOptions)}
    options |= {name: value for name, value in changes.items() if name in names}
    arguments |= {name: value for name, value in changes.items() if name not in names}
    simulate.run(options=WorkloadOptions(**options), **arguments)


def refused(**changes):
    with pytest.raises(CommandError) as caught:
        run(**changes)
    assert caught.value.exit_code == 2
    assert len(caught.value.lines) == 1
    return str(caught.value)


def a_mooncake_trace(folder, *, with_ids=True):
    file = folder / "mooncake.jsonl"
    lines = [
        {"timestamp": 100 * n, "input_length": 600, "output_length": 5}
        | ({"hash_ids": [0, n + 1]} if with_ids else {})
        for n in range(20)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def a_cluster(folder, *, tokens_per_block):
    file = folder / "cluster.yaml"
    file.write_text(
        CLUSTER.read_text().replace(
            "    maxBatchSize: 256", f"    tokensPerBlock: {tokens_per_block}\n    maxBatchSize: 256"
        )
    )
    return file


def test_blocks_that_do_not_cut_those_of_the_trace_are_one_line_with_file_and_field(tmp_path):
    cluster, trace = a_cluster(tmp_path, tokens_per_block=48), a_mooncake_trace(tmp_path)
    assert refused(file=cluster, trace=trace) == (
        f"{cluster}: spec.roles[0].tokensPerBlock: got 48 (allowed with {trace}, whose blocks have 512 tokens: "
        "1, 2, 4, 8, 16, 32, 64, 128, 256, 512)"
    )
    assert "got 1024" in refused(file=a_cluster(tmp_path, tokens_per_block=1024), trace=trace)


@pytest.mark.parametrize(("size", "with_ids"), [(32, True), (512, True), (48, False)])
def test_blocks_that_do_are_simulated_and_so_is_any_size_when_the_trace_knows_no_contents(
    tmp_path, size, with_ids
):
    out = tmp_path / "out.json"
    trace = a_mooncake_trace(tmp_path, with_ids=with_ids)
    run(file=a_cluster(tmp_path, tokens_per_block=size), trace=trace, json_file=out)
    assert json.loads(out.read_text())["policies"]["staggered"]["completed"] > 0


def test_bad_lines_and_failed_requests_are_said_and_counted_in_the_json(tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,{100 + second},5" for second in range(40)]
    rows[3] = "2023-11-16 18:15:03.0000000,many,5"
    rows[7] = rows[8] = "2023-11-16 18:15:07.0000000,100,0"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out.json"
    assert refused(trace=trace).startswith(f"{trace}:5: ")
    capsys.readouterr()
    run(trace=trace, skip_bad=True, json_file=out)
    assert (
        f"{trace}: 1 bad line skipped, 2 failed requests (no output tokens) left out"
        in capsys.readouterr().err.splitlines()
    )
    assert json.loads(out.read_text())["trace"] == {
        "file": str(trace), "format": "azure", "requests": 37, "bad_lines": 1, "failed_requests": 2,
    }  # fmt: skip


def test_a_trace_of_which_nothing_is_left_out_needs_no_line(tmp_path, capsys):
    run(trace=a_mooncake_trace(tmp_path))
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("minutes", [float("inf"), float("nan"), 0.0, -1.0, 1e9])
def test_a_wrong_length_names_the_option_and_what_is_allowed(minutes):
    assert refused(minutes=minutes) == f"--minutes: got {minutes:g} (allowed: above 0, at most 10080)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arrivals": "late"}, "--arrivals: got 'late' (allowed: recorded, poisson, gamma, diurnal)"),
        ({"arrivals": "recorded"}, "--arrivals: recorded needs --trace FILE (allowed without: poisson, gamma, diurnal)"),
        ({"arrivals": "gamma", "burstiness": 0.0}, "--burstiness: got 0 (allowed: 0.01 to 10)"),
        ({"arrivals": "diurnal", "peak_to_mean": 3.0}, "--peak-to-mean: got 3 (allowed: 1 to 2)"),
        ({"arrivals": "diurnal", "period": "90"}, "--period: got '90' (allowed: a duration like 5ms, 2s, 1m30s, 1h)"),
        ({"arrivals": "diurnal", "period": "0s"}, "--period: got 0 (allowed: above 0, finite)"),
        ({"arrivals": "diurnal", "period": "200h"}, "--period: got 200h (allowed: at most 168h)"),
        ({"lengths": "novel"}, "--lengths: got 'novel' (allowed: conversation, short-prompt-uniform, short-prompt-lognormal)"),
    ],
)  # fmt: skip
def test_a_wrong_option_of_the_workload_is_one_line_that_names_it(options, said):
    assert refused(**options) == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"burstiness": 2.0}, "--burstiness: no effect with --arrivals poisson (allowed with --arrivals gamma)"),
        ({"burstiness": 2.0, "arrivals": "diurnal"}, "--burstiness: no effect with --arrivals diurnal (allowed with --arrivals gamma)"),
        ({"period": "24h"}, "--period: no effect with --arrivals poisson (allowed with --arrivals diurnal)"),
        ({"peak_to_mean": 1.6, "arrivals": "gamma"}, "--peak-to-mean: no effect with --arrivals gamma (allowed with --arrivals diurnal)"),
        ({"flood": 2.0}, "--flood: no effect without tenants (allowed with --tenants NUMBER)"),
        ({"tenants": 0}, "--tenants: got 0 (allowed: 1 to 1000)"),
        ({"tenants": 2, "flood": 0.5}, "--flood: got 0.5 (allowed: 1 to 100)"),
        ({"skip_bad": True}, "--skip-bad: no effect where no file is read (allowed with --trace FILE)"),
        ({"trace": Path("any.csv"), "lengths": "conversation"}, "--lengths: no effect on a trace, which has its own (allowed without --trace)"),
    ],
)  # fmt: skip
def test_an_option_without_effect_is_refused(options, said):
    assert refused(**options) == said


def test_a_diurnal_run_of_less_than_a_period_says_what_to_do():
    assert refused(arrivals="diurnal", minutes=20.0) == (
        "--minutes: got 20, less than one period of --arrivals diurnal "
        "(allowed: 1440 or more, or a --period of at most 20m)"
    )


@pytest.mark.parametrize(
    ("options", "arrivals"),
    [
        ({}, {"mode": "poisson"}),
        ({"arrivals": "gamma"}, {"mode": "gamma", "cv": 2.0}),
        ({"arrivals": "gamma", "burstiness": 4.0}, {"mode": "gamma", "cv": 4.0}),
        (
            {"arrivals": "diurnal", "period": "300ms", "peak_to_mean": 2.0},
            {"mode": "diurnal", "peak_to_mean": 2.0, "period_s": pytest.approx(0.3, rel=0.1)},
        ),
    ],
)
@pytest.mark.parametrize("has_trace", [False, True], ids=["generated", "trace"])
def test_the_json_says_which_arrivals_and_lengths_there_were(tmp_path, options, arrivals, has_trace):
    out = tmp_path / "out.json"
    source = (
        {"trace": a_mooncake_trace(tmp_path)}
        if has_trace
        else {"lengths": "short-prompt-uniform", "load": 0.001}
    )
    run(**source, **options, json_file=out)
    document = json.loads(out.read_text())
    assert document["arrivals"] == arrivals
    assert document["lengths"] == (None if has_trace else "short-prompt-uniform")
    assert document["policies"]["staggered"]["completed"] > 0


def test_conversations_are_generated_where_no_lengths_are_named(tmp_path):
    out = tmp_path / "out.json"
    run(json_file=out)
    assert json.loads(out.read_text())["lengths"] == "conversation"


def test_recorded_arrivals_are_said_too(tmp_path):
    out = tmp_path / "out.json"
    run(trace=a_mooncake_trace(tmp_path), arrivals="recorded", json_file=out)
    assert json.loads(out.read_text())["arrivals"] == {"mode": "recorded"}


def test_a_point_of_less_than_20_minutes_is_marked_and_one_of_20_is_not(tmp_path, capsys):
    out = tmp_path / "out.json"
    run(minutes=10.0, load=0.001, json_file=out)
    assert json.loads(out.read_text())["policies"]["staggered"]["short"] is True
    assert "SHORT: a first look" in capsys.readouterr().out
    run(minutes=20.0, load=0.001, json_file=out)
    assert json.loads(out.read_text())["policies"]["staggered"]["short"] is False
    assert "SHORT" not in capsys.readouterr().out


def test_a_wrong_slo_is_one_line():
    assert refused(slo="ttft=2").startswith("--slo: ttft: got '2' (allowed: a duration")


@pytest.mark.parametrize("name", ["tpot", "itl", "e2e"])
def test_limits_that_nothing_could_break_are_refused(name):
    """Without decode every request would keep them."""
    said = f"--slo: {name}: requests end with their first token (allowed with --prefill-only: ttft)"
    assert refused(slo=f"ttft=1s,{name}=1s") == said


@pytest.mark.parametrize("policies", ["staggered", "staggered,immediate-least-tokens"])
def test_every_request_of_every_policy_is_a_row_and_the_same_seed_gives_the_same_bytes(tmp_path, policies):
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for file in files:
        run(policies=policies, requests_file=file, json_file=tmp_path / "out.json", slo="ttft=10s")
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = list(csv.DictReader(files[0].open()))
    figures = json.loads((tmp_path / "out.json").read_text())["policies"]
    assert list(dict.fromkeys(row["policy"] for row in rows)) == policies.split(",")
    assert len(rows) >= sum(figure["requests"] for figure in figures.values()) > 0
    assert all(figure["slo_attainment"] == 1.0 for figure in figures.values())
    assert all(float(row["ttft_s"]) > 0 for row in rows)


def test_rows_that_cannot_be_written_are_told_before_anything_runs(tmp_path):
    assert "--requests" in refused(requests_file=tmp_path)
    assert "--requests" in refused(requests_file=tmp_path / "nowhere" / "rows.csv")


def test_a_study_of_prefill_says_how_far_each_policy_is_from_what_any_could_reach(tmp_path, capsys):
    out = tmp_path / "out.json"
    run(policies="staggered,immediate-least-tokens", json_file=out)
    document = json.loads(out.read_text())
    bound = document["lower_bound"]
    assert bound["ttft_mean_s"] == max(bound["solo_s"], bound["relaxed_s"], bound["rent_s"]) > 0
    for figure in document["policies"].values():
        assert figure["gap"] == figure["ttft_s"]["mean"] / bound["ttft_mean_s"] >= 1 - 1e-9
    said = capsys.readouterr().out
    assert " gap " in said
    assert f"no scheduler has a mean TTFT under {1000 * bound['ttft_mean_s']:.0f} ms here" in said


def test_with_decode_or_known_prefixes_there_is_no_bound(tmp_path, capsys):
    out = tmp_path / "out.json"
    for changes in ({"prefill_only": False}, {"trace": a_mooncake_trace(tmp_path)}):
        run(**changes, json_file=out)
        document = json.loads(out.read_text())
        assert "lower_bound" not in document
        assert "gap" not in document["policies"]["staggered"]
        assert " gap " not in capsys.readouterr().out
    run(trace=a_mooncake_trace(tmp_path, with_ids=False), json_file=out)
    assert json.loads(out.read_text())["policies"]["staggered"]["gap"] >= 1 - 1e-9


def test_disturbances_are_in_the_results_and_wrong_ones_are_told(tmp_path):
    out = tmp_path / "out.json"
    run(disturb="latency=2ms,slow-rank=1.2", json_file=out, load=0.5, minutes=0.05)
    document = json.loads(out.read_text())
    assert document["disturbances"] == {"latency": 0.002, "slow-rank": 1.2}
    assert document["policies"]["staggered"]["disturbed"]["groups_lost"] == 0
    run(json_file=out)
    document = json.loads(out.read_text())
    assert "disturbances" not in document
    assert "disturbed" not in document["policies"]["staggered"]
    assert refused(disturb="jitter=2").startswith("--disturb: jitter: got 2 (allowed: 0% to 100%)")
