"""Everything that the operator renders is taken by a real API server, and a second apply writes nothing."""

import time
from pathlib import Path

import pytest

from cluster.kube import documents
from hortator.api.files import load_llmservice
from hortator.api.v1alpha1 import LLMService
from hortator.operator.desired import desired
from hortator.operator.manifests.group import with_token
from hortator.operator.names import FIELD_MANAGER, LABEL_ROLE, LABEL_SCALE_UNIT, LABEL_SERVICE
from hortator.operator.options import Images, Options
from hortator.operator.revision import is_owned_by

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))
OPTIONS = Options(images=Images.of_version("0.0.0"))
CRD = "CustomResourceDefinition"
MADE_ONCE = {"Secret", "ControllerRevision", "Job"}


@pytest.fixture(scope="session")
def served(control_plane):
    """The API server knows LLMServices."""
    control_plane.apply_crd(ROOT / "manifests/crd.yaml")


@pytest.fixture
def on_cluster(control_plane, served, namespace):
    """`on_cluster(path)`: the LLMService of a file, created, and what should be there for it."""

    def create(path, *, is_fenced=False, **model):
        document = load_llmservice(path).model_dump(mode="json", by_alias=True, exclude_unset=True)
        document["metadata"]["namespace"] = namespace
        document["spec"]["model"] |= model
        if is_fenced:
            document["spec"]["security"] = {"networkPolicy": {"clientNamespaces": ["apps"]}}
        created = control_plane.client.create(document)
        service = LLMService.model_validate(document, by_alias=True, by_name=False)
        return created, desired(service, uid=created["metadata"]["uid"], options=OPTIONS)

    return create


def write(client, obj):
    """As the operator does it."""
    if obj["kind"] == "Secret":
        return client.create(with_token(obj, "secret"))
    return client.create(obj) if obj["kind"] in MADE_ONCE else client.apply(obj, field_manager=FIELD_MANAGER)


def live(client, obj):
    metadata = obj["metadata"]
    return client.get(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))


def state(obj):
    """What changes with a write."""
    return obj["metadata"]["resourceVersion"]


def applies_without_a_write(client, obj):
    """Sooner or later: controllers add a finalizer or a status in between, once. An apply that writes never ends."""
    deadline = time.monotonic() + 10
    while state(live(client, obj)) != state(client.apply(obj, field_manager=FIELD_MANAGER)):
        assert time.monotonic() < deadline, f"every apply of {obj['metadata']['name']} writes"


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_objects_are_taken_applied_again_without_a_write_and_go_with_their_service(
    control_plane, on_cluster, path
):
    client = control_plane.client
    cache = {"cache": {"create": {"size": "1Gi"}}} if path.stem == "llmservice-h800-16" else {}
    service, wanted = on_cluster(path, is_fenced=bool(cache), **cache)
    objects = list(wanted.objects())
    for obj in objects:
        write(client, obj)
    for obj in objects:
        if obj["kind"] not in MADE_ONCE:
            applies_without_a_write(client, obj)
    client.delete(service)
    for obj in objects:
        metadata = obj["metadata"]
        client.wait(
            obj["apiVersion"],
            obj["kind"],
            metadata["name"],
            metadata["namespace"],
            lambda found: found is None or found["metadata"].get("deletionTimestamp"),
            timeout_s=60,  # garbage collection takes note of a new CRD after up to 30 s
        )


@pytest.mark.parametrize("name", ["simulated-64", "local"])
def test_the_pods_of_admitted_groups_are_those_of_the_layout(control_plane, on_cluster, namespace, name):
    client = control_plane.client
    _, wanted = on_cluster(ROOT / f"manifests/samples/llmservice-{name}.yaml")

    def pods():
        return sorted(
            client.list("v1", "Pod", namespace, labels=LABEL_ROLE), key=lambda pod: pod["metadata"]["name"]
        )

    for obj in wanted.shared:
        write(client, obj)
    for replicas in (0, None):
        for group in wanted.groups:
            members = group.num_members if replicas is None else replicas
            write(client, group.service)
            write(client, group.statefulset(epoch=1, replicas=members, annotations={}))
        if replicas == 0:
            assert not pods()
    layout = sorted(member.pod for group in wanted.groups for member in group.members)
    client.wait(
        "v1", "Namespace", namespace, None, lambda _: [pod["metadata"]["name"] for pod in pods()] == layout
    )
    assert all(len(pod["metadata"]["labels"]["controller-revision-hash"]) <= 63 for pod in pods())
    labelled = [pod["metadata"]["name"] for pod in pods() if LABEL_SCALE_UNIT in pod["metadata"]["labels"]]
    assert labelled == (["local-p-0-0"] if name == "local" else [])  # of one replica: see `scale_unit_pod`
    revisions = client.list("apps/v1", "ControllerRevision", namespace, labels=LABEL_SERVICE)
    assert revisions  # the StatefulSets' own, with our labels
    assert not [obj for obj in revisions if is_owned_by(obj, wanted.owner.uid)]


def test_the_operator_can_be_installed_twice_and_removed(control_plane):
    client = control_plane.client
    objects = [one for one in documents((ROOT / "manifests/install.yaml").read_text()) if one["kind"] != CRD]
    try:
        for obj in objects:
            client.apply(obj, field_manager=FIELD_MANAGER)
        for obj in objects:
            applies_without_a_write(client, obj)
    finally:
        for obj in reversed(objects):
            client.delete(obj)
