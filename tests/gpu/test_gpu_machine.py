"""What `hortator doctor` looks at, as tests, for a machine with GPUs and TensorRT-LLM; never run on one so far.

    HORTATOR_GPU_SETTINGS=worker.json pytest -m gpu tests/gpu

`worker.json` is a worker's settings with a model that fits the machine. The engine is started once per phase.
"""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]

SETTINGS = "HORTATOR_GPU_SETTINGS"
OF_ANY_PHASE = (
    "arguments",
    "start",
    "placement on ranks",
    "a batch enters as one",
    "end of a pass",
    "shutdown",
)
OF_PHASE = {
    "aggregated": (
        "statistics in long decodes",
        "abort",
        "resumed requests",
        "resumed requests with a seed",
        "stop tokens",
    ),
    "prefill": ("KV hand-over",),
}


@pytest.fixture(scope="module", params=sorted(OF_PHASE))
def phase(request):
    return request.param


@pytest.fixture(scope="module")
def checks(phase):
    """By name, with the engine started in that phase."""
    settings = os.environ.get(SETTINGS)
    if settings is None:
        pytest.skip(f"{SETTINGS} is not set: a worker's settings (JSON) with a model that fits this machine")
    command = [sys.executable, "-m", "hortator.cli.main", "doctor", "--settings", settings, "--phase", phase]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return {check["name"]: check for check in json.loads(done.stdout)}


def test_nothing_fails(checks):
    failed = [
        f"{one['name']}: {one['found']} ({one['fix']})"
        for one in checks.values()
        if one["verdict"] == "failed"
    ]
    assert failed == []


def test_the_engine_was_examined_in_full(checks, phase):
    """A check that could not be made is no check that passed."""
    verdicts = {
        name: checks.get(name, {}).get("verdict", "missing") for name in OF_ANY_PHASE + OF_PHASE[phase]
    }
    assert {name: verdict for name, verdict in verdicts.items() if verdict in {"skipped", "missing"}} == {}
