"""A cluster for the session, and per test a namespace, fake nodes and faults."""

import contextlib
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.controlplane import ControlPlane, Lab
from cluster.fakenodes.client import FakeNodes, running_fake_nodes
from cluster.operators import Operator, operators_in
from cluster.pods import pod
from cluster.processes import LabError
from cluster.providers import choose
from cluster.proxy.server import ApiProxy
from cluster.recorder import recording
from cluster.scene import Scene
from cluster.truenode import SECOND, TrueNode, running_true_node


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """The cluster of this session, whatever provides it (cluster.providers)."""
    try:
        provider = choose()
    except LabError as error:
        pytest.skip(f"no cluster: {error}")
    # a session that is told to end (CI's time-out, `timeout`) takes its cluster down as after Ctrl-C
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with provider.running() as found:
            yield found
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def lab(control_plane: ControlPlane) -> Lab:
    """The project's own control plane; tests that need fake nodes or faults ask for it."""
    if not isinstance(control_plane, Lab):
        pytest.skip(f"needs the lab, not {control_plane.provider}")
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own."""
    with control_plane.namespace(f"test-{uuid.uuid4().hex[:8]}") as name:
        yield name


@pytest.fixture
def fake_nodes(lab: Lab) -> Iterator[Callable[..., FakeNodes]]:
    """`fake_nodes(8, mode="process", labels=[...])`: started now, ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda count, **options: stack.enter_context(running_fake_nodes(lab, count, **options))


@pytest.fixture
def faulty_api(lab: Lab) -> Iterator[tuple[ApiProxy, Path]]:
    """A proxy for the code under test alone, and its kubeconfig: what fails in it is the test's to say."""
    with lab.proxied(uuid.uuid4().hex[:8]) as found:
        yield found


@pytest.fixture
def make_pod(namespace: str) -> Callable[..., dict[str, Any]]:
    """`make_pod("name", script={...} | command=[...])`: a pod object for the test's namespace."""
    return lambda name, **options: pod(name, namespace, **options)


@pytest.fixture(scope="module")
def true_node(lab: Lab) -> Iterator[TrueNode]:
    """A true node for the tests of a module; `import_image` brings images onto it."""
    with running_true_node(lab) as node:
        yield node


@pytest.fixture(scope="module")
def second_true_node(true_node: TrueNode) -> Iterator[TrueNode]:
    """Another one, on the same network: for pods that keep apart."""
    with running_true_node(true_node.lab, name=SECOND) as node:
        yield node


@pytest.fixture(scope="module")
def eight_nodes(lab: Lab) -> Iterator[FakeNodes]:
    """Eight nodes with eight GPUs each for the tests of a module, with scripted pods."""
    with running_fake_nodes(lab, 8, labels=["rack=rack-{i//4}"]) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def cluster_operator(lab: Lab) -> Iterator[Operator]:
    """One operator for all namespaces and the tests of a module: it sees Nodes."""
    home = f"operator-{uuid.uuid4().hex[:8]}"
    with lab.namespace(home) as namespace, operators_in(lab, namespace) as operators:
        yield operators.start()


@pytest.fixture
def scene(lab: Lab, eight_nodes: FakeNodes, cluster_operator: Operator, namespace: str) -> Iterator[Scene]:
    """LLMServices of a test of its own, and a record of all that happens to them."""
    with recording(lab.client, namespace) as record:
        yield Scene(lab=lab, namespace=namespace, nodes=eight_nodes, operator=cluster_operator, record=record)
