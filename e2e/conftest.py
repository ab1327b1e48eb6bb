"""One stack of each kind, shared by the tests of a module."""

from collections.abc import Iterator

import pytest
from live_stack import ROOT, Up, running


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Iterator[Up]:
    """Two simulated groups, Aggregated."""
    folder = tmp_path_factory.mktemp("simulated")
    with running(ROOT / "e2e/manifests/aggregated.yaml", "e2e-aggregated", folder) as up:
        yield up


@pytest.fixture(scope="module")
def torch_moe(tmp_path_factory) -> Iterator[Up]:
    """The local sample: the real MoE engine, two prefill groups and a decode group."""
    folder = tmp_path_factory.mktemp("torch")
    with running(ROOT / "manifests/samples/llmservice-local.yaml", "local", folder) as up:
        yield up
