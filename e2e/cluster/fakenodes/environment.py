"""The environment and the command line of a container, as a kubelet makes them."""

import base64
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.netns import MACHINE_IP

Obj = dict[str, Any]
REFERENCE = re.compile(r"\$\$|\$\((\w[\w.-]*)\)")
# What an image would bring: this checkout's Python first, and nothing of the machine's own environment.
BASE = {
    "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
}


class MissingReferenceError(Exception):
    """A secret or a config map is not there; worded as a kubelet does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The objects that the pod's environment refers to, by kind and name; None: it is not there."""

    secrets: Mapping[str, Obj | None]
    config_maps: Mapping[str, Obj | None]


def references(pod: Obj) -> tuple[set[str], set[str]]:
    """Names of the secrets and config maps that environments mention, and of secrets that are mounted."""
    secrets, config_maps = set(), set()
    for volume in pod["spec"].get("volumes", []):
        if "secret" in volume:
            secrets.add(volume["secret"]["secretName"])
    for container in _containers(pod):
        for entry in container.get("env", []):
            source = entry.get("valueFrom", {})
            if "secretKeyRef" in source:
                secrets.add(source["secretKeyRef"]["name"])
            if "configMapKeyRef" in source:
                config_maps.add(source["configMapKeyRef"]["name"])
        for entry in container.get("envFrom", []):
            if "secretRef" in entry:
                secrets.add(entry["secretRef"]["name"])
            if "configMapRef" in entry:
                config_maps.add(entry["configMapRef"]["name"])
    return secrets, config_maps


def environment(
    container: Obj, pod: Obj, *, pod_ip: str, known: References, api_port: int | None
) -> dict[str, str]:
    """All variables of a container; a missing reference that is not optional raises."""
    values = dict(BASE, HOSTNAME=pod["metadata"]["name"])
    if api_port is not None:
        values |= {"KUBERNETES_SERVICE_HOST": MACHINE_IP, "KUBERNETES_SERVICE_PORT": str(api_port)}
    for entry in container.get("envFrom", []):
        for kind, objects in (("secretRef", known.secrets), ("configMapRef", known.config_maps)):
            if kind in entry:
                data = _data(kind, entry[kind], objects)
                values |= {f"{entry.get('prefix', '')}{name}": value for name, value in data.items()}
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            value = _from_source(entry["valueFrom"], pod, pod_ip, known)
        else:
            value = expand(str(entry.get("value", "")), values)
        if value is not None:
            values[entry["name"]] = value
    return values


def in_own_folders(
    values: Mapping[str, str], container: Obj, pod: Obj, folder: Path, *, known: References
) -> dict[str, str]:
    """The variables with a folder of the pod's own in place of a mounted emptyDir or Secret, and with its files.

    Processes of this machine share its file system: what they write there must go with the pod all the same.
    Of an emptyDir only the folder itself is replaced: /tmp is one, and what this machine has below it (a
    checkout, its Python) is not the pod's.
    """
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    own: dict[str, Path] = {}
    secrets: dict[str, Path] = {}
    for mount in container.get("volumeMounts", []):
        volume = volumes.get(mount["name"], {})
        if "emptyDir" not in volume and "secret" not in volume:
            continue
        path = own[mount["mountPath"]] = folder / mount["name"]
        path.mkdir(parents=True, exist_ok=True)
        if "secret" in volume:
            _write_secret(path, volume["secret"], known.secrets[volume["secret"]["secretName"]])
            secrets[mount["mountPath"]] = path
    return {name: str(own.get(value) or _moved(value, secrets)) for name, value in values.items()}


def _write_secret(folder: Path, source: Obj, secret: Obj | None) -> None:
    if secret is None:
        raise MissingReferenceError(f'secret "{source["secretName"]}" not found')
    names = {item["key"]: item["path"] for item in source.get("items", [])}
    for key, content in (secret.get("data") or {}).items():
        if not names or key in names:
            (folder / names.get(key, key)).write_bytes(base64.b64decode(content))


def _moved(value: str, secrets: Mapping[str, Path]) -> str:
    for path, folder in secrets.items():
        if value.startswith(f"{path}/"):
            return str(folder) + value.removeprefix(path)
    return value


def command_line(container: Obj, values: Mapping[str, str]) -> list[str]:
    """Command and arguments with `$(NAME)` replaced."""
    words = [*container.get("command", []), *container.get("args", [])]
    return [expand(word, values) for word in words]


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` becomes its value, `$$` a dollar; an unknown name stays."""
    return REFERENCE.sub(
        lambda found: "$" if found[0] == "$$" else values.get(found[1], found[0]),
        text,
    )


def _from_source(source: Obj, pod: Obj, pod_ip: str, known: References) -> str | None:
    if "fieldRef" in source:
        return _field(source["fieldRef"]["fieldPath"], pod, pod_ip)
    if "resourceFieldRef" in source:
        return "0"
    for kind, word, objects in (
        ("secretKeyRef", "Secret", known.secrets),
        ("configMapKeyRef", "ConfigMap", known.config_maps),
    ):
        if kind not in source:
            continue
        reference = source[kind]
        data = _data(kind, reference, objects)
        if reference["key"] in data:
            return data[reference["key"]]
        if not reference.get("optional"):
            place = f"{pod['metadata']['namespace']}/{reference['name']}"
            raise MissingReferenceError(f"couldn't find key {reference['key']} in {word} {place}")
    return None


def _data(kind: str, reference: Obj, objects: Mapping[str, Obj | None]) -> dict[str, str]:
    obj = objects.get(reference["name"])
    word = "secret" if kind.startswith("secret") else "configmap"
    if obj is None:
        if reference.get("optional"):
            return {}
        raise MissingReferenceError(f'{word} "{reference["name"]}" not found')
    data = obj.get("data", {})
    if word == "configmap":
        return dict(data)
    return {name: base64.b64decode(value).decode(errors="surrogateescape") for name, value in data.items()}


def _field(path: str, pod: Obj, pod_ip: str) -> str:
    metadata = pod["metadata"]
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": MACHINE_IP,
    }
    if path in simple:
        return simple[path]
    group, _, key = path.removeprefix("metadata.").partition("['")
    return str(metadata.get(group, {}).get(key.removesuffix("']"), ""))


def _containers(pod: Obj) -> Sequence[Obj]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
