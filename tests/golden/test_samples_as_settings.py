"""Every sample manifest that runs on one machine, as the settings its processes are started with."""

import json
from pathlib import Path

import pytest

from hortator.api.files import load_llmservice
from hortator.cli import process_settings
from hortator.cli.stack import group_names

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))
LOCAL = [path for path in SAMPLES if load_llmservice(path).spec.engine.backend != "TensorRTLLM"]


@pytest.mark.parametrize("path", LOCAL, ids=lambda path: path.stem)
def test_settings_of_every_process(path, golden):
    service = load_llmservice(path)
    common = {"log_level": "INFO"}
    address = {"scheduler_addresses": ["127.0.0.1:7070"]}
    settings = {"scheduler": process_settings.scheduler(service, port=0, record_to=None, **common)}
    for worker_id, role in group_names(service):
        settings[worker_id] = process_settings.worker(
            service, role_name=role, worker_id=worker_id, **address, **common
        )
    settings["gateway"] = process_settings.gateway(service, port=0, **address, **common)
    text = json.dumps(settings, indent=2) + "\n"
    golden(f"settings-{path.stem}.json", text.replace(str(ROOT), "$ROOT"))
