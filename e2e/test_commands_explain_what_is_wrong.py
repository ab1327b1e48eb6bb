"""Wrong input: one line that names file or option, field and what is allowed; exit code 2."""

import subprocess

import pytest
from live_stack import HORTATOR, ROOT, environment

GOOD = (ROOT / "e2e/manifests/aggregated.yaml").read_text()


def run(tmp_path, *arguments):
    return subprocess.run(
        [*HORTATOR, *arguments],
        env=environment(tmp_path / "state"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param(
            "topology: Aggregated", "topology: Sideways", ["spec.topology", "PrefillDecode"], id="value"
        ),
        pytest.param(
            "maxBatchSize: 16", "maxBatchSise: 16", ["spec.roles[0].maxBatchSise", "maxBatchSize"], id="field"
        ),
        pytest.param(
            "attentionDP: 4, expert: 4",
            "attentionDP: 3, expert: 3",
            ["attentionDP", "gpusPerNode"],
            id="arithmetic",
        ),
        pytest.param("backend: Simulated", "backend: TensorRTLLM", ["spec.engine"], id="backend"),
        pytest.param("kind: LLMService", "kind: [", ["YAML"], id="yaml"),
    ],
)
def test_a_bad_manifest_is_one_line_with_file_and_field_and_exit_code_2(tmp_path, old, new, words):
    file = tmp_path / "bad.yaml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new))
    result = run(tmp_path, "up", "-f", str(file))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert str(file) in line
    assert all(word in line for word in words), line
    assert not list((tmp_path / "state").glob("*/stack.json"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["up", "-f", "nowhere.yaml"], ["nowhere.yaml", "cannot be read"], id="up-no-file"),
        pytest.param(["up", "-f", str(ROOT / "e2e/manifests/aggregated.yaml"), "--policy", "best"], ["--policy", "staggered-plus"], id="up-policy"),
        pytest.param(["simulate", "-f", str(ROOT / "e2e/manifests/aggregated.yaml"), "--load", "-1"], ["--load", "allowed"], id="simulate-load"),
        pytest.param(["simulate", "-f", str(ROOT / "e2e/manifests/aggregated.yaml"), "--policy", "x"], ["--policy", "immediate-round-robin"], id="simulate-policy"),
        pytest.param(["replay", "nowhere.jsonl"], ["nowhere.jsonl"], id="replay-no-file"),
        pytest.param(["up", "-f", "x.yaml", "--port", "99999"], ["up: --port: ", "65535", "`hortator up --help`"], id="up-port"),
        pytest.param(["up"], ["up: ", "'--file'"], id="up-without-file"),
        pytest.param(["simulate", "-f", "x.yaml", "--seed=-1"], ["simulate: --seed: ", " 0"], id="simulate-seed"),
        pytest.param(["simulate", "-f", str(ROOT / "e2e/manifests/aggregated.yaml"), "--minutes", "inf"], ["--minutes: got inf", "allowed"], id="simulate-minutes"),
        pytest.param(["simulate", "-f", str(ROOT / "e2e/manifests/aggregated.yaml"), "--burstiness", "3"], ["--burstiness", "--arrivals gamma"], id="simulate-burstiness"),
        pytest.param(["simulate", "-f", str(ROOT / "e2e/manifests/aggregated.yaml"), "--arrivals", "diurnal"], ["--minutes", "1440", "--period"], id="simulate-diurnal"),
        pytest.param(["report", "-f", str(ROOT / "e2e/manifests/aggregated.yaml"), "--load", "0.7,x"], ["--load: got 'x'", "allowed"], id="report-load"),
        pytest.param(["state", "--wach"], ["state: ", "--wach", "--watch"], id="unknown-option"),
        pytest.param(["k8s", "status", "--bogus"], ["k8s status: ", "--bogus"], id="k8s-unknown-option"),
        pytest.param(["bogus"], ["'bogus'", "`hortator --help`"], id="unknown-command"),
        pytest.param(["generate", "-f", "nowhere.txt"], ["nowhere.txt", "cannot be read"], id="generate-no-file"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line_and_exit_code_2(tmp_path, arguments, words):
    result = run(tmp_path, *arguments)
    assert result.returncode == 2, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bad_trace_line_names_file_and_line_and_is_skipped_only_when_asked(tmp_path):
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,{100 + second},5" for second in range(40)]
    rows[3] = "2023-11-16 18:15:03.0000000,many,5"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    base = ["simulate", "-f", str(ROOT / "benchmarks/sim/clusters/prefill-4xEP16.yaml"), "--policy", "staggered", "--trace", str(trace), "--minutes", "0.01", "--load", "0.05"]  # fmt: skip
    result = run(tmp_path, *base)
    assert result.returncode == 2
    assert f"{trace}:5" in result.stderr
    result = run(tmp_path, *base, "--skip-bad", "--json", "-")
    assert result.returncode == 0, result.stderr
    assert '"staggered"' in result.stdout


def test_commands_for_a_stack_say_how_to_start_one_when_none_runs(tmp_path):
    result = run(tmp_path, "state")
    assert result.returncode == 3
    assert "hortator up -f FILE" in result.stderr


def test_an_endpoint_where_nothing_listens_is_one_line_and_exit_code_3(tmp_path):
    result = run(tmp_path, "generate", "anybody there?", "--endpoint", "127.0.0.1:1")
    assert result.returncode == 3
    (line,) = result.stderr.splitlines()
    assert "127.0.0.1:1" in line


def test_help_is_there_for_every_command(tmp_path):
    assert "Usage" in run(tmp_path).stdout
    for command in (
        "up",
        "generate",
        "state",
        "drain",
        "policy",
        "replay",
        "simulate",
        "report",
        "bench",
        "demo",
    ):
        result = run(tmp_path, command, "--help")
        assert result.returncode == 0
        assert "Usage" in result.stdout
