"""A real API server keeps the rules that the in-memory one keeps: one suite for both."""

from collections.abc import AsyncIterator

import pytest

from cluster.controlplane import ControlPlane
from cluster.operators import CRD
from doubles.kubernetes.conformance import *  # noqa: F403  # the tests
from doubles.kubernetes.conformance import Server, new_namespace
from doubles.kubernetes.workloads import *  # noqa: F403  # the tests
from doubles.kubernetes.workloads import AtWork
from hortator.operator.client.configuration import load_configuration, open_session
from hortator.operator.client.kubernetes import KubernetesCluster


@pytest.fixture
async def server(control_plane: ControlPlane) -> AsyncIterator[Server]:
    control_plane.apply_crd(CRD)
    configuration = await load_configuration(control_plane.kubeconfig)
    cluster = KubernetesCluster(configuration)
    async with open_session(configuration) as session, new_namespace(cluster) as namespace:
        yield Server(cluster=cluster, session=session, url=configuration.host, namespace=namespace)
    await cluster.close()


@pytest.fixture
def cluster_at_work(server: Server) -> AtWork:
    return AtWork(server=server, step=lambda: None, pause_s=0.1)
