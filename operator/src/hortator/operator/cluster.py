"""The port to a Kubernetes API server: what the operator asks of it, and the ways in which that fails.

Whoever implements it (the client over HTTP, the in-memory API of the tests) passes one conformance suite.

- Objects are plain dicts (`objects`). What is returned belongs to the caller.
- Every call is limited in time by the implementation; running out of it is an `UnavailableError`.
- An error says whether trying again can help: `UnavailableError` yes, `ConflictError` and `NotFoundError`
  after looking again, `InvalidError` and `ForbiddenError` not until somebody changes something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hortator.operator.objects import Obj, Ref


class ClusterError(Exception):
    """A call to the API server failed. `str()` is one line: what was asked and what was answered."""


class NotFoundError(ClusterError):
    """The object, or the namespace it should live in, is not there."""


class ConflictError(ClusterError):
    """The object is not the one, or not in the state, that the caller has seen; look again."""


class AlreadyExistsError(ClusterError):
    """An object of that name exists."""


class InvalidError(ClusterError):
    """The API server will never take this object, or does not know its kind."""


class ForbiddenError(ClusterError):
    """The operator's roles do not allow it."""


class UnavailableError(ClusterError):
    """The API server cannot answer now: overloaded, restarting, out of reach or too slow."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """What the server asked for, if it did."""


class Cluster(Protocol):
    """An API server, as far as the operator needs one."""

    async def get(self, ref: Ref) -> Obj | None:
        """The object now, None when it is not there."""
        ...

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Obj]:
        """All objects of a kind, from one namespace or (None) from all, with these labels and fields."""
        ...

    async def apply(self, obj: Obj, *, force: bool = True) -> Obj:
        """Server-side apply as `hortator-operator`; `force` takes over fields that others own.

        Raises:
            ConflictError: without `force`, others own a field with another value; or the metadata names a
                uid or a resourceVersion that is not the object's.
        """
        ...

    async def create(self, obj: Obj) -> Obj:
        """Create an object. Raises AlreadyExistsError."""
        ...

    async def replace(self, obj: Obj) -> Obj:
        """Write a whole object back; ConflictError unless it still is at `metadata.resourceVersion`."""
        ...

    async def delete(self, ref: Ref, *, uid: str | None = None, grace_s: int | None = None) -> None:
        """Delete with background propagation. An absent object is fine, another uid is a ConflictError."""
        ...

    async def apply_status(self, obj: Obj) -> Obj:
        """Server-side apply of the status alone. Raises NotFoundError."""
        ...

    async def patch_labels(self, ref: Ref, labels: Mapping[str, str | None]) -> None:
        """Set labels, remove those that are None. Raises NotFoundError."""
        ...

    async def scale(self, ref: Ref, replicas: int, *, resource_version: str) -> None:
        """Write spec.replicas by the scale subresource, if the object is still at that version.

        Raises ConflictError when it is not, NotFoundError.
        """
        ...

    async def serves(self, api_version: str, kind: str) -> bool:
        """Whether the API server knows a kind."""
        ...
