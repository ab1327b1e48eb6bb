"""A cluster for the commands: the in-memory API on a socket, a kubeconfig, and a service with a status."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from doubles.kubernetes.api import ApiError, ApiServer
from doubles.kubernetes.http_front import HttpFront
from hortator.cli.k8s.options import ClusterOptions

ROOT = Path(__file__).resolve().parents[4]


class Front(HttpFront):
    """With what only people ask for: logs, and what they may do."""

    def __init__(self, api: ApiServer) -> None:
        super().__init__(api)
        self.logs: dict[str, str] = {}
        self.log_queries: list[dict[str, str]] = []
        self.forbidden: set[str] = set()
        """`verb resource` that the caller may not."""

    async def _resource(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.endswith("/log"):
            self.log_queries.append(dict(request.query))
            pod = path.split("/")[-2]
            if pod not in self.logs:
                raise ApiError(404, "NotFound", f'pods "{pod}" not found')
            return web.Response(text=self.logs[pod])
        if path.endswith("/selfsubjectaccessreviews"):
            review = json.loads(await request.read())
            asked = review["spec"]["resourceAttributes"]
            is_allowed = f"{asked['verb']} {asked['resource']}" not in self.forbidden
            return web.json_response(review | {"status": {"allowed": is_allowed}}, status=201)
        return await super()._resource(request)


@pytest.fixture
async def api():
    server = ApiServer()
    for name in ("prod", "hortator-system"):
        server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return server


@pytest.fixture
async def front(api):
    async with Front(api) as serving:
        yield serving


@pytest.fixture
def kubeconfig(front, tmp_path):
    """A file that leads to the API."""
    file = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": front.url}}
    contexts = [
        {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "default"}},
        {"name": "prod", "context": {"cluster": "c", "user": "u", "namespace": "prod"}},
    ]
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [cluster], "contexts": contexts, "users": [{"name": "u", "user": {}}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture
def here(kubeconfig):
    return ClusterOptions(kubeconfig=kubeconfig)


@pytest.fixture
def a_service(api):
    """Create LLMServices: `a_service("demo", status={...})`."""

    def create(name="demo", *, namespace="default", status=None, sample="llmservice-simulated-64"):
        document = yaml.safe_load((ROOT / f"manifests/samples/{sample}.yaml").read_text())
        document["metadata"] = {"name": name, "namespace": namespace}
        api.create(document)
        key = ("serving.hortator.dev/v1alpha1", "LLMService", namespace, name)
        if status is not None:
            api.patch(key, {"status": status}, subresource="status")
        return api.get(key)

    return create


@pytest.fixture
def wait_until():
    async def wait(condition, timeout: float = 5.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.01)

    return wait
