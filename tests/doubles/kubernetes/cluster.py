"""The operator's port over the in-memory API, with its failures: pauses, storms and slow answers."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from doubles.kubernetes.api import ApiError, ApiServer, Key, Obj
from doubles.kubernetes.kinds import KINDS, Kind
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
from hortator.operator.objects import Ref, ref_of

Fault = Callable[[str, Ref], ApiError | None]
"""Asked before every call with its verb; an error is answered instead."""


class FakeCluster:
    """Implements `Cluster`. Every call yields to the loop, as a call over the network does."""

    def __init__(self, api: ApiServer, *, call_timeout_s: float = 15.0) -> None:
        self.api = api
        self.fault: Fault = lambda _verb, _ref: None
        self.after_write: Callable[[str, Ref], None] = lambda _verb, _ref: None
        """Called when a write has been done and before its answer: where a crash hurts."""
        self.unserved: set[str] = set()
        """Kinds whose CRDs are not installed."""
        self.latency_s: Callable[[], float] = lambda: 0.0
        """How long a call takes before it is carried out."""
        self._call_timeout_s = call_timeout_s
        self._is_running = asyncio.Event()
        self._is_running.set()

    def pause(self) -> None:
        """Answer nothing until `resume`; calls run out of time."""
        self._is_running.clear()

    def resume(self) -> None:
        """Answer again."""
        self._is_running.set()

    async def get(self, ref: Ref) -> Obj | None:
        try:
            return await self._call("get", ref, lambda: self.api.get(_key(ref)))
        except NotFoundError:
            return None

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Obj]:
        ref = Ref(api_version=api_version, kind=kind, namespace=namespace or "", name="")
        found = _kind(ref)
        if kind in self.unserved:
            raise NotFoundError(f"list {kind}: the server could not find the requested resource")
        return await self._call(
            "list", ref, lambda: self.api.list(found, namespace=namespace, labels=labels, fields=fields)[0]
        )

    async def apply(self, obj: Obj, *, force: bool = True) -> Obj:
        return await self._call(
            "apply", ref_of(obj), lambda: self.api.apply(obj, manager=FIELD_MANAGER, force=force)
        )

    async def create(self, obj: Obj) -> Obj:
        return await self._call("create", ref_of(obj), lambda: self.api.create(obj, manager=FIELD_MANAGER))

    async def replace(self, obj: Obj) -> Obj:
        return await self._call("replace", ref_of(obj), lambda: self.api.replace(obj, manager=FIELD_MANAGER))

    async def delete(self, ref: Ref, *, uid: str | None = None, grace_s: int | None = None) -> None:
        try:
            await self._call("delete", ref, lambda: self.api.delete(_key(ref), uid=uid, grace_s=grace_s))
        except NotFoundError:
            return

    async def apply_status(self, obj: Obj) -> Obj:
        def write() -> Obj:
            return self.api.apply(obj, manager=FIELD_MANAGER, force=True, subresource="status")

        return await self._call("apply_status", ref_of(obj), write)

    async def patch_labels(self, ref: Ref, labels: Mapping[str, str | None]) -> None:
        patch = {"metadata": {"labels": dict(labels)}}
        await self._call("patch_labels", ref, lambda: self.api.patch(_key(ref), patch, manager=FIELD_MANAGER))

    async def scale(self, ref: Ref, replicas: int, *, resource_version: str) -> None:
        patch = {"metadata": {"resourceVersion": resource_version}, "spec": {"replicas": replicas}}

        def write() -> Obj:
            return self.api.patch(_key(ref), patch, manager=FIELD_MANAGER, subresource="scale")

        await self._call("scale", ref, write)

    async def serves(self, api_version: str, kind: str) -> bool:
        found = KINDS.get((api_version, kind))
        return found is not None and self._is_served(found)

    def _is_served(self, kind: Kind) -> bool:
        is_installed = not kind.is_optional or (kind.api_version, kind.kind) in self.api.installed
        return is_installed and kind.kind not in self.unserved

    async def _call(self, verb: str, ref: Ref, do: Callable[[], Any]) -> Any:
        if not self._is_served(_kind(ref)):
            raise InvalidError(f"the API server does not serve {ref.api_version} {ref.kind}")
        try:
            async with asyncio.timeout(self._call_timeout_s):
                await self._is_running.wait()
        except TimeoutError:
            raise UnavailableError(f"{verb} {ref}: no answer") from None
        await asyncio.sleep(self.latency_s())
        try:
            fault = self.fault(verb, ref)
            if fault is not None:
                raise fault
            answer = do()
            if verb not in {"get", "list"}:
                self.after_write(verb, ref)
        except ApiError as error:
            raise _translated(verb, ref, error) from None
        return answer


def _key(ref: Ref) -> Key:
    return ref.api_version, ref.kind, ref.namespace, ref.name


def _kind(ref: Ref) -> Kind:
    kind = KINDS.get((ref.api_version, ref.kind))
    if kind is None:
        raise InvalidError(f"the API server does not serve {ref.api_version} {ref.kind}")
    return kind


def _translated(verb: str, ref: Ref, error: ApiError) -> ClusterError:
    line = f"{verb} {ref}: {error.message}"
    match error.status:
        case 404:
            return NotFoundError(line)
        case 409:
            return AlreadyExistsError(line) if error.reason == "AlreadyExists" else ConflictError(line)
        case 403:
            return NotFoundError(line) if "being terminated" in error.message else ForbiddenError(line)
        case 400 | 422:
            return InvalidError(line)
        case _:
            return UnavailableError(line, retry_after_s=error.retry_after_s)
