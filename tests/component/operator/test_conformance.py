"""The in-memory API keeps the rules of a Kubernetes API server, directly and over HTTP through our client."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from kubernetes.aio.client.configuration import Configuration

from doubles.kubernetes.api import ApiServer
from doubles.kubernetes.cluster import FakeCluster
from doubles.kubernetes.conformance import *  # noqa: F403  # the tests
from doubles.kubernetes.conformance import Server, new_namespace
from doubles.kubernetes.controllers import Controllers
from doubles.kubernetes.http_front import HttpFront
from doubles.kubernetes.workloads import *  # noqa: F403  # the tests
from doubles.kubernetes.workloads import AtWork
from hortator.operator.client.kubernetes import KubernetesCluster


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


@pytest.fixture(params=["in memory", "over HTTP"])
async def server(request: pytest.FixtureRequest, api: ApiServer) -> AsyncIterator[Server]:
    async with HttpFront(api) as front, aiohttp.ClientSession() as session:
        over_http = KubernetesCluster(Configuration(host=front.url))
        cluster = FakeCluster(api) if request.param == "in memory" else over_http
        async with new_namespace(cluster) as namespace:
            yield Server(cluster=cluster, session=session, url=front.url, namespace=namespace)
        await over_http.close()


@pytest.fixture
def cluster_at_work(server: Server, api: ApiServer) -> AtWork:
    return AtWork(server=server, step=Controllers(api).step, pause_s=0.0)
