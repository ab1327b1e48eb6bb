"""How a client gets in where certificates or API keys are wanted.

One folder has what `hortator certificates` writes for a component: `ca.crt`, and `tls.crt` with `tls.key`
where servers ask for certificates too. With a certificate of its own a client names the component that it
wants; with the authority alone it checks the name that it dials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from hortator.runtime.certificates import CertificateError, TlsSettings
from hortator.runtime.grpc_server import open_channel
from hortator.runtime.transport import transport_of


class AccessError(ValueError):
    """A file cannot be used; one line that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a client shows; nothing by default."""

    tls_folder: Path | None = None
    """None: in the clear."""
    api_key: str = field(default="", repr=False)
    """Empty: none."""

    def open_channel(
        self, address: str, component: str, *, options: Sequence[tuple[str, Any]] = ()
    ) -> grpc.aio.Channel:
        """A channel to a component at `host:port`. Close it.

        Raises:
            AccessError: a file cannot be used.
        """
        folder = self.tls_folder
        if folder is None:
            return open_channel(address, options=options)
        if not (folder / "tls.crt").exists():
            credentials = grpc.ssl_channel_credentials(read_file(folder / "ca.crt"))
            return open_channel(address, credentials=credentials, options=options)
        files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
        settings = TlsSettings(**{name: str(folder / file) for name, file in files.items()})
        try:
            return transport_of(settings).open_channel(address, component, options=options)
        except CertificateError as error:
            raise AccessError(str(error)) from None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call to a gateway."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()


ANYBODY = Access()
"""Shows nothing."""


def read_api_key(path: Path) -> str:
    """The key in a file of one line.

    Raises:
        AccessError: there is none.
    """
    key = read_file(path).decode(errors="replace").strip()
    if not key.isascii() or not key.isprintable() or not key:
        raise AccessError(f"{path}: no API key in it (one line of text is wanted)")
    return key


def read_file(path: Path) -> bytes:
    """What a file holds.

    Raises:
        AccessError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise AccessError(f"{path}: {error.strerror}") from None
