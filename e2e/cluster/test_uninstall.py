"""Hortator goes: first the operator, then services without it, then the namespace, then the CRD.

Last of all tests by its name, because the CRD of the session goes with it.
"""

from pathlib import Path

import pytest

from cluster.kube import documents
from cluster.operators import CRD, SCALER_CRD, SERVICES, operators_in
from cluster.processes import wait_until
from cluster.scene import children_in, is_ready, llmservice

INSTALL = Path(__file__).resolve().parents[2] / "manifests" / "install.yaml"
NOT_HERE = {"CustomResourceDefinition", "Deployment"}
"""The CRD goes last here; the operator is a process of the test, not a pod."""


@pytest.fixture
def other_namespace(lab, namespace):
    """One that the test itself deletes."""
    with lab.namespace(f"{namespace}-b") as name:
        yield name


def test_nothing_is_stuck_when_the_operator_its_services_and_the_crd_go(
    lab, namespace, other_namespace, eight_nodes
):
    client = lab.client
    installed = [one for one in documents(INSTALL.read_text()) if one["kind"] not in NOT_HERE]
    for one in installed:
        client.apply(one)
    home = "hortator-system"
    with operators_in(lab, home) as operators:
        operator = operators.start()
        for name, place in (("first", namespace), ("second", namespace), ("third", other_namespace)):
            client.create(llmservice(name, place, groups=1))
        for name, place in (("first", namespace), ("second", namespace), ("third", other_namespace)):
            client.wait(*SERVICES, name, place, is_ready)
        operator.kill()
    for one in reversed(installed):
        client.delete(one)

    # the engines serve on
    sets = client.list("apps/v1", "StatefulSet", namespace)
    assert [one["status"]["readyReplicas"] for one in sets] == [2, 2]

    # a service goes without an operator, and so does a namespace
    client.delete(llmservice("first", namespace))
    client.delete({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other_namespace}})
    wait_until(
        lambda: (
            {one["metadata"]["labels"]["serving.hortator.dev/name"] for one in children_in(client, namespace)}
            == {"second"}
        ),
        what="only the other service is left",
        timeout_s=60,
    )
    for gone in (home, other_namespace):
        client.wait("v1", "Namespace", gone, None, lambda found: found is None, timeout_s=60)

    # and with the CRDs goes the rest
    lab.delete_crd(SCALER_CRD)
    lab.delete_crd(CRD)
    wait_until(lambda: children_in(client, namespace) == [], what="all children are collected", timeout_s=60)
