"""The in-memory API on a socket: for clients that speak HTTP, ours and kopf's.

Paths, verbs, content types, watches, pages and error answers as a real server has them, without TLS and
without asking who calls. Faults are switched on: `pause` (no answers at all), `fail` (a status for every call
that a predicate chooses), `mute_watches` (streams stay open and silent, as after a lost connection).
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

from doubles.kubernetes.api import ApiError, ApiServer, Key
from doubles.kubernetes.kinds import KINDS, Kind

Chooser = Callable[[str, str], ApiError | None]
"""Method and path of a call -> the error to answer with."""


class HttpFront:
    """Serves one `ApiServer` on loopback; an async context manager."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.port = 0
        self.fail: Chooser = lambda _method, _path: None
        self.requests: list[tuple[str, str]] = []
        """Method and path of every call so far."""
        self.mute_watches = False
        self.unserved: set[str] = set()
        """Kinds whose CRDs are not installed."""
        self._is_running = asyncio.Event()
        self._is_running.set()
        self._runner: web.AppRunner | None = None
        self._by_path = {(_root(kind.api_version), kind.plural): kind for kind in KINDS.values()}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def pause(self) -> None:
        """Accept connections and answer nothing."""
        self._is_running.clear()

    def resume(self) -> None:
        """Answer again."""
        self._is_running.set()

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for watch in list(self.api.watches):
            watch.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        await self._is_running.wait()
        try:
            error = self.fail(request.method, request.path)
            if error is not None:
                raise error
            found = self._discovery(request.path)
            if found is not None:
                return web.json_response(found)
            return await self._resource(request)
        except ApiError as error:
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": error.status,
                "reason": error.reason,
                "message": error.message,
            }
            headers = {} if error.retry_after_s is None else {"Retry-After": str(int(error.retry_after_s))}
            return web.json_response(status, status=error.status, headers=headers)

    def body_of(self, raw: bytes) -> Any:
        """The object that a call carries."""
        return json.loads(raw or b"null")

    def _discovery(self, path: str) -> Any:
        served = [kind for key, kind in KINDS.items() if not kind.is_optional or key in self.api.installed]
        groups = sorted({kind.api_version for kind in served if "/" in kind.api_version})
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {"kind": "APIGroupList", "groups": [_group(group_version) for group_version in groups]}
        kinds = [kind for kind in served if _root(kind.api_version) == path.rstrip("/")]
        kinds = [kind for kind in kinds if kind.kind not in self.unserved]
        if not kinds:
            return None
        return {
            "kind": "APIResourceList",
            "groupVersion": kinds[0].api_version,
            "resources": [entry for kind in kinds for entry in _entries(kind)],
        }

    async def _resource(self, request: web.Request) -> web.StreamResponse:
        kind, key, subresource = self._parsed(request.path)
        if kind.kind in self.unserved:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        query = request.query
        manager = query.get("fieldManager") or "unknown"
        body = self.body_of(await request.read())
        match request.method:
            case "GET" if not key[3] and query.get("watch") in {"true", "1"}:
                return await self._watch(request, kind, key[2])
            case "GET" if not key[3]:
                return web.json_response(self._list(kind, key[2], query))
            case "GET":
                return web.json_response(self.api.get(key))
            case "POST":
                body = {"apiVersion": key[0], "kind": key[1]} | body
                if kind.is_namespaced:
                    body["metadata"]["namespace"] = key[2]
                return web.json_response(self.api.create(body, manager=manager), status=201)
            case "PUT":
                if kind.is_namespaced:
                    body["metadata"].setdefault("namespace", key[2])
                return web.json_response(self.api.replace(body, manager=manager, subresource=subresource))
            case "PATCH" if "apply-patch" in request.content_type:
                is_forced = query.get("force") == "true"
                answer = self.api.apply(body, manager=manager, force=is_forced, subresource=subresource)
                return web.json_response(answer)
            case "PATCH" if "merge-patch" in request.content_type:
                return web.json_response(self.api.patch(key, body, manager=manager, subresource=subresource))
            case "DELETE":
                return web.json_response(self._delete(key, body or {}))
        raise ApiError(415, "UnsupportedMediaType", f"{request.method} {request.content_type}")

    def _delete(self, key: Key, options: Any) -> Any:
        preconditions = options.get("preconditions") or {}
        return self.api.delete(
            key,
            uid=preconditions.get("uid"),
            version=preconditions.get("resourceVersion"),
            grace_s=options.get("gracePeriodSeconds"),
        )

    def _list(self, kind: Kind, namespace: str, query: Any) -> Any:
        items, token = self.api.list(
            kind,
            namespace=namespace or None,
            labels=_selector(query.get("labelSelector")),
            fields=_selector(query.get("fieldSelector")),
            limit=int(query.get("limit") or 0) or None,
            token=query.get("continue") or "",
        )
        for item in items:  # as a real server's list does
            item.pop("kind"), item.pop("apiVersion")
        metadata = {"resourceVersion": str(self.api.version), "continue": token}
        return {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version,
            "metadata": metadata,
            "items": items,
        }

    async def _watch(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        query = request.query
        if query.get("sendInitialEvents") == "true":  # as servers without WatchList say; clients list then
            raise ApiError(422, "Invalid", "sendInitialEvents: Forbidden: the WatchList feature is off")
        watch = self.api.watch(
            kind,
            namespace=namespace or None,
            labels=_selector(query.get("labelSelector")),
            fields=_selector(query.get("fieldSelector")),
            since=query.get("resourceVersion") or "",
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        news = asyncio.Event()
        watch.on_event = news.set
        timeout = float(query.get("timeoutSeconds") or 3600)
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            await response.prepare(request)
            async with asyncio.timeout_at(deadline):
                while not (watch.is_over and not watch.events):
                    await self._is_running.wait()
                    while watch.events and not self.mute_watches:
                        await response.write(json.dumps(watch.events.popleft()).encode() + b"\n")
                    if not watch.is_over:
                        await news.wait()
                        news.clear()
        except (TimeoutError, ConnectionError):
            pass
        finally:
            watch.close()
        return response

    def _parsed(self, path: str) -> tuple[Kind, Key, str]:
        parts = path.strip("/").split("/")
        size = 2 if parts[0] == "api" else 3
        root, rest = "/" + "/".join(parts[:size]), parts[size:]
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        kind = self._by_path.get((root, rest[0])) if rest else None
        if kind is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        name = rest[1] if len(rest) > 1 else ""
        return kind, (kind.api_version, kind.kind, namespace, name), rest[2] if len(rest) > 2 else ""


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _group(group_version: str) -> Any:
    group, version = group_version.split("/")
    entry = {"groupVersion": group_version, "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _entries(kind: Kind) -> list[Any]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    entry = {
        "name": kind.plural,
        "singularName": kind.kind.lower(),
        "namespaced": kind.is_namespaced,
        "kind": kind.kind,
        "verbs": verbs,
    }
    status = entry | {"name": f"{kind.plural}/status", "verbs": ["get", "patch", "update"]}
    return [entry, status] if kind.has_status else [entry]


def _selector(text: str | None) -> dict[str, str]:
    pairs = (part.partition("=") for part in (text or "").split(",") if part)
    return {name: value.lstrip("=") for name, _, value in pairs}
