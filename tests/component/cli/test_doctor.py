"""`hortator doctor`: without an engine, with one over the double, and what it refuses."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from doubles.trtllm import SITE, options
from hortator.cli.main import app


def doctor(*arguments, environment=None):
    return subprocess.run(
        [sys.executable, "-c", "from hortator.cli.main import main; main()", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | (environment or {}),
    )


def with_double(tmp_path, *arguments, fault="", **changed):
    settings = tmp_path / "settings.json"
    values = options(**changed)
    settings.write_text(json.dumps({"phase": values.pop("phase"), "engine_options": values}))
    return doctor(
        "--settings",
        str(settings),
        *arguments,
        environment={
            "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(SITE)]).strip(os.pathsep),
            "TENSORRT_LLM_DOUBLE_TIME_SCALE": "0.01",
            "TENSORRT_LLM_DOUBLE_FAULT": fault,
        },
    )


def test_without_a_gpu_and_the_library_it_says_what_it_cannot_look_at():
    done = doctor("--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    assert checks["tensorrt_llm"]["verdict"] == "skipped"
    assert checks["tensorrt_llm"]["found"] == "tensorrt_llm is not installed here"
    assert checks["engine"]["fix"].startswith("--settings FILE")


def test_a_sound_engine_gives_0_and_a_sick_one_1(tmp_path):
    sound = with_double(tmp_path)
    assert sound.returncode == 0, sound.stderr
    assert "placement on ranks" in sound.stdout
    assert "starting TensorRT-LLM" not in sound.stderr  # the log is asked for
    sick = with_double(tmp_path, "--phase", "aggregated", fault="misplace:0")
    assert sick.returncode == 1
    assert "failed: placement on ranks: prompts pinned to ranks 0, 1 ran elsewhere" in sick.stderr


def test_what_the_library_prints_as_it_is_imported_is_not_among_the_checks(tmp_path):
    done = with_double(tmp_path, "--json", fault="banner")
    assert "TensorRT-LLM version: 1.2.1" in done.stderr
    assert "start" in {check["name"] for check in json.loads(done.stdout)}


def test_a_group_is_examined_from_the_pod_that_starts_it_and_nowhere_else(tmp_path):
    done = doctor("--group", "--json", environment={"TMPDIR": str(tmp_path)})
    (check,) = json.loads(done.stdout)
    assert (done.returncode, check["found"]) == (1, "no ranks are being started from here")
    assert "ordinal 0" in check["fix"]


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (("--group", "--settings", "FILE"), "{}", "--group: got --settings too"),
        (("--engine", "vllm"), None, "--engine: got 'vllm' (allowed: trtllm)"),
        (("--phase", "decode"), None, "--phase: got 'decode' (allowed: prefill, aggregated)"),
        (("--phase", "prefill"), None, "--phase: no engine is started without --settings FILE"),
        (("--settings", "FILE"), "{", "--settings FILE: not JSON: "),
        (
            ("--settings", "FILE"),
            "{}",
            "--settings FILE: has no object engine_options (allowed: a worker's settings)",
        ),
        (
            ("--settings", "FILE"),
            '{"engine_options": {"modle": "x"}}',
            "FILE: engine_options.modle: is no option",
        ),
        (
            ("--settings", "FILE"),
            '{"engine_options": {"model": "x", "max_num_tokens": 0}}',
            "FILE: engine_options: ",
        ),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, arguments, content, message):
    file = tmp_path / "settings.json"
    if content is not None:
        file.write_text(content)
    given = [str(file) if word == "FILE" else word for word in arguments]
    error = str(CliRunner().invoke(app, ["doctor", *given]).exception)
    assert error.startswith(
        message.replace("FILE", str(file), 1) if "--settings FILE" not in message or content else message
    )
