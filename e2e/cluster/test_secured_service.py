"""An LLMService with TLS and API keys whose pods are processes: who is served, and whether the operator still sees."""

import base64
import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_stack import HORTATOR

from cluster.fakenodes.client import running_fake_nodes
from cluster.operators import operators_in
from cluster.recorder import recording
from cluster.scene import Scene, is_ready, llmservice
from cluster.served import Served

pytestmark = pytest.mark.timeout(240)

NAME = "secured"


def hortator(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HORTATOR, *arguments], check=False, capture_output=True, text=True, timeout=60)


class Keys:
    """Certificates as `hortator certificates` makes them, and one API key."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        made = hortator("certificates", NAME, "--namespace", namespace, "--out", str(folder))
        assert made.returncode == 0, made.stderr
        self.file = folder / "keys.yaml"
        (folder / "key").write_text(hortator("api-key", "tests", "-f", str(self.file)).stdout)

    def tls(self, component: str) -> tuple[str, str]:
        return ("--tls", str(self.folder / component))

    @property
    def api_key(self) -> tuple[str, str]:
        return ("--api-key-file", str(self.folder / "key"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory, secured_namespace) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"), secured_namespace)


@pytest.fixture(scope="module")
def secured_namespace(lab) -> Iterator[str]:
    with lab.namespace(f"secured-{uuid.uuid4().hex[:8]}") as namespace:
        yield namespace


@pytest.fixture(scope="module")
def secured(lab, keys, secured_namespace) -> Iterator[Served]:
    """A service of two groups; its operator has a certificate."""
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
    own = {f"tls__{name}": str(keys.folder / "operator" / file) for name, file in files.items()}
    with (
        running_fake_nodes(lab, 4, mode="process") as nodes,
        operators_in(lab, secured_namespace) as operators,
        recording(lab.client, secured_namespace) as record,
    ):
        operator = operators.start(**own)
        scene = Scene(lab=lab, namespace=secured_namespace, nodes=nodes, operator=operator, record=record)
        scene.kubectl("apply", "-f", str(keys.folder / "secrets.yaml"))
        lab.client.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "keys", "namespace": secured_namespace},
                "data": {"keys.yaml": base64.b64encode(keys.file.read_bytes()).decode()},
            }
        )
        security = {"tls": {}, "clientAuth": "Certificate", "apiKeysSecretRef": {"name": "keys"}}
        simulated = {"backend": "Simulated", "simulated": {"timeScale": 0.05}}
        lab.client.create(
            llmservice(NAME, secured_namespace, security=security, engine=simulated, drain={"timeout": "60s"})
        )
        scene.until(is_ready, name=NAME, timeout_s=120)
        yield Served(lab=lab, nodes=nodes, operator=operator, namespace=secured_namespace, name=NAME)


def test_a_client_with_certificate_and_key_is_served(secured, keys):
    ask = (
        "generate",
        "--endpoint",
        secured.gateways()[0],
        "Shall I compare thee",
        "--max-tokens",
        "8",
        "--json",
    )
    answer = hortator(*ask, *keys.tls("client"), *keys.api_key)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout.splitlines()[-1])["completion"]["num_output_tokens"] == 8


@pytest.mark.safety
def test_without_either_nobody_is(secured, keys):
    ask = ("generate", "--endpoint", secured.gateways()[0], "Shall I compare thee")
    assert "no gateway answers" in hortator(*ask, *keys.api_key).stderr
    assert "an API key is wanted" in hortator(*ask, *keys.tls("client")).stderr
    assert (
        "may be called by administrator or client"
        in hortator(*ask, *keys.tls("worker"), *keys.api_key).stderr
    )


def test_the_operator_sees_the_ranks_and_drains_a_group_before_it_goes(secured):
    """Both by the scheduler's admin service, which wants a certificate."""
    service = secured.get()
    assert service["status"]["scheduler"]["registeredRanks"] == 32
    secured.change({"roles": [service["spec"]["roles"][0] | {"replicas": 1}]})
    secured.wait(
        lambda now: is_ready(now) and len(now["status"]["groups"]) == 1,
        what="one group is left, long before the drain timeout",
        timeout_s=45,
    )
    assert [line for line in secured.operator.log() if "wants a certificate" in line.get("event", "")] == []
