"""`hortator plan-capacity`: what it proposes, what it writes, what it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hortator.api.files import load_llmservice
from hortator.cli.main import app
from hortator.sim.simulate import pass_cost


def plan(*options):
    return CliRunner().invoke(app, ["plan-capacity", *options])


def test_it_proposes_a_split_and_writes_a_manifest_of_it(tmp_path):
    """At most what the arithmetic says, and at least two fifths of it."""
    file = tmp_path / "llmservice.yaml"
    done = plan("--gpus", "32", "--minutes", "0.2", "--tries", "1", "--out", str(file))
    assert done.exit_code == 0, done.output
    assert "Take 1 x EP16 prefill + 1 x EP16 decode, chunkBudgetTokens" in done.stdout
    assert "mixed passes" in done.stdout  # why no aggregated layout is tried
    service = load_llmservice(file)
    assert service.spec.engine.backend == "TensorRTLLM"
    assert sum(role.replicas * role.nodes * role.gpus_per_node for role in service.spec.roles) == 32


def test_fp8_kv_is_in_the_arithmetic_the_simulation_and_the_manifest(tmp_path):
    file = tmp_path / "llmservice.yaml"
    options = ("--gpus", "32", "--minutes", "0.1", "--tries", "1")
    chosen = {}
    for dtype in ("auto", "fp8"):
        done = plan(*options, "--kv-dtype", dtype, "--json", "-", "--out", str(file))
        assert done.exit_code == 0, done.output
        chosen[dtype] = json.loads(done.stdout)["chosen"]["memory"]["EP16"]["kv_tokens"]
    assert chosen["fp8"] == pytest.approx(2 * chosen["auto"], abs=1)
    service = load_llmservice(file)
    assert [role.kv_cache_dtype for role in service.spec.roles] == ["fp8", "fp8"]
    costs = [pass_cost(service, role) for role in service.spec.roles]
    assert [cost.kv_bytes_per_token for cost in costs] == [35136, 35136]  # as `hortator simulate` takes it


def test_json_has_every_layout_and_what_was_simulated():
    done = plan("--gpus", "32", "--minutes", "0.2", "--tries", "1", "--no-chunked-prefill", "--json", "-")
    document = json.loads(done.stdout)
    first, *others = document["layouts"]
    assert 0.4 <= first["simulated"]["requests_per_s"] / first["estimate"]["requests_per_s"] <= 1.05
    assert first["simulated"]["ttft_s"]["p99"] <= document["limits"]["ttft_p99_s"] == 2.0
    assert [other["simulated"] for other in others] == [None] * len(others)
    assert document["manifest"]["spec"]["roles"][0]["chunkedPrefill"] is False
    assert document["chosen"]["chunk_budget_tokens"] >= 8192  # the longest prompt fits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--gpus", "8"),
            "--gpus: got 8 GPUs (allowed: 16 or more; on one node of 8: 78.7 GB usable",
        ),
        (("--gpus", "64", "--model", "gpt"), "--model: got 'gpt' (allowed: deepseek-v3)"),
        (
            ("--gpus", "64", "--slo", "ttft=2s"),
            "--slo: got 'ttft=2s' (allowed: ttft and itl, like ttft=2s,itl",
        ),
        (
            ("--gpus", "64", "--slo", "ttft=2s,itl=1ms"),
            "--slo: no layout of 64 GPUs steps within itl=1ms by the",
        ),
        (("--gpus", "64", "--kv-dtype", "fp4"), "--kv-dtype: got 'fp4' (allowed: auto, fp8)"),
        (("--gpus", "64", "--policy", "all"), "--policy: got 'all' (allowed: one policy)"),
        (("--gpus", "64", "--trace", "/nowhere.csv"), "/nowhere.csv"),
    ],
)
def test_a_wrong_option_is_one_line(options, message):
    error = str(plan(*options).exception)
    assert error.startswith(message)
    assert "\n" not in error


def test_a_limit_that_no_rate_keeps_is_said():
    done = plan("--gpus", "32", "--minutes", "0.1", "--tries", "1", "--slo", "ttft=60ms,itl=50ms")
    assert str(done.exception).startswith("--slo: not even 0.4 of the estimate keeps p99 TTFT <= 0.06 s")


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    done = plan("--gpus", "32", "--out", str(Path(tmp_path) / "none" / "x.yaml"))
    assert "not a file that can be written" in str(done.exception)
