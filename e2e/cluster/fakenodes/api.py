"""The fake nodes' client: JSON over one aiohttp session, and a watch that starts over by itself."""

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

Obj = dict[str, Any]
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
RETRY_S = 0.5
WATCH_S = 300
GONE = 410
log = logging.getLogger(__name__)


class ApiError(Exception):
    """The API server refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One API server; an async context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self.base = cluster["server"]
        self.ca = base64.b64decode(cluster["certificate-authority-data"])
        self._headers = {"Authorization": f"Bearer {user['token']}"}
        self._context = ssl.create_default_context(cadata=self.ca.decode())

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=64)
        timeout = aiohttp.ClientTimeout(total=30)
        self._session = aiohttp.ClientSession(
            self.base, headers=self._headers, connector=connector, timeout=timeout, read_bufsize=1 << 20
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(
        self, method: str, path: str, body: Obj | None = None, *, content_type: str = "application/json"
    ) -> Obj:
        """One call."""
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": content_type}
        async with self._session.request(method, path, data=data, headers=headers) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiError(response.status, text[:300])
            return json.loads(text)

    async def request_until_done(
        self, method: str, path: str, body: Obj | None = None, *, content_type: str = "application/json"
    ) -> Obj | None:
        """The same, again and again while the server is away or busy; None: the object is not there (any more)."""
        delay_s = RETRY_S
        while True:
            try:
                return await self.request(method, path, body, content_type=content_type)
            except ApiError as error:
                if error.status in {404, 409, 422}:  # gone, another object of that name, or ended meanwhile
                    return None
                if error.status != 429 and error.status < 500:
                    raise
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, 5)

    async def watch(self, path: str, **query: str) -> AsyncIterator[tuple[str, Obj]]:
        """LISTED with a list first (and after each interruption), then ADDED, MODIFIED, DELETED with objects."""
        version = ""
        while True:
            try:
                if not version:
                    found = await self._list(path, query)
                    version = found["metadata"]["resourceVersion"]
                    yield "LISTED", found
                async for kind, obj in self._events(path, query, version):
                    if kind == "ERROR":
                        version = ""
                        break
                    version = obj["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        yield kind, obj
            except ApiError as error:
                version = ""
                log.warning("watch %s: %s", path, error)
                await asyncio.sleep(RETRY_S)
            except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
                log.warning("watch %s: %r", path, error)
                await asyncio.sleep(RETRY_S)

    async def _list(self, path: str, query: Mapping[str, str]) -> Obj:
        async with self._session.get(path, params=query) as response:
            if response.status >= 400:
                raise ApiError(response.status, await response.text())
            return await response.json()

    async def _events(
        self, path: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[tuple[str, Obj]]:
        wanted = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_read=WATCH_S + 30)
        async with self._session.get(path, params=wanted, timeout=timeout) as response:
            if response.status >= 400:
                raise ApiError(response.status, await response.text())
            pending = bytearray()
            async for block in response.content.iter_any():
                pending += block
                *lines, rest = pending.split(b"\n")
                pending = bytearray(rest)
                for line in lines:
                    if line:
                        event = json.loads(line)
                        yield event["type"], event["object"]
