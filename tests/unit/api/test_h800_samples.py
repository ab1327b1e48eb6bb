"""What the H800 samples say of the fabric is documented, and what stands there behind `#` is a valid manifest too."""

import re
from pathlib import Path

import pytest
import yaml

from hortator.api.parse import parse

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = sorted((ROOT / "manifests/samples").glob("llmservice-h800-*.yaml"))
GUIDE = (ROOT / "docs/how-to/h800.md").read_text()


def switched_on(path):
    """The sample with every variable that it has behind `#`."""
    text = re.sub(r"(?m)^( +)# (- \{name: )", r"\1\2", path.read_text())
    return yaml.safe_load(text)


def test_there_are_samples_to_look_at():
    assert len(SAMPLES) == 5


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_all_that_can_be_switched_on_is_valid_and_explained(path):
    parsed = parse(switched_on(path))
    assert parsed.problems == ()
    names = [entry.name for entry in parsed.service.spec.engine.env]
    if any(role.nodes > 1 for role in parsed.service.spec.roles):
        assert {"NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NVSHMEM_HCA_LIST", "TRTLLM_CAN_USE_DEEP_EP"} <= set(
            names
        )
    if parsed.service.spec.topology == "PrefillDecode":
        assert {"UCX_NET_DEVICES", "UCX_MAX_RNDV_RAILS"} <= set(names)
    rows = [line for line in GUIDE.splitlines() if line.startswith("| `")]
    assert [name for name in names if not any(f"`{name}`" in row for row in rows)] == []
