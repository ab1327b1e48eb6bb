"""The in-memory API for helm, which keeps its releases in Secrets and writes those as protobuf.

Kubernetes' protobuf is the bytes `k8s\\0` and an envelope (`Unknown`: type and raw object); of the objects only
Secret is known here, with the fields that helm sets. Answers stay JSON, which every client takes.
"""

import base64
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from doubles.kubernetes.api import ApiError
from doubles.kubernetes.http_front import HttpFront
from doubles.kubernetes.kinds import KINDS

_MAGIC = b"k8s\x00"
_STRING, _BYTES, _MESSAGE = 9, 12, 11
_MESSAGES: dict[str, list[tuple[int, str, int | str]]] = {
    "TypeMeta": [(1, "apiVersion", _STRING), (2, "kind", _STRING)],
    "Unknown": [(1, "typeMeta", "TypeMeta"), (2, "raw", _BYTES)],
    "Label": [(1, "key", _STRING), (2, "value", _STRING)],
    "Entry": [(1, "key", _STRING), (2, "value", _BYTES)],
    "ObjectMeta": [
        (1, "name", _STRING),
        (3, "namespace", _STRING),
        (5, "uid", _STRING),
        (6, "resourceVersion", _STRING),
        (11, "labels", "*Label"),
    ],
    "Secret": [(1, "metadata", "ObjectMeta"), (2, "data", "*Entry"), (3, "type", _STRING)],
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="helm_front.proto", package="helm_front", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            entry = message.field.add(name=field, number=number, label=1)
            if isinstance(kind, int):
                entry.type = kind
            else:
                entry.type, entry.type_name = _MESSAGE, f".helm_front.{kind.lstrip('*')}"
                entry.label = 3 if kind.startswith("*") else 1
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"helm_front.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _classes()


class HelmFront(HttpFront):
    """`HttpFront` that takes Secrets and options of a delete as protobuf as well."""

    def body_of(self, raw: bytes) -> Any:
        """See `HttpFront`."""
        if not raw.startswith(_MAGIC):
            return super().body_of(raw)
        envelope = _CLASSES["Unknown"].FromString(raw.removeprefix(_MAGIC))
        match envelope.typeMeta.kind:
            case "Secret":
                return _secret(envelope.raw)
            case "DeleteOptions":
                return {}
        raise ApiError(415, "UnsupportedMediaType", f"protobuf of a {envelope.typeMeta.kind}")

    def _discovery(self, path: str) -> Any:
        """And where fields are validated: by the server, so helm asks for no schemas."""
        versions = sorted({kind.api_version for kind in KINDS.values()})
        names = {f"/openapi/v3/{_root(version)}": version for version in versions}
        if path == "/openapi/v3":
            return {
                "paths": {name.removeprefix("/openapi/v3/"): {"serverRelativeURL": name} for name in names}
            }
        if path in names:
            return _open_api(names[path])
        return super()._discovery(path)


def _root(api_version: str) -> str:
    return f"apis/{api_version}" if "/" in api_version else f"api/{api_version}"


def _open_api(api_version: str) -> dict[str, Any]:
    group, _, version = api_version.rpartition("/")
    parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
    paths = {
        f"/{_root(api_version)}/{kind.plural}/{{name}}": {
            "patch": {
                "parameters": parameters,
                "responses": {},
                "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind.kind},
            }
        }
        for kind in KINDS.values()
        if kind.api_version == api_version
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": paths}


def _secret(raw: bytes) -> dict[str, Any]:
    found = _CLASSES["Secret"].FromString(raw)
    metadata = {"name": found.metadata.name, "labels": {one.key: one.value for one in found.metadata.labels}}
    for name in ("namespace", "uid", "resourceVersion"):
        if getattr(found.metadata, name):
            metadata[name] = getattr(found.metadata, name)
    data = {one.key: base64.b64encode(one.value).decode() for one in found.data}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": found.type, "data": data}
