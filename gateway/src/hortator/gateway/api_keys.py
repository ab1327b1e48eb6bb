"""API keys: who may generate, and for which tenants.

    keys:
    - name: evaluation           # shown in errors and logs; the key itself never is
      sha256: 9f86d081884c7d65...  # of the key, in hexadecimal: the file gives nobody a key
      tenants: [evaluation, ci]  # whose requests it may make; absent: anybody's

`hortator api-key` makes a key and its entry. Keys are random and long, so one hash is as good as many. The
file is read again when it changes: a key that is taken out is refused from its next call on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.runtime.followed_files import FollowedFiles

_SCHEME = "bearer "
MAX_NAME_CHARS = 64


class ApiKeysError(Exception):
    """The file cannot be used; one line that names it and what is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the holder of a key may do."""

    name: str
    tenants: frozenset[str] | None
    """None: requests of any tenant."""

    def tenant_of(self, tenant: str) -> str:
        """The tenant of a request that names `tenant`; a key for one tenant need not name it.

        Raises:
            GatewayError: FORBIDDEN, with what is allowed.
        """
        if self.tenants is None or tenant in self.tenants:
            return tenant
        if not tenant and len(self.tenants) == 1:
            return next(iter(self.tenants))
        allowed = ", ".join(sorted(self.tenants))
        named = tenant[:MAX_NAME_CHARS]
        message = f"tenant: API key {self.name!r} may not be used for {named!r} (allowed: {allowed})"
        raise GatewayError(ErrorKind.FORBIDDEN, message)


class ApiKeys:
    """Grants by the hashes of their keys."""

    def __init__(self, grants: Iterable[tuple[str, Grant]]) -> None:
        self._grants = dict(grants)

    def __len__(self) -> int:
        return len(self._grants)

    def grant(self, authorization: str) -> Grant:
        """What the `authorization` of a call allows.

        Raises:
            GatewayError: UNAUTHENTICATED.
        """
        if not authorization.lower().startswith(_SCHEME):
            raise GatewayError(
                ErrorKind.UNAUTHENTICATED, "authorization: an API key is wanted, as metadata 'Bearer <key>'"
            )
        key = authorization[len(_SCHEME) :].strip()
        # Found by a hash of 256 random bits: how long the search takes tells nothing of a key.
        grant = self._grants.get(sha256(key.encode()).hexdigest())
        if grant is None:
            raise GatewayError(ErrorKind.UNAUTHENTICATED, "authorization: this API key is not known here")
        return grant


class ApiKeyFile:
    """The keys in a file. `current` looks whether the file has changed."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ApiKeysError: it cannot be used.
        """
        self._path = Path(path)
        self._files = FollowedFiles([self._path], lambda _: self._read(), error=ApiKeysError, what="API keys")

    def current(self) -> ApiKeys:
        """The newest keys; those before, while the file cannot be used."""
        return self._files.current()

    def _read(self) -> ApiKeys:
        try:
            text = self._path.read_text(encoding="utf-8")
            document = _Document.model_validate(yaml.load(text, Loader=_Loader))  # noqa: S506  # a safe one
        except OSError as error:
            raise ApiKeysError(f"{self._path}: {error.strerror}") from None
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]
            where = ".".join(map(str, problem["loc"])) or "the file"
            raise ApiKeysError(f"{self._path}: {where[:MAX_NAME_CHARS]}: {problem['msg']}") from None
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ApiKeysError(
                f"{self._path}: not YAML (wanted: keys: [{{name, sha256, tenants}}])"
            ) from None
        return ApiKeys(
            (
                entry.sha256,
                Grant(name=entry.name, tenants=None if entry.tenants is None else frozenset(entry.tenants)),
            )
            for entry in document.keys
        )


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases: a list of keys needs none, and a few lines of them can become billions."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "no aliases here", None)
        return super().compose_node(parent, index)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tenants: Annotated[list[str], Field(min_length=1)] | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[_Entry]
