"""The environment of a process-mode container."""

import base64
from pathlib import Path

import pytest

from cluster.fakenodes.environment import (
    MissingReferenceError,
    References,
    command_line,
    environment,
    expand,
    in_own_folders,
    references,
)

NOTHING = References(secrets={}, config_maps={})
POD = {
    "metadata": {"name": "svc-d-0-1", "namespace": "ns", "uid": "u", "labels": {"a/b": "c"}},
    "spec": {"nodeName": "node-3", "containers": []},
}


def resolve(container, *, secrets=None, config_maps=None):
    known = References(secrets=secrets or {}, config_maps=config_maps or {})
    return environment(container, POD, pod_ip="10.244.1.1", known=known, api_port=None)


def secret_entry(**reference):
    return {"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", **reference}}}]}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "svc-d-0-1"),
        ("metadata.namespace", "ns"),
        ("metadata.labels['a/b']", "c"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "node-3"),
        ("status.podIP", "10.244.1.1"),
    ],
)
def test_a_field_reference_is_resolved(path, value):
    found = resolve({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]})
    assert found["X"] == value


def test_a_secret_is_decoded_and_its_absence_is_told_as_a_kubelet_does():
    data = {"data": {"k": base64.b64encode(b"v").decode()}}
    assert resolve(secret_entry(), secrets={"s": data})["T"] == "v"
    with pytest.raises(MissingReferenceError, match=r'^secret "s" not found$'):
        resolve(secret_entry(), secrets={"s": None})
    with pytest.raises(MissingReferenceError, match=r"^couldn't find key k in Secret ns/s$"):
        resolve(secret_entry(), secrets={"s": {"data": {}}})
    assert "T" not in resolve(secret_entry(optional=True), secrets={"s": None})


def test_all_of_a_config_map_comes_with_a_prefix():
    container = {"envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}]}
    assert resolve(container, config_maps={"c": {"data": {"A": "1"}}})["P_A"] == "1"


def test_references_are_expanded_in_order_and_unknown_ones_stay():
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}, {"name": "C", "value": "$(D) $$(A)"}]
    found = resolve({"env": env})
    assert found["B"] == "12"
    assert found["C"] == "$(D) $(A)"
    assert command_line({"command": ["x", "$(B)"], "args": ["$(A)"]}, found) == ["x", "12", "1"]
    assert expand("$(A", {"A": "1"}) == "$(A"


def test_nothing_of_the_machine_comes_through(monkeypatch):
    monkeypatch.setenv("HORTATOR_WORKER_ADDRESS", "x")
    assert "HORTATOR_WORKER_ADDRESS" not in resolve({})


def test_an_empty_dir_is_a_folder_of_the_pods_own(tmp_path):
    volumes = [{"name": "scratch", "emptyDir": {}}, {"name": "keys", "configMap": {"name": "keys"}}]
    mounts = [{"name": "scratch", "mountPath": "/scratch"}, {"name": "keys", "mountPath": "/keys"}]
    values = {"BOOT_DIR": "/scratch", "KEYS": "/keys", "FILE": "/scratch/file"}
    found = in_own_folders(
        values, {"volumeMounts": mounts}, {"spec": {"volumes": volumes}}, tmp_path, known=NOTHING
    )
    scratch = tmp_path / "scratch"
    assert found == values | {"BOOT_DIR": str(scratch)}
    assert [one.name for one in tmp_path.iterdir()] == ["scratch"]


def test_every_reference_of_every_container_is_looked_up():
    containers = [
        secret_entry(),
        {"envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "t"}}]},
    ]
    pod = {"spec": {"initContainers": [containers[0]], "containers": containers[1:]}}
    assert references(pod) == ({"s", "t"}, {"c"})


def test_a_mounted_secret_becomes_files_that_variables_name(tmp_path):
    volumes = [{"name": "keys", "secret": {"secretName": "mine", "items": [{"key": "a", "path": "b.yaml"}]}}]
    mounts = [{"name": "keys", "mountPath": "/etc/keys"}]
    pod = {"spec": {"containers": [{"volumeMounts": mounts}], "volumes": volumes}}
    secret = {"data": {"a": base64.b64encode(b"text").decode(), "c": ""}}
    known = References(secrets={"mine": secret}, config_maps={})
    values = {"FILE": "/etc/keys/b.yaml", "FOLDER": "/etc/keys", "OTHER": "/etc/keys2"}
    found = in_own_folders(values, pod["spec"]["containers"][0], pod, tmp_path, known=known)
    assert Path(found["FILE"]).read_bytes() == b"text"
    assert [path.name for path in Path(found["FOLDER"]).iterdir()] == ["b.yaml"]
    assert found["OTHER"] == "/etc/keys2"
    assert references(pod) == ({"mine"}, set())
    with pytest.raises(MissingReferenceError, match='secret "mine" not found'):
        in_own_folders(
            values,
            pod["spec"]["containers"][0],
            pod,
            tmp_path,
            known=References(secrets={"mine": None}, config_maps={}),
        )
