"""worker/Dockerfile installs what the worker and the doctor import: `hack/try-images`, which builds it, is no test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
IN_RELEASE_IMAGE = {"google", "grpc", "pydantic", "pydantic_core"}
"""TensorRT-LLM itself needs them."""
DISTRIBUTIONS = {
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "grpc_status": "grpcio-status",
    "prometheus_client": "prometheus-client",
    "pydantic_settings": "pydantic-settings",
    "yaml": "pyyaml",
}
"""Of packages that are not called as they are imported."""
CODE = """
import sys
import hortator.worker.__main__, hortator.worker.engines.trtllm.engine, hortator.cli.main, hortator.cli.doctor
print(*(module.__file__ for name, module in sys.modules.items() if name.startswith("hortator.")), sep="\\n")
"""


def imported(file: Path) -> Iterator[str]:
    """Packages that a module imports as it is loaded."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_every_package_that_is_imported_is_installed():
    steps = (ROOT / "worker/Dockerfile").read_text()
    found = re.search(r"--constraint /etc/hortator-pins.txt \\\n((?:.*\\\n)*.*)\n", steps)
    assert found is not None
    installed = set(re.findall(r"[\w-]+", found[1]))
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    files = [Path(line) for line in done.stdout.split() if line != "None"]
    assert len(files) > 100
    others = {name for file in files for name in imported(file)} - sys.stdlib_module_names - {"hortator"}
    assert {DISTRIBUTIONS.get(name, name) for name in others - IN_RELEASE_IMAGE} <= installed
    assert {"typer", "structlog"} <= others
