"""`python -m hortator.operator` as a process, against the in-memory API over HTTP."""

import asyncio
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from doubles.kubernetes.api import ApiError, ApiServer
from doubles.kubernetes.controllers import Controllers
from doubles.kubernetes.http_front import HttpFront
from doubles.kubernetes.kubelets import Kubelets

SAMPLE = Path(__file__).resolve().parents[3] / "manifests" / "samples" / "llmservice-simulated-64.yaml"
SERVICE = ("serving.hortator.dev/v1alpha1", "LLMService", "default", "simulated")
LEASE = ("coordination.k8s.io/v1", "Lease", "default", "hortator-operator")
TIMEOUT_S = 30.0

pytestmark = pytest.mark.timeout(120)


class Operator:
    """A child process with its ready line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.admin_port = 0

    async def until_ready(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            line = await self.process.stdout.readline()
        self.admin_port = json.loads(line)["admin_port"]

    async def get(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self.admin_port}{path}")

    async def ended(self) -> int:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.process.wait()


class Operators:
    """Starts them against one front."""

    def __init__(self, front: HttpFront, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": front.url}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        users = [{"name": "u", "user": {"token": "t"}}]
        document = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "users": users}
        self.kubeconfig.write_text(yaml.safe_dump(document | {"clusters": [cluster], "contexts": [context]}))
        self.started: list[Operator] = []

    async def start(self, *arguments: str, **settings: str) -> Operator:
        wanted = {"kubeconfig": str(self.kubeconfig), "admin_port": "0", "resync_interval_s": "2"} | settings
        env = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
        env |= {f"HORTATOR_OPERATOR_{name.upper()}": value for name, value in wanted.items()}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hortator.operator", *arguments),
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        operator = Operator(process)
        self.started.append(operator)
        return operator


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def until(condition) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.05)


@pytest.fixture
async def front() -> AsyncIterator[HttpFront]:
    async with HttpFront(ApiServer()) as front:
        yield front


@pytest.fixture
async def operators(front: HttpFront, tmp_path: Path) -> AsyncIterator[Operators]:
    operators = Operators(front, tmp_path)
    yield operators
    for operator in operators.started:
        if operator.process.returncode is None:
            operator.process.kill()
        await operator.process.communicate()


def holder(api: ApiServer) -> str:
    leases = api.find("Lease")
    return leases[0]["spec"]["holderIdentity"] if leases else ""


async def test_a_service_is_brought_up_and_the_lease_released_at_the_end(
    front: HttpFront, operators: Operators
) -> None:
    api, controllers, kubelets = front.api, Controllers(front.api), Kubelets(front.api)
    for number in range(10):
        kubelets.add_node(f"node-{number}")
    operator = await operators.start()
    await operator.until_ready()
    assert await operator.get("/readyz") == (200, "ok\n")
    assert (await operator.get("/healthz"))[0] == 200
    obj = yaml.safe_load(SAMPLE.read_text())
    obj["metadata"] = {"name": "simulated", "namespace": "default"}
    api.create(obj)

    def is_up() -> bool:
        controllers.step()
        kubelets.step()
        conditions = api.get(SERVICE).get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    await until(is_up)
    _, metrics = await operator.get("/metrics")
    assert "hortator_operator_leader 1.0" in metrics
    assert holder(api)
    operator.process.terminate()
    assert await operator.ended() == 0
    assert holder(api) == ""
    manager = {"hortator-operator", ""}
    assert {write.manager for write in api.writes if write.key[1] == "LLMService"} <= manager | {
        "unknown",
        "kubectl",
    }
    assert "finalizers" not in api.get(SERVICE)["metadata"]
    assert "annotations" not in api.get(SERVICE)["metadata"]


async def test_a_follower_is_ready_and_leads_when_the_leader_ends(
    front: HttpFront, operators: Operators
) -> None:
    first = await operators.start(identity="first")
    await first.until_ready()
    await until(lambda: holder(front.api) == "first")
    second = await operators.start(identity="second")
    await second.until_ready()
    assert await second.get("/readyz") == (200, "ok\n")
    assert holder(front.api) == "first"
    first.process.terminate()
    await until(lambda: holder(front.api) == "second")


async def test_without_the_crd_it_says_what_it_waits_for(front: HttpFront, operators: Operators) -> None:
    front.fail = lambda _method, path: (
        ApiError(404, "NotFound", "no") if path.startswith("/apis/serving.hortator.dev") else None
    )
    with socket.socket() as probe:  # there is no ready line yet that would tell a chosen port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    operator = await operators.start(admin_port=str(port))
    operator.admin_port = port

    async def answer() -> tuple[int, str]:
        try:
            return await operator.get("/readyz")
        except OSError:
            return 0, ""

    async with asyncio.timeout(TIMEOUT_S):
        while "CRD" not in (await answer())[1]:
            await asyncio.sleep(0.1)
    assert (await answer())[0] == 503
    assert (await operator.get("/healthz"))[0] == 200
    front.fail = lambda _method, _path: None
    await operator.until_ready()
    assert await answer() == (200, "ok\n")


async def test_a_leader_that_cannot_renew_ends(front: HttpFront, operators: Operators) -> None:
    operator = await operators.start(
        lease_duration_s="4", lease_renew_deadline_s="3", lease_retry_s="0.5", call_timeout_s="2"
    )
    await operator.until_ready()
    await until(lambda: holder(front.api))
    front.pause()
    assert await operator.ended() == 1
    front.resume()


async def test_wrong_settings_end_with_one_line_and_code_2(operators: Operators) -> None:
    operator = await operators.start(lease_renew_deadline_s="20")
    _, errors = await operator.process.communicate()
    assert operator.process.returncode == 2
    assert "duration > deadline" in errors.decode()
    operator = await operators.start(name_space="x")
    _, errors = await operator.process.communicate()
    assert operator.process.returncode == 2
    assert "did you mean HORTATOR_OPERATOR_NAMESPACE" in errors.decode()


async def test_no_cluster_is_said_in_one_line(operators: Operators, tmp_path: Path) -> None:
    operator = await operators.start(kubeconfig=str(tmp_path / "nothing"))
    _, errors = await operator.process.communicate()
    assert operator.process.returncode == 1
    assert "nothing" in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_settings_can_be_printed(operators: Operators) -> None:
    operator = await operators.start("--print-settings", num_workers="7")
    output, _ = await operator.process.communicate()
    assert "HORTATOR_OPERATOR_NUM_WORKERS=7" in output.decode().splitlines()
    assert operator.process.returncode == 0
