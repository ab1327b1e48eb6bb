"""A small blocking client for tests: objects are plain JSON dicts, an error carries the server's words."""

import base64
import contextlib
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import yaml

Obj = dict[str, Any]
MERGE, STRATEGIC, APPLY = (
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
FIELD_MANAGER = "lab"


class ApiError(Exception):
    """The API server refused."""

    def __init__(self, status: int, message: str, body: Any = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.body = body


@dataclass(slots=True)
class Kube:
    """One API server, as one user."""

    host: str
    port: int
    context: ssl.SSLContext
    headers: Mapping[str, str]
    timeout_s: float = 30
    _plurals: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict)
    _connection: http.client.HTTPSConnection | None = None

    @classmethod
    def from_kubeconfig(cls, path: Path) -> "Kube":
        """The current context of a kubeconfig: bearer token or client certificate."""
        document = yaml.safe_load(path.read_text())
        name = document["current-context"]
        chosen = next(entry["context"] for entry in document["contexts"] if entry["name"] == name)
        cluster = next(c["cluster"] for c in document["clusters"] if c["name"] == chosen["cluster"])
        user = next(u["user"] for u in document["users"] if u["name"] == chosen["user"])
        authority = cluster.get("certificate-authority-data")
        context = ssl.create_default_context(
            cafile=cluster.get("certificate-authority"),
            cadata=base64.b64decode(authority).decode() if authority else None,
        )
        with contextlib.ExitStack() as stack:
            certificate, key = (_as_file(user, f"client-{what}", stack) for what in ("certificate", "key"))
            if certificate:
                context.load_cert_chain(certificate, key)
        server = urlsplit(cluster["server"])
        token = user.get("token")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return cls(server.hostname or "", server.port or 443, context, headers)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """One call; JSON comes back parsed, anything else as text."""
        target = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body).encode()
        headers = {**self.headers, "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = content_type
        response, text = self._send(method, target, data, headers)
        is_json = "json" in response.getheader("Content-Type", "")
        content = json.loads(text) if is_json and text else text.decode(errors="replace")
        if response.status >= 400:
            message = content.get("message", "") if isinstance(content, dict) else content
            raise ApiError(response.status, message, content)
        return content

    def _send(
        self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        is_reused = self._connection is not None
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self.host, self.port, context=self.context, timeout=self.timeout_s
            )
        try:
            self._connection.request(method, target, data, dict(headers))
            response = self._connection.getresponse()
            return response, response.read()
        except (http.client.HTTPException, OSError):
            self.close()
            if is_reused and method == "GET":
                return self._send(method, target, data, headers)
            raise

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def path(self, api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
        """The path of a collection or an object; plurals come from discovery."""
        base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        if (api_version, kind) not in self._plurals:
            for resource in self.request("GET", base)["resources"]:
                if "/" not in resource["name"]:
                    self._plurals[api_version, resource["kind"]] = resource["name"], resource["namespaced"]
        if (api_version, kind) not in self._plurals:
            raise ApiError(404, f"{api_version} has no kind {kind}")
        plural, is_namespaced = self._plurals[api_version, kind]
        middle = f"/namespaces/{namespace}" if namespace and is_namespaced else ""
        return f"{base}{middle}/{plural}" + (f"/{quote(name)}" if name else "")

    def path_of(self, obj: Obj) -> str:
        """The path of an object."""
        metadata = obj["metadata"]
        return self.path(obj["apiVersion"], obj["kind"], metadata.get("namespace"), metadata["name"])

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Obj | None:
        """One object; None: there is none."""
        try:
            return self.request("GET", self.path(api_version, kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
    ) -> list[Obj]:
        """All objects of a kind."""
        query = {key: v for key, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}
        found = self.request("GET", self.path(api_version, kind, namespace), query=query)
        return [{"apiVersion": api_version, "kind": kind, **item} for item in found["items"]]

    def delete_all(self, api_version: str, kind: str, namespace: str, *, grace_s: int | None = None) -> None:
        """Delete every object of a kind in a namespace."""
        options: Obj = {"propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        self.request("DELETE", self.path(api_version, kind, namespace), options)

    def create(self, obj: Obj) -> Obj:
        """Create an object."""
        metadata = obj["metadata"]
        return self.request("POST", self.path(obj["apiVersion"], obj["kind"], metadata.get("namespace")), obj)

    def apply(self, obj: Obj, *, field_manager: str = FIELD_MANAGER) -> Obj:
        """Server-side apply, taking over fields of others."""
        query = {"fieldManager": field_manager, "force": "true"}
        return self.request("PATCH", self.path_of(obj), obj, content_type=APPLY, query=query)

    def patch(self, obj: Obj, patch: Obj, *, subresource: str = "", content_type: str = MERGE) -> Obj:
        """Merge-patch an object or a subresource of it."""
        path = self.path_of(obj) + (f"/{subresource}" if subresource else "")
        return self.request("PATCH", path, patch, content_type=content_type)

    def delete(self, obj: Obj, *, grace_s: int | None = None, orphan: bool = False) -> None:
        """Delete an object in the background; absent is fine."""
        options: Obj = {"propagationPolicy": "Orphan" if orphan else "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self.request("DELETE", self.path_of(obj), options)
        except ApiError as error:
            if error.status != 404:
                raise

    def wait(
        self,
        api_version: str,
        kind: str,
        name: str,
        namespace: str | None,
        condition: Callable[[Obj | None], object],
        *,
        timeout_s: float = 30,
        poll_s: float = 0.1,
    ) -> Obj | None:
        """Poll one object until the condition holds; returns it."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.get(api_version, kind, name, namespace)
            if condition(found):
                return found
            if time.monotonic() > deadline:
                status = json.dumps(found.get("status") if found else None)
                raise TimeoutError(f"{kind} {namespace}/{name} not as wanted in {timeout_s:g} s: {status}")
            time.sleep(poll_s)


def is_ready(pod: Obj | None) -> bool:
    """Whether a pod's Ready condition is True."""
    conditions = (pod or {}).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def documents(text: str) -> Iterator[Obj]:
    """The objects of a YAML manifest."""
    yield from (document for document in yaml.safe_load_all(text) if document)


def _as_file(user: Mapping[str, str], key: str, stack: contextlib.ExitStack) -> str | None:
    if key in user:
        return user[key]
    if f"{key}-data" not in user:
        return None
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / key).write_bytes(base64.b64decode(user[f"{key}-data"]))
    return str(folder / key)
