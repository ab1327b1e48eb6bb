"""The suite for GPU machines, over the double: no tier runs it, and it must not rot until somebody has a GPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from doubles.trtllm import SITE, options

ROOT = Path(__file__).resolve().parents[3]


def suite(tmp_path, *, fault=""):
    """As docs/how-to/tensorrt-llm.md says to run it; the double stands where the library is installed."""
    file = tmp_path / "worker.json"
    values = options()
    file.write_text(json.dumps({"phase": values.pop("phase"), "engine_options": values}))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(SITE)]).strip(os.pathsep),
        "TENSORRT_LLM_DOUBLE_TIME_SCALE": "0.01",
        "TENSORRT_LLM_DOUBLE_FAULT": fault,
        "HORTATOR_GPU_SETTINGS": str(file),
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/gpu"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_passes_over_a_sound_engine_and_skips_nothing(tmp_path):
    done = suite(tmp_path, fault="banner")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^4 passed in ", done.stdout.splitlines()[-1]), done.stdout


def test_it_fails_over_an_engine_that_places_by_itself(tmp_path):
    done = suite(tmp_path, fault="misplace:0")
    assert done.returncode == 1, done.stdout
    assert "placement on ranks: prompts pinned to ranks 0, 1 ran elsewhere" in done.stdout
