"""Every object that the operator makes of every sample, and whether Kubernetes knows all of its fields.

The schemas are those of every version from 1.29, the oldest that is supported; strict: a field that a version
lacks fails.
"""

from pathlib import Path

import pytest
import yaml

from doubles.kubernetes import schemas
from hortator.api.files import load_llmservice
from hortator.api.v1alpha1 import LLMService
from hortator.operator.desired import desired
from hortator.operator.manifests.group import with_token
from hortator.operator.options import Images, Options

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))
OPTIONS = Options(images=Images.of_version("0.0.0"))
UID = "00000000-0000-0000-0000-000000000000"

EVERYTHING = {
    "placement": {"topologyKey": "topology.kubernetes.io/zone"},
    "gateway": {"replicas": 2, "resources": {"cpu": "500m", "memory": "1Gi"}},
    "model": {
        "uri": "hf://deepseek-ai/DeepSeek-V3",
        "revision": "main",
        "authSecretRef": {"name": "hf"},
        "cache": {"create": {"size": "1Ti", "storageClassName": "fast"}},
    },
    "security": {
        "networkPolicy": {
            "clientNamespaces": ["apps"],
            "scraperNamespaces": ["monitoring"],
            "downloadPorts": [443, 3128],
        }
    },
    "engine": {
        "backend": "TensorRTLLM",
        "imagePullSecrets": [{"name": "regcred"}],
        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    },
}
ROLE = {
    "shmSize": "64Gi",
    "rdmaResources": {"rdma/hca_shared_devices_a": 1},
    "nodeSelector": {"pool": "h800"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "resources": {"cpu": "64", "memory": "1Ti"},
}
SCHEDULER = {
    "queue": {
        "maxRequests": 10000,
        "maxTokens": 20000000,
        "timeout": "30s",
        "maxWait": "5s",
        "tenantShare": 0.5,
    },
    "tenants": [{"name": "acme", "weight": 3, "queueShare": 0.8}, {"name": "batch", "weight": 0.2}],
}


def with_every_field():
    """A service with every field that reaches an object."""
    document = yaml.safe_load((ROOT / "manifests/samples/llmservice-h800-16.yaml").read_text())
    document["spec"] |= EVERYTHING
    document["spec"]["roles"][0] |= ROLE
    document["spec"]["scheduler"] |= SCHEDULER
    return LLMService.model_validate(document, by_alias=True, by_name=False)


SERVICES = [pytest.param(load_llmservice(path), id=path.stem) for path in SAMPLES] + [
    pytest.param(with_every_field(), id="every-field")
]


@pytest.mark.parametrize("service", SERVICES)
def test_objects_of_a_sample(request, service, golden):
    wanted = desired(service, uid=UID, options=OPTIONS)
    text = yaml.safe_dump_all(wanted.objects(), sort_keys=False, width=110)
    golden(f"operator/{request.node.callspec.id}.yaml", text)


@pytest.mark.parametrize("service", SERVICES)
def test_every_supported_kubernetes_knows_every_field(service):
    wanted = desired(service, uid=UID, options=OPTIONS)
    objects = [
        *wanted.objects(),
        *(group.pdb(is_open=True) for group in wanted.groups),
        *(with_token(group.identity, "secret") for group in wanted.groups),
        *(
            group.statefulset(
                epoch=2, replicas=0, annotations={"a": "b"}, domain=("rack", "r1"), avoided=frozenset({"n-1"})
            )
            for group in wanted.groups
        ),
    ]
    assert len(schemas.VERSIONS) >= 9  # 1.29 to 1.37
    unlike = schemas.unlike(objects)
    assert {one["kind"] for one in unlike} == {one["kind"] for one in objects}
    assert [
        said for version in schemas.VERSIONS for one in unlike for said in schemas.problems(one, version)
    ] == []


@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_a_field_that_kubernetes_does_not_know_is_found(version):
    """The check above can fail."""
    obj = desired(with_every_field(), uid=UID, options=OPTIONS).groups[0].pdb(is_open=False)
    assert schemas.problems(obj, version) == []
    obj["spec"]["minimumAvailable"] = 1
    (said,) = schemas.problems(obj, version)
    assert "minimumAvailable" in said
