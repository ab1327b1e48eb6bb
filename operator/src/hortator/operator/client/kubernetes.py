"""`Cluster` over the official client's HTTP layer: any kind, plain JSON, a time limit on every call.

The generated API classes are not used: they cover built-in kinds only, and turn JSON into models and back.
What kinds there are is asked of the API server itself (discovery), once per group version.

How answers become errors:

    404                          NotFoundError; a kind that is not served is an InvalidError
    409 AlreadyExists            AlreadyExistsError
    409 any other                ConflictError (an apply conflict, a precondition, an old resourceVersion)
    422 of metadata.uid          ConflictError: the object is another one by now
    400, 405, 413, 415, 422      InvalidError
    500 "not declared in schema" InvalidError: servers before 1.25 say so of fields that they do not have
    403                          ForbiddenError, but NotFoundError while the namespace is being deleted
    401, 429, 5xx, no answer     UnavailableError, with the server's Retry-After
    what is no object, no list   UnavailableError

Options of a delete travel in its body: the server ignores query parameters once there is a body.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from hortator.operator.cluster import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from hortator.operator.names import FIELD_MANAGER
from hortator.operator.objects import Obj, Ref, ref_of
from hortator.operator.observed.reading import at, flag, text
from hortator.operator.observed.reading import items as read_items

CALL_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
PAGE_SIZE = 500
MAX_RETRY_AFTER_S = 60.0
"""Nobody is left alone for longer, whatever a server says."""
_MAX_SHOWN = 300

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON = "application/json"
_PERMANENT = frozenset({400, 405, 406, 413, 415, 422})
_NOT_DECLARED = "field not declared in schema"
_ANOTHER_UID = "metadata.uid: Invalid value"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resource:
    plural: str
    is_namespaced: bool


class KubernetesCluster:
    """One connection pool to one API server. Close it."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        page_size: int = PAGE_SIZE,
    ) -> None:
        """Must be called in a running loop; nothing is sent before the first call."""
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._client.user_agent = FIELD_MANAGER
        self._call_timeout_s = call_timeout_s
        self._page_size = page_size
        self._served: dict[str, dict[str, _Resource]] = {}
        """By apiVersion and kind; only answers are kept, so that a CRD may come later."""

    @property
    def configuration(self) -> Configuration:
        """Where the API server is and who we are."""
        return self._configuration

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    # --- Cluster --------------------------------------------------------------------------------------

    async def get(self, ref: Ref) -> Obj | None:
        """See `Cluster`."""
        path = await self._path(ref)
        try:
            answer = await self._call("GET", path, what=f"get {ref}")
        except NotFoundError:
            return None
        return _object(f"get {ref}", answer, ref.api_version, ref.kind)

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Obj]:
        """See `Cluster`. Pages are fetched until there are no more; an expired page token starts again."""
        resource = await self._resource(api_version, kind)
        path = _collection(api_version, resource, namespace)
        query = {"limit": str(self._page_size)}
        if labels:
            query["labelSelector"] = _selector(labels)
        if fields:
            query["fieldSelector"] = _selector(fields)
        items: list[Obj] = []
        token = ""
        while True:
            page = query | ({"continue": token} if token else {})
            try:
                answer = await self._call("GET", path, query=page, what=f"list {kind}")
            except NotFoundError:
                self._served.pop(api_version, None)  # its CRD is gone
                raise
            except _ExpiredError:
                if not token:
                    raise
                items, token = [], ""
                continue
            items += _items(f"list {kind}", answer, api_version, kind)
            token = text(answer, "metadata", "continue")
            if not token:
                return items

    async def apply(self, obj: Obj, *, force: bool = True) -> Obj:
        """See `Cluster`."""
        ref = ref_of(obj)
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        path = await self._path(ref)
        what = f"apply {ref}"
        answer = await self._call("PATCH", path, query=query, body=obj, content_type=_APPLY, what=what)
        return _object(what, answer, ref.api_version, ref.kind)

    async def create(self, obj: Obj) -> Obj:
        """See `Cluster`."""
        ref = ref_of(obj)
        resource = await self._resource(ref.api_version, ref.kind)
        path = _collection(ref.api_version, resource, ref.namespace or None)
        query = {"fieldManager": FIELD_MANAGER}
        what = f"create {ref}"
        answer = await self._call("POST", path, query=query, body=obj, what=what)
        return _object(what, answer, ref.api_version, ref.kind)

    async def replace(self, obj: Obj) -> Obj:
        """See `Cluster`."""
        ref = ref_of(obj)
        query = {"fieldManager": FIELD_MANAGER}
        what = f"replace {ref}"
        answer = await self._call("PUT", await self._path(ref), query=query, body=obj, what=what)
        return _object(what, answer, ref.api_version, ref.kind)

    async def delete(self, ref: Ref, *, uid: str | None = None, grace_s: int | None = None) -> None:
        """See `Cluster`."""
        options: Obj = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        path = await self._path(ref)
        try:
            await self._call("DELETE", path, body=options, what=f"delete {ref}")
        except NotFoundError:
            return

    async def apply_status(self, obj: Obj) -> Obj:
        """See `Cluster`."""
        ref = ref_of(obj)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        path = f"{await self._path(ref)}/status"
        what = f"apply the status of {ref}"
        answer = await self._call("PATCH", path, query=query, body=obj, content_type=_APPLY, what=what)
        return _object(what, answer, ref.api_version, ref.kind)

    async def patch_labels(self, ref: Ref, labels: Mapping[str, str | None]) -> None:
        """See `Cluster`."""
        body = {"metadata": {"labels": dict(labels)}}
        query = {"fieldManager": FIELD_MANAGER}
        path = await self._path(ref)
        await self._call("PATCH", path, query=query, body=body, content_type=_MERGE, what=f"label {ref}")

    async def scale(self, ref: Ref, replicas: int, *, resource_version: str) -> None:
        """See `Cluster`."""
        body = {"metadata": {"resourceVersion": resource_version}, "spec": {"replicas": replicas}}
        query = {"fieldManager": FIELD_MANAGER}
        path = f"{await self._path(ref)}/scale"
        await self._call("PATCH", path, query=query, body=body, content_type=_MERGE, what=f"scale {ref}")

    async def serves(self, api_version: str, kind: str) -> bool:
        """See `Cluster`. What was not served is asked for again."""
        if kind not in self._served.get(api_version, {}):
            self._served.pop(api_version, None)
        return kind in await self._kinds(api_version)

    # --- paths ----------------------------------------------------------------------------------------

    async def _path(self, ref: Ref) -> str:
        resource = await self._resource(ref.api_version, ref.kind)
        return f"{_collection(ref.api_version, resource, ref.namespace or None)}/{quote(ref.name, safe='')}"

    async def _resource(self, api_version: str, kind: str) -> _Resource:
        found = (await self._kinds(api_version)).get(kind)
        if found is None:
            self._served.pop(api_version, None)  # asked again next time: its CRD may come
            raise InvalidError(f"the API server does not serve {api_version} {kind}")
        return found

    async def _kinds(self, api_version: str) -> dict[str, _Resource]:
        known = self._served.get(api_version)
        if known is None:
            try:
                answer = await self._call("GET", _root(api_version), what=f"discover {api_version}")
            except NotFoundError:
                return {}
            known = {
                text(entry, "kind"): _Resource(
                    plural=text(entry, "name"), is_namespaced=flag(entry, "namespaced")
                )
                for entry in read_items(answer, "resources")
                if text(entry, "name") and "/" not in text(entry, "name")
            }
            self._served[api_version] = known
        return known

    # --- the wire -------------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Obj | None = None,
        content_type: str = _JSON,
    ) -> Obj:
        url = f"{self.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": _JSON}
        if body is not None:
            headers["Content-Type"] = content_type
        timeout = aiohttp.ClientTimeout(total=self._call_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            response = await self._client.call_api(method, url, headers, body, _request_timeout=timeout)
            async with asyncio.timeout(self._call_timeout_s):
                raw = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(f"{what}: {reason}") from None
        answer = _parsed(raw)
        if not 200 <= response.status < 300:
            raise _error(what, response.status, answer, response.headers)
        return answer


class _ExpiredError(UnavailableError):
    """410: a page token or a resourceVersion that the server has forgotten."""


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _collection(api_version: str, resource: _Resource, namespace: str | None) -> str:
    where = f"/namespaces/{quote(namespace, safe='')}" if resource.is_namespaced and namespace else ""
    return f"{_root(api_version)}{where}/{resource.plural}"


def _selector(wanted: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))


def _parsed(raw: bytes) -> Obj:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return {"message": raw.decode(errors="replace").strip()}
    return answer if isinstance(answer, dict) else {}


def _items(what: str, answer: Obj, api_version: str, kind: str) -> Iterator[Obj]:
    """What a list has; a list that is none must not be taken for an empty one: all would count as gone."""
    found = answer.get("items", answer)
    if found is None:  # an empty list of Go
        return
    if not isinstance(found, list):
        raise UnavailableError(f"{what}: the answer is no list")
    for item in found:
        yield _object(what, item, api_version, kind)


def _object(what: str, answer: Any, api_version: str, kind: str) -> Obj:
    """An object that has a name; what else is in it, `observed` reads as far as it makes sense."""
    namespace = at(answer, "metadata", "namespace")
    if not text(answer, "metadata", "name") or not isinstance(namespace, str | None):
        raise UnavailableError(f"{what}: the answer has no object, or one without a name")
    return cast("Obj", answer) | {"apiVersion": api_version, "kind": kind}


def _error(what: str, status: int, answer: Obj, headers: Mapping[str, str]) -> ClusterError:
    said = " ".join(str(answer.get("message") or answer.get("reason") or f"HTTP {status}").split())
    line = f"{what}: {said[:_MAX_SHOWN]}"
    reason = answer.get("reason", "")
    if status == 404:
        return NotFoundError(line)
    if status == 409:
        return AlreadyExistsError(line) if reason == "AlreadyExists" else ConflictError(line)
    if status == 403:
        is_leaving = "because it is being terminated" in said
        return NotFoundError(line) if is_leaving else ForbiddenError(line)
    if status == 422 and _ANOTHER_UID in said:
        return ConflictError(line)
    if status in _PERMANENT or (status == 500 and _NOT_DECLARED in said):
        return InvalidError(line)
    retry_after_s = _retry_after_s(answer, headers)
    if status == 410:
        return _ExpiredError(line, retry_after_s=retry_after_s)
    return UnavailableError(line, retry_after_s=retry_after_s)


def _retry_after_s(answer: Obj, headers: Mapping[str, str]) -> float | None:
    given: tuple[Any, ...] = (headers.get("Retry-After"), at(answer, "details", "retryAfterSeconds"))
    for value in given:
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if seconds >= 0.0:
            return min(seconds, MAX_RETRY_AFTER_S)
    return None
